"""Every published field of whole runs is looked up in one table; an exact release does not depend on who left.

A field that the table does not know fails, and so does an entry of the table that no run has.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from expunge import stages
from expunge.datasets.partitions import write_partition
from expunge.state import open_state
from expunge.tickets.batches import BatchStage
from tasks.adapters import access, git
from tasks.certification import certify
from tasks.leases import lineage_lease
from tasks.planning import champion_context, plan
from tasks.registration import register
from tasks.removal import remove
from tasks.training import register_opening
from tasks.unlearning import unlearn
from tasks.validation import validate
from tests import workspaces
from tests.conftest import Expunge, make_workspace
from tests.inventory.collect import Fields, published

TABLE = yaml.safe_load((Path(__file__).parents[1] / "inventory" / "classes.yaml").read_text())
CLASS_OF = {field: name for name, entry in TABLE.items() for field in entry["fields"]}
OPTIONAL = {field for entry in TABLE.values() for field in entry.get("optional", {})}
# Not equal between two runs, and no function of anybody's rows: drawn, or of the clock, or unreadable.
MASKED = ("random", "time", "salted", "sealed", "pseudonym", "size", "rendering")
FIRST, SECOND = "person-00001-x", "person-00003-x"


class Run:
    """A workspace from which two people left, one after the other, and what it has published."""

    def __init__(self, expunge: Expunge, url: str) -> None:
        for person in (FIRST, SECOND):
            expunge.ticket(person)
            assert expunge("run") == 0
        self.expunge, self.fields = expunge, published(expunge.state(), url)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """A Prefect server of this module's own: nobody else's runs are on it."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    from tasks.adapters.prefect_server import prefect_server

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        home = tmp_path_factory.mktemp("prefect")
        with prefect_server(home) as url:
            secret = os.environ["PREFECT_API_AUTH_STRING"]
            with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: secret}):
                yield url


@pytest.fixture(scope="module")
def convex(tmp_path_factory, server) -> Run:
    tmp = tmp_path_factory.mktemp("convex")
    return Run(make_workspace(tmp / "workspace", tmp, own_model=False), server)


def only_exact(root: Path) -> None:
    policy = root / "policy.yaml"
    text = policy.read_text().replace("[exact, unconditional, convex]", "[exact]")
    assert "[exact]" in text
    policy.write_text(text)
    git.commit(root, ["policy.yaml"], "Admit exact retraining alone")


@pytest.fixture(scope="module")
def exact(tmp_path_factory, server, convex) -> Run:
    tmp = tmp_path_factory.mktemp("exact")
    expunge = make_workspace(tmp / "workspace", tmp, own_model=False)
    only_exact(expunge.root)
    return Run(expunge, server)


def test_every_published_field_has_a_class(convex, exact):
    assert len(CLASS_OF) == sum(len(entry["fields"]) for entry in TABLE.values()), "a field is listed twice"
    unknown = sorted((convex.fields.keys() | exact.fields.keys()) - CLASS_OF.keys())
    assert unknown == [], "say in tests/inventory/classes.yaml what each of them is a function of"


def test_the_table_has_no_field_that_nothing_publishes(convex, exact):
    gone = CLASS_OF.keys() - convex.fields.keys() - exact.fields.keys() - OPTIONAL
    assert sorted(gone) == []
    assert CLASS_OF.keys() >= OPTIONAL


@pytest.mark.parametrize("which", ["convex", "exact"])
def test_nothing_tells_of_work_or_of_times_of_a_training(which, request):
    told = request.getfixturevalue(which).fields
    words = ("products", "seconds", "gradient_norm", "iterations", "parent_accuracy", "residual", "training.")
    # of params.yaml and policy.yaml, and Prefect's own
    public = ("max_products", "training.", "retry_delay_seconds", "details.content.")
    assert [f for f in told if any(w in f for w in words) and not any(w in f for w in public)] == []
    assert {f for f in told if f.startswith("model.json:training")} == set()


def test_what_a_training_took_goes_with_its_people(convex, exact):
    """Operator's alone, on the map, destroyed by the purge; only an exact release has its own."""
    for run, kept in ((convex, 0), (exact, 1)):
        state = run.expunge.state()
        folder = state.workspace.effort_dir
        champion = access.registry(state).champion()
        digest = champion.tags["model_digest"].removeprefix("sha256:")
        assert [path.stem for path in folder.glob("*")] == [digest] * kept
        context, _ = champion_context(state)
        assert context.timed == bool(kept)
        assert context.records == run.expunge.certificates()[-1]["retain"]["records"]
        left = [item for item in state.coverage.every() if item.kind == "training-effort"]
        assert [item.status for item in left] == (["purged"] if not kept else ["purged", "purged", "kept"])
        told = [
            row["status"]
            for c in run.expunge.certificates()
            for row in c["coverage"]
            if "took" in row["artefact"]
        ]
        assert told == (["purge pending", "purge pending", "purged"] if kept else ["purge pending", "purged"])


def test_a_plan_without_a_known_training_says_so(convex, capsys):
    capsys.readouterr()
    assert convex.expunge("plan", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    by_name = {row["mechanism"]: row for row in told["mechanisms"]}
    assert {row["seconds"] for row in by_name.values()} == {None}
    assert by_name["retrain"]["trainings"] == 1.0
    assert by_name["convex"]["trainings"] < 1.0
    assert told["cost"] == {"seconds": None, "seconds_a_ticket": None, "products_at_most": None}
    assert convex.expunge("plan") == 0
    assert "Costs are in trainings" in " ".join(capsys.readouterr().out.split())


def moved(root: Path, factor: float) -> None:
    """One attribute of the person who leaves is a little different."""
    state = open_state(root)
    (path,) = [
        path
        for path in state.workspace.dataset_dir.glob("*.parquet")
        if FIRST in pq.read_table(path, columns=["subject_id"])["subject_id"].to_pylist()
    ]
    frame = pq.read_table(path).to_pandas()
    frame.loc[frame["subject_id"] == FIRST, "age"] *= factor
    write_partition(pa.Table.from_pandas(frame, preserve_index=False), path)
    access.repository(state).track_dataset("Another measurement")


def erased_exactly(root: Path) -> Fields:
    """Train, and let the first person leave by exact retraining, up to registration."""
    state = open_state(root)
    for stage in stages.STAGES:
        getattr(stages, stage)(state.workspace)
    register_opening.fn()
    state = open_state(root)
    batch_id = state.batches.open_batch([state.tickets.submit(FIRST).ticket.ticket_id]).batch_id
    with lineage_lease(state):
        plan.fn(batch_id)
        remove.fn(batch_id)
        unlearn.fn(batch_id, "retrain")
        assert validate.fn(batch_id) == []
        certify.fn(batch_id)
        register.fn(batch_id)
    assert state.batches.get(batch_id).stage is BatchStage.REGISTERED
    return published(state, None)


def test_an_exact_release_is_the_same_whoever_left(tmp_path, monkeypatch):
    """The definition's own test: one attribute of the person is moved, the same randomness or none is left."""
    root = workspaces.make(tmp_path)
    only_exact(root)
    told: list[Fields] = []
    for number, factor in enumerate((0.99, 1.01)):
        twin = tmp_path / str(number) / "workspace"
        workspaces.copied(root, twin)
        monkeypatch.setenv("EXPUNGE_WORKSPACE", str(twin))
        moved(twin, factor)
        told.append(erased_exactly(twin))
    ours, theirs = told
    assert ours.keys() == theirs.keys()
    assert len(ours["weights.safetensors:weights.data"]) == 1
    compared = [field for field in ours if CLASS_OF.get(field) not in MASKED]
    assert {"weights.safetensors:weights.data", "run:data.metrics.accuracy"} <= set(compared)
    assert [field for field in compared if undrawn(ours[field]) != undrawn(theirs[field])] == []


def undrawn(values: list[str]) -> list[str]:
    """Texts without the ids of batches, which are drawn."""
    return [re.sub(r"\bb-[0-9a-f]{12}\b", "b-#", value) for value in values]
