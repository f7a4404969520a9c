"""The benchmarks at toy size: they run, converge and keep their form. Nothing here asserts a time."""

import contextlib
import json
import math
import shutil
import sys

import pytest
import torch

from benchmarks import (
    common,
    convex,
    hessian_product,
    orchestration,
    removal,
    solvers,
    tickets,
    verification,
)
from expunge.database import open_database
from expunge.datasets.partitions import read_dataset, write_partitions
from tests.tickets.conftest import postgres, url  # noqa: F401 - fixtures

CPU = torch.device("cpu")
TRAINING = {"l2": 1e-2}


def finite_ratios(node):
    """Every ratio and exponent of a document is a finite number; how many there are."""
    if isinstance(node, list):
        return sum(finite_ratios(item) for item in node)
    if not isinstance(node, dict):
        return 0
    count = 0
    for key, value in node.items():
        if key.startswith(("ratio_", "exponent")) or key == "ratio":
            assert math.isfinite(value), key
            count += 1
        count += finite_ratios(value)
    return count


def emitted(name, document, plot, tmp_path, capsys):
    common.emit(name, document, plot(document), tmp_path)
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / f"{name}.json").read_text())
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert document["hardware"]["threads"] >= 1


def test_solvers():
    document = solvers.measure(
        common.synthetic(300, 6, 3),
        CPU,
        forgotten=20,
        hidden=(5,),
        epochs=2,
        steps=60,
        published_steps=30,
        chains=2,
        scale=8.0,
    )
    for form in ("conjugate_gradients", "conjugate_gradients_streamed"):
        assert document[form]["status"] == "converged"
        assert document[form]["relative_residual"] <= document["system"]["tolerance"]
    assert document["system"]["retained_records"] == 280
    # both forms of the recursion solve the same system, up to the noise of their mini-batches
    for form in ("lissa_published", "lissa_vectorised"):
        assert document[form]["relative_residual"] < 0.5, form
    assert document["ratios"].pop("exact_over_cg") is None  # the exact inverse was not asked for
    assert all(math.isfinite(ratio) for ratio in document["ratios"].values())
    assert document["lissa_published"]["seconds"] == pytest.approx(
        2 * document["lissa_published"]["seconds_run"]
    )
    assert "linearly" in document["lissa_published"]["scaled"]


def test_published_lissa_solves_the_damped_system():
    data = common.synthetic(1, 4, 3)
    spec = common.model_spec("mlp", 4, 3, hidden=[3])
    network = solvers.build(spec)
    objective = solvers.NetworkObjective(network, data.features, data.labels, spec.l2)
    weights = network.initial()
    right = objective.gradient(weights)
    # every batch is one record many times over: no noise is left
    one = data.features, data.labels
    x = solvers.published_lissa(
        spec, weights, *one, right, damping=3.0, steps=400, chains=1, batch=4, scale=20.0
    )
    residual = objective.hessian_product(weights, x) + 3.0 * x - right
    assert float(residual.norm()) < 1e-10 * float(right.norm())


def test_needed_products_by_hand():
    kept = hessian_product.needed_products([4, 3, 2], 10, kept=True)
    # first layer: a W'^T and e'^T a; second: two of each of three kinds
    assert sum(product.flops for product in kept) == 2 * 10 * (4 * 3 * 2 + 3 * 2 * 6)
    again = hessian_product.needed_products([4, 3, 2], 10, kept=False)
    assert sum(product.flops for product in again) == 2 * 10 * (4 * 3 * 3 + 3 * 2 * 8)


def test_needed_products_are_the_matrix_products_that_are_run():
    """Counted by the profiler: no matrix product is executed that the count does not list."""
    data = common.synthetic(50, 6, 10)
    network = hessian_product._network(6, 10, torch.float64, CPU)
    objective = hessian_product.NetworkObjective(network, data.features, data.labels, 0.1)
    product = objective.hessian_at(network.initial())
    vector = network.initial()
    product(vector)  # the first one folds what does not depend on the vector
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True) as profile:
        product(vector)
    run = sum(event.flops for event in profile.key_averages() if event.key in ("aten::mm", "aten::addmm"))
    needed = hessian_product.needed_products([6, 32, 32, 10], 50, kept=True)
    assert run == sum(product.flops for product in needed)


def test_hessian_product(tmp_path, capsys):
    document = hessian_product.measure(200, CPU, width=12, memory=False)
    assert finite_ratios(document) == 4
    assert document["float64"]["relative_difference"] < 1e-10
    assert document["float32"]["relative_difference"] < 1e-4
    assert document["float32"]["hessian_at"]["where_it_goes"]["top_operators_seconds"]
    emitted("hessian_product", document, hessian_product.plot, tmp_path, capsys)


@pytest.mark.parametrize("work", hessian_product._WORKS)
def test_peak_of_memory(work):
    peak = hessian_product.memory_worker(work, 300, 8, 10, torch.float32, CPU)
    assert peak["bytes"] >= 0
    assert peak.get("solver", "converged") == "converged"


def test_peak_of_memory_in_a_fresh_process():
    peak = common.fresh_process(
        "benchmarks.hessian_product", ["--worker", "training-step", "--records", "100000", "--width", "8"]
    )
    # one chunk's activations of two hidden layers at least
    assert peak["bytes"] > peak["chunk"] * 4 * 32 * 2


def test_peak_of_memory_sees_an_allocation():
    assert common.extra_bytes(lambda: torch.ones(40_000_000), CPU) > 1.5e8


def test_convex():
    data = common.synthetic(400, 5, 3, test=100)
    for name, hyper in (("softmax", {}), ("linearized-mlp", {"hidden": [4]})):
        spec = common.model_spec(name, 5, 3, TRAINING, **hyper)
        measured = convex.measure_model(spec, data, rank=10, sample=100)
        assert [removal["records_removed"] for removal in measured["removals"]] == [1, 100]
        assert all(removal["within_bound"] for removal in measured["removals"])
        assert all(removal["unlearn"]["test_accuracy"] > 0.5 for removal in measured["removals"])
        assert finite_ratios(measured) == 2 * 5
        assert sum(measured["profile"].values()) == pytest.approx(1)
        assert measured["profile"]["final check"] > 0


def test_convex_removes_the_person_with_most_rows():
    chosen = convex.removals(common.np.array(["b", "a", "b", "c"]))
    assert [mask.tolist() for mask in chosen.values()] == [[False, True, False, True]]


@pytest.mark.usefixtures("url")
def test_tickets(request):
    database = open_database(request.getfixturevalue("url"))
    measured = tickets.measure(database, 400, 20)
    assert all(figures["statements"] > 0 and figures["seconds"] > 0 for figures in measured.values())
    assert measured["open a batch of 1"]["statements"] == measured["open a batch of 40"]["statements"]
    assert {"ticket list", "close 40", "sweep: alarms"} < set(measured)
    with pytest.raises(SystemExit, match="has tickets"):
        tickets.measure(database, 400, 20)
    database.dispose()


def test_tickets_on_sqlite_alone(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["benchmark", "--records", "200", "--out", str(tmp_path)])
    tickets.main()
    document = json.loads(capsys.readouterr().out)
    assert (document["tickets"], document["batches"], list(document["databases"])) == (200, 10, ["sqlite"])
    assert json.loads((tmp_path / "tickets.json").read_text()) == document


def test_the_made_up_dataset_of_removal_is_placed_as_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr("expunge.nonces.draw", lambda: "0" * 32)  # else no two writes are alike
    people = removal.generate(tmp_path / "made", 3000, 12)
    frame = read_dataset(tmp_path / "made")
    assert frame["record_id"].tolist() == list(range(3000))
    assert frame["subject_id"].nunique() == people
    assert frame.groupby("subject_id")["split"].nunique().max() == 1
    write_partitions(frame, tmp_path / "written", removal.KEY, 12)
    made = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "written").iterdir()}


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's figures of a process are Linux's")
@pytest.mark.parametrize(
    ("rows", "partitions", "subjects"),
    [
        (20_000, 32, 5),
        pytest.param(
            removal.ROWS,
            removal.PARTITIONS,
            removal.SUBJECTS,
            marks=[pytest.mark.slow, pytest.mark.timeout(3600)],
        ),
    ],
)
def test_removal_costs_what_it_touches(rows, partitions, subjects, tmp_path, capsys, monkeypatch):
    for name in ("DVC_NO_ANALYTICS", "DVC_SITE_CACHE_DIR"):  # set by Repository: restored after the test
        monkeypatch.setenv(name, "")
    try:
        document = removal.measure(tmp_path / "work", rows=rows, partitions=partitions, subjects=subjects)
    finally:
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
    done, touched, versions = document["removal"], document["touched"]["partitions"], document["versions"]
    assert done["removed"] == done["records"] == document["records_removed"] >= subjects
    assert done["partitions"] == touched < partitions
    assert 0 < done["ratio_written_of_touched"] <= 1.2
    assert done["bytes_of_imports"] < done["peak_bytes"] < 2**30
    assert versions["first_objects"] == partitions + 1
    assert versions["pushed_objects"] == touched + 1  # and the manifest
    assert versions["pushed_bytes"] < document["touched"]["bytes"] + 200 * partitions
    assert finite_ratios(document) == 7
    document["hardware"] = common.hardware(CPU)
    emitted("removal", document, removal.plot, tmp_path, capsys)


@pytest.mark.slow  # a workspace is trained
def test_orchestration(tmp_path, capsys, prefect_api):
    with contextlib.redirect_stdout(sys.stderr):
        document = orchestration.measure(tmp_path / "work", people=80, many=12, repeats=1, cold=False)
    document["hardware"] = common.hardware(CPU)
    one, many = document["one_ticket"], document["many_tickets"]
    assert (one["tickets"], many["tickets"]) == (1, 12)
    assert many["records"] >= 12
    for batch in (one, many):
        assert sum(batch["by_step"].values()) == pytest.approx(batch["orchestration_seconds"])
        assert batch["numerical_seconds"]["unlearning"] > 0
        assert all(seconds > 0 for seconds in batch["by_step"].values())
    # of everyone but the tickets database the same is asked, however many people leave
    for what in ("processes started", "openings of the DVC repository", "statements to MLflow's database"):
        assert one["counts"][what] == many["counts"][what] > 0, what
    assert finite_ratios(document) == 2
    emitted("orchestration", document, orchestration.plot, tmp_path, capsys)


def test_verification():
    document = verification.measure(120, 12)
    assert document["certificates"] == document["verified"] == 12
    assert document["memory_bytes"] > 0
