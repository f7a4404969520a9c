"""The whole path on one's own data and one's own network, through the command line and a real Prefect server."""

import json
import sqlite3
from pathlib import Path

import pytest
import torch
import yaml

from expunge.curvature.linearized import LinearizedObjective
from expunge.curvature.preconditioner import keep_curvature
from expunge.datasets.partitions import read_dataset
from expunge.datasets.preprocessing import encode
from expunge.evidence.annex import open_annex
from expunge.evidence.ledger_file import parse_ledger
from expunge.evidence.verify_ledger import verify_ledger
from expunge.models.kept import load_kept
from expunge.models.serving import load_model
from expunge.models.zoo import build
from tasks.adapters import access, git
from tests.conftest import RARE_WARD_PERSON
from tests.second_device import SECOND as SECOND_DEVICE
from tests.second_device import SecondDevice

TAGS = {
    "epsilon",
    "delta",
    "guarantee",
    "mechanism",
    "accumulated_error",
    "composed_epsilon",
    "dataset_before",
    "dataset_after",
    "parent_version",
    "certificate_id",
}
SUMMARY = {
    "batch_id",
    "tickets",
    "mechanism",
    "guarantee",
    "epsilon",
    "delta",
    "model_version",
    "certificate_id",
    "seconds",
}
FIRST, SECOND = "person-00005-x", "person-00011-x"


def policy(clinic, **changes):
    path = clinic.root / "policy.yaml"
    content = yaml.safe_load(path.read_text())
    for name, value in changes.items():
        content[name] = {**content[name], **value}
    path.write_text(yaml.safe_dump(content))
    git.commit(clinic.root, ["policy.yaml"], "Change policy")


@pytest.fixture(scope="module")
def erased(clinic):
    """The first batch: two people with six rows each, and one on hold."""
    before = read_dataset(clinic.root / "data" / "dataset")
    clinic.ticket(FIRST)
    clinic.ticket(SECOND)
    held = clinic.ticket("person-00003-x")
    assert clinic("ticket", "hold", held, "--reason", "legal claim") == 0
    assert clinic("run") == 0
    clinic.rows_before = before
    clinic.held = held
    return clinic


def test_all_rows_of_a_person_leave_in_one_batch(erased):
    after = read_dataset(erased.root / "data" / "dataset")
    gone = erased.rows_before[erased.rows_before["subject_id"].isin([FIRST, SECOND])]
    assert len(gone) == 12
    assert len(after) == len(erased.rows_before) - 12
    assert not after["subject_id"].isin([FIRST, SECOND]).any()
    (batch,) = erased.batches()
    assert batch.data["records"] == 12


def test_held_tickets_stay(erased):
    assert erased.state().tickets.get(erased.held).state == "on_hold"


def test_certificate_is_convex_and_within_policy(erased):
    (certificate,) = erased.certificates()
    assert certificate["guarantee"] == "convex"
    assert certificate["epsilon"] <= 0.05 * (1 + 1e-6)
    assert not certificate["vacuous"]
    assert certificate["forget"] == {"records": 12, "subjects": 2}


def test_the_public_certificate_holds_no_unnoised_figure(erased):
    (certificate,) = erased.certificates()
    folder = erased.root / ".expunge" / "evidence" / certificate["certificate_id"]
    annex = open_annex(
        (folder / "annex.sealed").read_bytes(), erased.root / ".expunge" / "keys" / "auditor.key"
    )
    assert annex["realised_error_bound"] <= certificate["error_bound"]["value"]
    text = json.dumps(certificate) + (folder / "ledger.json").read_text()
    for name in ("gradient_norm", "realised", "products", "seconds"):
        assert name in json.dumps(annex) or name == "realised"
        assert f'"{name}' not in text
    assert repr(annex["gradient_norm"]) not in text


def test_released_weights_are_noised_and_the_noiseless_ones_nowhere(erased):
    model = load_model(erased.root / "build" / "model", erased.root)
    frame = read_dataset(erased.root / "data" / "dataset")
    import torch

    from expunge.datasets.preprocessing import encode
    from expunge.models.training import train

    train_rows = frame[frame["split"] == "train"]
    encoded = encode(train_rows, model.preprocessing)
    retrained = train(
        model.spec,
        torch.from_numpy(encoded.features),
        torch.from_numpy(encoded.labels),
        search=erased.root,
    ).weights
    distance = float((model.weights - retrained).norm())
    expected = 0.01 * len(model.weights) ** 0.5
    assert 0.5 * expected < distance < 1.6 * expected  # sigma sqrt(d), not the 1e-4 of the bound


def test_lineage_in_mlflow(erased):
    registry = access.registry(erased.state())
    champion = registry.champion()
    (certificate,) = erased.certificates()
    assert champion.version == 2
    for name in [
        "epsilon",
        "delta",
        "guarantee",
        "mechanism",
        "accumulated_error",
        "composed_epsilon",
        "dataset_before",
        "dataset_after",
        "parent_version",
        "expunge.batch",
        "certificate_id",
    ]:
        assert champion.tags[name], name
    assert champion.tags["certificate_id"] == certificate["certificate_id"]
    artifacts = {item.path for item in registry.client.list_artifacts(champion.run_id)}
    linked = {
        "certificate.json",
        "certificate.html",
        "ledger.json",
        "accumulated_error.png",
        "gates.json",
        "purge.json",
    }
    assert linked <= artifacts
    description = registry.client.get_model_version(registry.name, "2").description
    assert "Parent: [version 1](#/models/" in description
    assert "Child: none yet" in description
    assert all(f"/{champion.run_id}/artifacts/{name})" in description for name in linked)
    run = registry.client.get_run(champion.run_id)
    inputs = {i.tags[0].value: json.loads(i.dataset.source) for i in run.inputs.dataset_inputs}
    for context, when in (("before removal", "before"), ("training", "after")):
        version = certificate["dataset"][when]
        assert inputs[context]["dvc_md5"] == version["md5"]
        assert inputs[context]["git_revision"] == version["git_revision"]
        assert version["md5"] in description
        assert version["git_revision"] in description


def test_pages_say_what_was_purged_and_what_serves(erased):
    registry = access.registry(erased.state())
    first = registry.client.get_model_version(registry.name, "1")
    purged = first.tags["weights.purged_at"]
    assert f"weights purged at {purged}" in first.description
    assert f"Child: [version 2](#/models/{registry.name}/versions/2)" in first.description
    second = registry.client.get_model_version(registry.name, "2").description
    assert f"superseded weights of version 1 purged at {purged}, record in artifacts" in second
    page = registry.client.get_registered_model(registry.name).description
    assert f"**Current: [version 2](#/models/{registry.name}/versions/2).**" in page
    assert f"superseded, weights purged at {purged}" in page
    record = registry.client.download_artifacts(registry.champion().run_id, "purge.json")
    (entry,) = [e for e in erased.state().ledger.entries(registry.name) if e.kind == "purge"]
    assert json.loads(Path(record).read_text()) == entry.to_json()

    from tasks.adapters.model_pages import write_pages

    registry.client.update_model_version(registry.name, "1", "as a killed run left it")
    write_pages(registry)
    assert registry.client.get_model_version(registry.name, "1").description == first.description


def test_the_ledger_beside_the_certificate_proves_the_purge_here_and_in_mlflow(erased):
    (certificate,) = erased.certificates()
    state, registry = erased.state(), access.registry(erased.state())
    file = state.workspace.evidence_dir / certificate["certificate_id"] / "ledger.json"
    ledger = parse_ledger(json.loads(file.read_text()))
    assert [entry.kind for entry in ledger.entries] == [
        "opening",
        "policy",
        "alias",
        "release",
        "alias",
        "purge",
    ]
    assert verify_ledger(ledger, keys=state.signing.keyring()).consistent
    logged = registry.client.download_artifacts(registry.champion().run_id, "ledger.json")
    assert json.loads(Path(logged).read_text()) == json.loads(file.read_text())


def test_parent_weights_are_gone_and_its_evidence_stays(erased):
    registry = access.registry(erased.state())
    parent = registry.get(1)
    assert "weights.purged_at" in parent.tags
    assert registry.client.get_run(parent.run_id).info.run_id == parent.run_id
    assert len(list((erased.root / ".expunge" / "mlflow").rglob("weights.safetensors"))) == 1


def test_nothing_that_can_be_seen_names_a_person(erased):
    """Ids are long here: their bytes must be nowhere, in Prefect, MLflow, git, logs, tickets database or files."""
    needles = [FIRST.encode(), SECOND.encode()]
    for path in erased.root.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(needle in content for needle in needles), path
    for name, stream in git.objects(erased.root):
        content = stream.read()
        assert not any(needle in content for needle in needles), name


def test_prefect_saw_the_batch_id_alone(erased, prefect_api):
    from tasks.adapters.prefect_api import api

    runs = api(prefect_api, "/flow_runs/filter", {"limit": 50})
    erase = [run for run in runs if run["parameters"].get("batch_id") == erased.batches()[0].batch_id]
    assert [run["parameters"] for run in erase] == [{"batch_id": erased.batches()[0].batch_id}]
    assert erase[0]["state"]["type"] == "COMPLETED"
    logs = api(prefect_api, "/logs/filter", {"limit": 200})
    assert logs
    text = json.dumps([runs, logs])
    assert FIRST not in text
    assert SECOND not in text


def test_git_names_batch_and_counts(erased):
    (batch,) = erased.batches()
    log = git.git(erased.root, "log", "--format=%s")
    assert f"Remove 12 records of 2 subjects ({batch.batch_id})" in log
    assert git.git(erased.root, "status", "--porcelain", "--untracked-files=no") == ""


def test_closed_tickets_keep_the_pseudonym_alone(erased):
    with sqlite3.connect(erased.root / ".expunge" / "tickets.db") as database:
        rows = database.execute("SELECT subject_id, pseudonym FROM tickets WHERE state = 'closed'").fetchall()
    assert len(rows) == 2
    assert all(subject is None and pseudonym.startswith("p1-") for subject, pseudonym in rows)


def test_an_erased_person_is_told_apart_from_an_unknown_one(erased, capsys):
    assert erased("ticket", "submit", "--subject", FIRST) == 2
    assert "erased already" in capsys.readouterr().err
    assert erased("ticket", "submit", "--subject", "person-of-nowhere") == 2
    assert "nobody of that id" in capsys.readouterr().err


def test_evidence_verifies_and_tampering_shows(erased, tmp_path, capsys):
    (certificate,) = erased.certificates()
    assert erased("certificate", "verify", certificate["certificate_id"]) == 0
    assert erased("ledger", "verify") == 0
    assert erased("purge", "verify", "--subject", FIRST) == 0
    capsys.readouterr()
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps({**certificate, "epsilon": 0.001}))
    assert erased("certificate", "verify", str(forged), "--json") == 1
    printed = json.loads(capsys.readouterr().out.split("\n{", 1)[0])
    assert printed["verified"] is False
    assert printed["findings"]


def test_a_category_that_vanishes_with_a_person(erased):
    """The rare ward leaves with its only patient: another parameter space, the same guarantee."""
    parent = load_model(erased.root / "build" / "model", erased.root)
    frame = read_dataset(erased.root / "data" / "dataset")
    split = set(frame[frame["subject_id"] == RARE_WARD_PERSON]["split"])
    erased.ticket(RARE_WARD_PERSON)
    assert erased("run") == 0
    child = load_model(erased.root / "build" / "model", erased.root)
    if split == {"train"}:
        assert "ward=rare" in parent.preprocessing.feature_names
    assert "ward=rare" not in child.preprocessing.feature_names
    certificate = erased.certificates()[-1]
    assert certificate["sequential"]["step"] == 2
    assert certificate["sequential"]["accumulated_error"] == pytest.approx(
        2 * certificate["error_bound"]["value"]
    )
    assert erased("certificate", "verify", certificate["certificate_id"]) == 0


def test_a_failed_utility_gate_escalates_to_exact_retraining(erased):
    policy(
        erased,
        release={"sigma": 100.0},
        gates={"max_accuracy_drop": 0.01},
        ledger={"accumulated_error": 100.0},
    )
    erased.ticket("person-00023-x")
    assert erased("run") == 0
    batch, certificate = erased.batches()[-1], erased.certificates()[-1]
    assert [r["mechanism"] for r in batch.data["refusals"]] == ["convex"]
    assert "utility" in batch.data["refusals"][0]["reason"]
    assert (certificate["guarantee"], certificate["epsilon"]) == ("exact", 0.0)
    assert batch.draws == 1  # the discarded one stays charged
    assert erased("certificate", "verify", certificate["certificate_id"]) == 0
    assert certificate["sequential"]["accumulated_error"] == 0.0
    policy(erased, release={"sigma": 0.01}, gates={"max_accuracy_drop": 0.5})


def test_a_planted_residue_fails_the_batch_until_it_is_removed(erased, capsys):
    subject = "person-00029-x"
    planted = erased.root / "notes.txt"
    planted.write_text(f"call {subject} back")
    ticket = erased.ticket(subject)
    assert erased("run") == 1
    assert "notes.txt" in capsys.readouterr().err
    assert erased.state().tickets.get(ticket).state == "failed"
    planted.unlink()
    assert erased("run") == 0
    assert erased.state().tickets.get(ticket).state == "closed"


def test_no_admissible_mechanism_fails_the_batch_and_changes_nothing(erased, capsys):
    rows = len(read_dataset(erased.root / "data" / "dataset"))
    champion = access.registry(erased.state()).champion().version
    policy(erased, admit={"classes": ["conditional"]})
    ticket = erased.ticket("person-00035-x")
    assert erased("run") == 1
    assert "no mechanism" in capsys.readouterr().err
    assert erased.state().tickets.get(ticket).state == "failed"
    assert len(read_dataset(erased.root / "data" / "dataset")) == rows
    assert access.registry(erased.state()).champion().version == champion
    policy(erased, admit={"classes": ["exact", "convex"]})
    assert erased("run") == 0
    assert erased.state().tickets.get(ticket).state == "closed"


@pytest.mark.parametrize(
    ("person", "changes", "mechanism"),
    [
        ("person-00017-x", {}, "output-perturbation"),
        (
            "person-00020-x",
            {"noisy_finetune": {"steps": 5}, "unconditional": {"epsilon": 0.4}},
            "noisy-finetune",
        ),
        (
            "person-00026-x",
            {"noisy_finetune": {"steps": 5, "form": "model-clipping"}, "unconditional": {"epsilon": 0.4}},
            "noisy-finetune",
        ),
    ],
)
def test_unconditional_mechanisms_release_certificates_that_verify(
    erased, monkeypatch, person, changes, mechanism
):
    from expunge.mechanisms import planner

    only = [m for m in planner.MECHANISMS if m.name in (mechanism, "retrain")]
    monkeypatch.setattr(planner, "MECHANISMS", tuple(only))
    monkeypatch.setattr(planner.make_plan, "__defaults__", (tuple(only),))
    policy(erased, admit={"classes": ["unconditional"]}, ledger={"accumulated_error": 100.0}, **changes)
    erased.ticket(person)
    assert erased("run") == 0
    certificate = erased.certificates()[-1]
    assert (certificate["mechanism"], certificate["guarantee"]) == (mechanism, "unconditional")
    assert certificate["epsilon"] == pytest.approx(changes.get("unconditional", {"epsilon": 0.5})["epsilon"])
    assert erased("certificate", "verify", certificate["certificate_id"]) == 0
    policy(erased, admit={"classes": ["exact", "convex"]})


def test_kept_curvature_serves_one_release_and_is_built_anew_from_the_retain_set(erased):
    """Trap: reused, it would make the next release more than post-processing of this one."""
    folder = erased.root / ".expunge" / "curvature"
    (before,) = folder.iterdir()
    erased.ticket("person-00032-x")
    assert erased("run") == 0
    (after,) = folder.iterdir()
    assert after.name != before.name
    state = erased.state()
    batch = erased.batches()[-1]
    assert batch.data["kept_curvature"]
    assert after.stem == batch.data["model_digest"].removeprefix("sha256:")
    kept = load_kept(folder, batch.data["model_digest"])
    frame = read_dataset(erased.root / "data" / "dataset")
    train_rows = frame[frame["split"] == "train"]
    assert kept.records == len(train_rows)
    model = load_model(erased.root / "build" / "model", erased.root)
    encoded = encode(train_rows, model.preprocessing)
    network = build(model.spec, erased.root)
    features, labels = torch.from_numpy(encoded.features), torch.from_numpy(encoded.labels)
    objective = LinearizedObjective(network, network.initial(), features, labels, model.spec.l2)
    again = keep_curvature(objective, model.weights, rank=model.spec.kept_rank, sample=model.spec.kept_sample)
    v = torch.linspace(-1, 1, network.size, dtype=again.factor.dtype)
    torch.testing.assert_close(kept.apply(v), again.apply(v))
    rows = {row["artefact"]: row["status"] for row in erased.certificates()[-1]["coverage"]}
    assert rows["curvature kept from the parent's release"] == "purge pending"
    assert state.ledger.entries(state.lineage)[-1].kind == "purge"


def test_run_json_prints_one_document(erased, capsys):
    capsys.readouterr()
    assert erased("run", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    erased.ticket("person-00041-x")
    assert erased("run", "--json") == 0
    (batch,) = json.loads(capsys.readouterr().out)
    for name in [
        "batch_id",
        "tickets",
        "mechanism",
        "guarantee",
        "epsilon",
        "delta",
        "model_version",
        "certificate_id",
        "seconds",
    ]:
        assert batch[name] is not None, name


def test_dvc_pipeline_is_in_step_after_a_release(erased):
    """`dvc repro` must not train over a released model."""
    digest = (erased.root / "build" / "model" / "weights.safetensors").read_bytes()
    access.repository(erased.state()).reproduce()
    assert (erased.root / "build" / "model" / "weights.safetensors").read_bytes() == digest


def test_earlier_partitions_are_nowhere(erased):
    root = Path(erased.root)
    repo = access.repository(erased.state())
    current = set(repo.manifest(repo.current().md5).values())
    for store in (
        root / ".dvc" / "cache" / "files" / "md5",
        root / ".expunge" / "dvc-remote" / "files" / "md5",
    ):
        objects = {path.parent.name + path.name for path in store.glob("??/*") if path.suffix != ".dir"}
        history = {obj for md5 in repo.history() for obj in repo.manifest(md5).values()}
        assert current <= objects
        touched = {p for b in erased.batches() for p in b.data["partitions"]}
        stale = {o for md5 in repo.history() for n, o in repo.manifest(md5).items() if n in touched} - current
        assert not objects & stale
        assert history


def test_a_lineage_is_trained_once(erased, capsys):
    before = access.registry(erased.state()).champion().version
    assert erased("train") == 2
    assert "trained already" in capsys.readouterr().err
    assert access.registry(erased.state()).champion().version == before


def test_one_run_at_a_time(erased, capsys):
    state = erased.state()
    state.batches.acquire_lease(state.lineage, "another-host:1", 60)
    ticket = erased.ticket("person-00047-x")
    try:
        assert erased("run") == 1
        assert "another run is at work" in capsys.readouterr().err
        assert state.tickets.get(ticket).state == "verified"
    finally:
        state.batches.release_lease(state.lineage, "another-host:1")
    assert erased("run") == 0
    assert state.tickets.get(ticket).state == "closed"


def test_the_certificate_names_its_code(erased):
    code = erased.certificates()[-1]["code"]
    assert len(code["commit"]) == 40
    assert code["lock_digest"].startswith("sha256:")


def test_a_batch_waits_for_a_device_that_is_not_here_and_computes_on_the_one_chosen(
    erased, monkeypatch, tmp_path, capsys
):
    before = access.repository(erased.state()).current()
    ticket = erased.ticket("person-00053-x")
    monkeypatch.setenv("EXPUNGE_DEVICE", "cuda:99")
    assert erased("run") == 2
    assert "EXPUNGE_DEVICE names no device" in capsys.readouterr().err
    assert access.repository(erased.state()).current() == before

    monkeypatch.delenv("EXPUNGE_DEVICE")
    monkeypatch.setattr("expunge.devices.chosen_device", lambda: SECOND_DEVICE)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with SecondDevice() as second:
        assert erased("run") == 0
    assert second.operations > 0
    assert erased.state().tickets.get(ticket).state == "closed"
    registry = access.registry(erased.state())
    params = registry.client.get_run(registry.champion().run_id).data.params
    assert params["device"] == SECOND_DEVICE.type
