"""The coverage map through the command line: all is on it, what is declared stops a batch, nothing is overstated."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from expunge import nonces
from expunge.datasets.partitions import read_dataset
from expunge.errors import CoverageError, InputError, ResidueError, VerificationError
from expunge.evidence.coverage import Kind
from expunge.evidence.ledger import LedgerEntry, parse_entries
from expunge.state import open_state
from expunge.tickets.purge_journal import Item
from tasks.adapters import access, dvc_objects, git
from tasks.adapters.registry import PURGED_TAG
from tasks.coverage import METRICS_TAG, mark_purged, saw
from tasks.declarations import declare, resolve
from tasks.ingest import import_dump
from tasks.removal import remove
from tests.conftest import make_clinic
from tests.workspaces import PEOPLE, make

GOLDEN = Path(__file__).parents[1] / "golden" / "certificate-v1-convex"
FIRST, SECOND = "person-00005-x", "person-00011-x"
# Made by init, training or a release, and without anything of a person's rows.
NO_PERSON = (
    *(".git/", ".gitignore", ".dvcignore", ".dvc/.gitignore", ".dvc/config", ".dvc/tmp/"),
    *("policy.yaml", "params.yaml", "dvc.yaml", "dvc.lock", "clinic_model.py", "__pycache__/"),
    *("data/contract.yaml", "data/dataset.dvc", "data/.gitignore"),  # names of columns and versions
    *(".expunge/workspace.json", ".expunge/keys/", ".expunge/prefect/", ".expunge/dvc-site-cache/"),
    ".expunge/placement.json",  # names, sizes and times of partitions
    ".expunge/tickets.db",  # subject ids of open tickets: a row of every certificate speaks of them
    ".expunge/mlflow/mlflow.db",  # counts, tags and the metrics, which are on the map by their run
)
IN_RUNS = {"certificate.json", "certificate.html", "ledger.json", "accumulated_error.png", "annex.sealed"}


def artefacts(clinic, capsys):
    capsys.readouterr()
    assert clinic("coverage", "list", "--json") == 0
    return json.loads(capsys.readouterr().out)


def uncovered(clinic, capsys):
    """Files that are neither on the map nor known to hold nobody."""
    places = [place for item in artefacts(clinic, capsys) for place in item["where"].split("; ") if place]
    folders = {"DVC cache and remote": (".dvc/cache/files/", ".expunge/dvc-remote/")}
    prefixes = tuple(prefix for place in places for prefix in folders.get(place, (place,)))
    ids = [place.split()[-1] for place in places if place.startswith("MLflow ")]
    assert any(name.startswith("m-") for name in ids)
    found = []
    for path in clinic.root.rglob("*"):
        name = path.relative_to(clinic.root).as_posix()
        mlflow = name.startswith(".expunge/mlflow/artifacts/")
        if not path.is_file() or name.startswith((*prefixes, *NO_PERSON)):
            continue
        if mlflow and (path.name in IN_RUNS or any(part in ids for part in path.parts)):
            continue
        found.append(name)
    return found


def add(clinic, capsys, *arguments):
    capsys.readouterr()
    assert clinic("coverage", "add", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)["artefact_id"]


def foreign(folder, *, clean=True, purged=True, rolled_back=()):
    """Another workspace's certificate, with its ledger after the purge beside it."""
    folder.mkdir()
    content = json.loads((GOLDEN / "certificate.json").read_text())
    entries = json.loads((GOLDEN / "ledger.json").read_text())
    name, batch = content["certificate_id"], content["batch"]
    release = next(entry for entry in entries if entry["certificate_id"] == name)
    details = {
        "scan": {"clean": clean, "hits": []},
        "rolled_back": [{"certificate_id": c} for c in rolled_back],
    }
    purge = {
        **{
            name: release[name]
            for name in ("lineage", "step", "accumulated_error", "uniform_error", "issued_at")
        },
        **{"sequence": len(entries), "previous": parse_entries(entries)[-1].digest(), "kind": "purge"},
        **{"batch": batch, "certificate_id": name, "details": details},
    }
    entries += [LedgerEntry.model_validate(purge).to_json()] if purged else []
    (folder / "certificate.json").write_text(json.dumps(content))
    (folder / "ledger.json").write_text(json.dumps(entries))
    return folder / "certificate.json"


def rows(certificate):
    return {row["artefact"]: row for row in certificate["coverage"]}


def run_refused(clinic, capsys):
    before = access.repository(clinic.state()).current()
    assert clinic("run") == 1
    assert access.repository(clinic.state()).current() == before
    return capsys.readouterr().err


def test_everything_that_training_makes_is_on_the_map(clinic, capsys):
    assert uncovered(clinic, capsys) == []
    kinds = [item["kind"] for item in artefacts(clinic, capsys)]
    assert sorted(kinds) == sorted([*Kind][: [*Kind].index(Kind.CERTIFICATE)])
    planted = clinic.root / ".expunge" / "features.npy"
    planted.write_bytes(b"1")
    assert uncovered(clinic, capsys) == [".expunge/features.npy"]
    planted.unlink()


BAD = {
    "no origin": (["add", "--kind", "embedding", "--name", "x"], "one of --from-version"),
    "two origins": (
        ["add", "--kind", "embedding", "--name", "x", "--from-version", "1", "--parent", "a-0"],
        "one of --from-version",
    ),
    "own kind": (["add", "--kind", "model-version", "--name", "x", "--from-version", "1"], "derived-model"),
    "unknown version": (
        ["add", "--kind", "export", "--name", "x", "--from-version", "9"],
        "no such model version",
    ),
    "unknown dataset": (["add", "--kind", "export", "--name", "x", "--from-dataset", "0.dir"], "no such artefact"),
    "unknown parent": (["add", "--kind", "export", "--name", "x", "--parent", "a-0"], "no such artefact"),
    "unnamed": (["add", "--kind", "export", "--name", " ", "--from-version", "1"], "a name is needed"),
    "a person's name": (
        ["add", "--kind", "export", "--name", f"list of {FIRST}", "--from-version", "1"],
        "names the person",
    ),
    "resolve, nothing said": (["resolve", "a-0"], "--exception REASON"),
    "resolve, twice": (["resolve", "a-0", "--exception", "x", "--status", "purged"], "--exception REASON"),
    "resolve, no reason": (["resolve", "a-0", "--status", "purged"], "a reason is needed"),
    "resolve, unknown": (["resolve", "a-0", "--exception", "x"], "no such artefact"),
    "resolve, standing purge": (["resolve", "a-0", "--status", "purged", "--standing"], "cannot be standing"),
    "resolve, no certificate": (["resolve", "a-0", "--certificate", "absent.json"], "cannot be read"),
    "resolve, a person's name": (["resolve", "a-0", "--exception", f"for {FIRST}"], "names the person"),
}  # fmt: skip


def test_bad_input_changes_nothing(clinic, capsys):
    clinic.ticket(FIRST)
    before = artefacts(clinic, capsys)
    for name, (arguments, message) in BAD.items():
        assert clinic("coverage", *arguments) == 2, name
        err = " ".join(capsys.readouterr().err.split())
        assert message in err, name
        assert FIRST not in err
    assert artefacts(clinic, capsys) == before


def test_a_derived_model_stops_the_batch_until_something_is_said(clinic, capsys):
    derived = add(clinic, capsys, "--kind", "derived-model", "--name", "triage", "--from-version", "1")
    assert derived == add(
        clinic, capsys, "--kind", "derived-model", "--name", "triage", "--from-version", "1"
    )
    child = add(clinic, capsys, "--kind", "embedding", "--name", "index", "--parent", derived)
    clinic.derived, clinic.child = derived, child
    err = run_refused(clinic, capsys)
    assert derived in err
    assert child in err
    assert "coverage resolve" in err
    assert clinic("plan", "--json") == 0
    planned = json.loads(capsys.readouterr().out)
    assert [item["artefact_id"] for item in planned["unresolved"]] == [derived, child]
    assert clinic("coverage", "resolve", derived, "--exception", "frozen until the audit") == 0
    assert derived not in run_refused(clinic, capsys).split("got")[1].split(";")[0]
    assert clinic("coverage", "resolve", child, "--status", "recomputed", "--reason", "rebuilt nightly") == 0
    assert clinic("run") == 0
    (certificate,) = clinic.certificates()
    stated = rows(certificate)
    model, embedding = f"derived model triage ({derived})", f"embedding index ({child})"
    assert (stated[model]["status"], stated[model]["reason"]) == (
        "not covered",
        "exception: frozen until the audit",
    )
    assert (stated[embedding]["status"], stated[embedding]["reason"]) == (
        "recomputed",
        "declared: rebuilt nightly",
    )
    assert clinic("certificate", "verify", certificate["certificate_id"]) == 0
    page = clinic.root / ".expunge" / "evidence" / certificate["certificate_id"] / "certificate.html"
    assert "frozen until the audit" in page.read_text()


def test_the_first_certificate_calls_nothing_purged_that_was_not(clinic):
    (certificate,) = clinic.certificates()
    stated = rows(certificate)
    assert [name for name, row in stated.items() if row["status"] == "purged"] == [
        "rows in the current dataset version"
    ]
    for name in (
        "weights of version 1",
        "preprocessing statistics and categories of version 1",
        "rows in earlier dataset versions (cache, remote)",
        "curvature kept from the parent's release",
        "time and work that the training of version 1 took",
    ):
        assert stated[name]["status"] == "purge pending", name
    assert stated["test metrics of version 1 in MLflow"]["status"] == "not covered"


def test_the_map_follows_a_batch(clinic, capsys):
    assert uncovered(clinic, capsys) == []
    found = artefacts(clinic, capsys)
    (batch,) = clinic.batches()
    of = {(item["kind"], item["version"]): item for item in found}
    for kind in (Kind.MODEL, Kind.STATISTICS, Kind.VOCABULARY, Kind.CURVATURE):
        assert (of[kind, 1]["status"], of[kind, 1]["batch_id"]) == ("purged", batch.batch_id), kind
        assert of[kind, 2]["status"] == "kept", kind
    assert (of[Kind.EFFORT, 1]["status"], of[Kind.EFFORT, 1]["batch_id"]) == ("purged", batch.batch_id)
    assert (Kind.EFFORT, 2) not in of  # what the next plan would look at, were it there, saw the people
    assert of[Kind.MODEL, 1]["artefact_id"] in of[Kind.MODEL, 2]["parents"]
    assert "metrics may" not in of[Kind.METRICS, 2]["reason"]
    assert of[Kind.METRICS, 2]["status"] == "kept"
    assert batch.batch_id in of[Kind.METRICS, 1]["reason"]
    assert len([item for item in found if item["kind"] == Kind.DATASET]) == 2


def test_metrics_that_may_include_removed_people_are_marked(clinic):
    registry = access.registry(clinic.state())
    (batch,) = clinic.batches()
    old, new = registry.get(1), registry.get(2)
    assert old.tags[METRICS_TAG] == batch.batch_id
    assert registry.client.get_run(old.run_id).data.tags[METRICS_TAG] == batch.batch_id
    assert METRICS_TAG not in new.tags


def test_an_exception_does_not_serve_the_next_batch_and_a_certificate_does(
    clinic, capsys, monkeypatch, tmp_path
):
    clinic.ticket(SECOND)
    err = run_refused(clinic, capsys)
    assert clinic.derived in err
    assert clinic.child in err
    forged = clinic.root / ".expunge" / "scratch" / "certificate.json"
    forged.parent.mkdir(exist_ok=True)
    content = json.loads((GOLDEN / "certificate.json").read_text())
    forged.write_text(json.dumps({**content, "epsilon": 1e-6}))
    forged.with_name("ledger.json").write_text((GOLDEN / "ledger.json").read_text())
    assert clinic("coverage", "resolve", clinic.derived, "--certificate", str(forged)) == 1
    assert "does not hold" in capsys.readouterr().err
    own = clinic.certificates()[0]["certificate_id"]
    mine = clinic.root / ".expunge" / "evidence" / own / "certificate.json"
    assert clinic("coverage", "resolve", clinic.derived, "--certificate", str(mine)) == 1
    assert "own model" in capsys.readouterr().err
    forged.unlink()
    forged.with_name("ledger.json").unlink()

    path = foreign(tmp_path / "foreign")
    assert clinic("coverage", "resolve", clinic.derived, "--certificate", str(path)) == 0
    assert clinic("coverage", "resolve", clinic.child, "--exception", "public", "--standing") == 0

    def refuse(*arguments, **named):
        raise ResidueError("the remote is away")

    with monkeypatch.context() as patched:
        patched.setattr(dvc_objects, "superseded", refuse)
        assert clinic("run") == 1
    state, batch = clinic.state(), clinic.batches()[-1]
    mark_purged(state, batch)  # not destroyed yet: not said to be
    kept = {(item.kind, item.version): item.status for item in state.coverage.every()}
    assert kept[Kind.MODEL, 2] == kept[Kind.CURVATURE, 2] == "kept"
    late = [
        add(clinic, capsys, "--kind", "embedding", "--name", name, "--from-version", "2")
        for name in ("late", "spoken for", "gone", "excepted")
    ]
    assert clinic("coverage", "resolve", late[1], "--status", "recomputed", "--reason", "x") == 0
    assert clinic("coverage", "resolve", late[2], "--status", "purged", "--reason", "x") == 0
    assert clinic("coverage", "resolve", late[3], "--exception", "x", "--standing") == 0
    assert clinic("run") == 0
    purges = [entry for entry in state.ledger.entries(state.lineage) if entry.kind == "purge"]
    assert ["declared_late" in entry.details for entry in purges] == [False, True]
    assert purges[1].details["declared_late"] == [
        f"embedding late ({late[0]})",
        f"embedding excepted ({late[3]})",
    ]

    certificate = clinic.certificates()[-1]
    stated = rows(certificate)
    row = stated[f"derived model triage ({clinic.derived})"]
    assert row["status"] == "covered"
    assert content["certificate_id"] in row["reason"]
    assert stated[f"embedding index ({clinic.child})"]["reason"] == "exception: public"
    assert stated["weights of version 1"]["status"] == "purged"
    assert stated["weights of version 2"]["status"] == "purge pending"
    assert PURGED_TAG in access.registry(state).get(1).tags
    assert clinic("certificate", "verify", certificate["certificate_id"]) == 0


def test_policy_may_state_it_instead(clinic, capsys, tmp_path):
    frame = read_dataset(clinic.root / "data" / "dataset")
    tested = frame[frame["split"] == "test"]["subject_id"].iloc[0]  # their rows measured every version so far
    clinic.ticket(tested)
    assert clinic.derived in run_refused(clinic, capsys)
    used = foreign(tmp_path / "foreign")
    assert clinic("coverage", "resolve", clinic.derived, "--certificate", str(used)) == 1
    assert "earlier batch" in capsys.readouterr().err
    path = clinic.root / "policy.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "coverage": {"unresolved": "state"}}))
    git.commit(clinic.root, ["policy.yaml"], "State what is unresolved")
    assert clinic("run") == 0
    stated = rows(clinic.certificates()[-1])
    row = stated[f"derived model triage ({clinic.derived})"]
    assert (row["status"], row["reason"]) == (
        "not covered",
        "declared, and nobody has said what became of it",
    )
    assert stated[f"embedding index ({clinic.child})"]["reason"] == "exception: public"
    assert stated["weights of versions 1 to 2"]["status"] == "purged"
    left, registry = read_dataset(clinic.root / "data" / "dataset"), access.registry(clinic.state())
    assert tested not in set(left["subject_id"])
    measured = [registry.metrics(registry.get(number))["test_records"] for number in (3, 4)]
    assert measured == [(each["split"] == "test").sum() for each in (frame, left)]
    assert measured[0] > measured[1]
    # An observer with two certificates in a row and the metrics counts what the scope says that counts tell.
    one, two = clinic.certificates()[-2:]
    asked = frame[frame["subject_id"] == tested]
    trained_on = one["retain"]["records"] - two["retain"]["records"]
    assert trained_on == (asked["split"] == "train").sum()
    assert (
        two["forget"]["records"] - trained_on == measured[0] - measured[1] == (asked["split"] == "test").sum()
    )
    (line,) = [line for line in two["scope"] if line.startswith("Counts are told")]
    for count in (
        "people asked",
        "records were removed",
        "trained on",
        "test rows there were before and after",
    ):
        assert count in line
    if not trained_on:  # no attack was made, and none is claimed
        assert two["attack_gates"]["false_alarm"] == 0
        assert not any("attack" in gate["name"] for gate in two["validation"]["gates"])
    # The utility gate compared what was published, and the parent's figure is not published again.
    batch = clinic.batches()[-1]
    assert batch.data["parent_accuracy"] == registry.metrics(registry.get(3))["accuracy"]
    assert "parent_accuracy" not in registry.metrics(registry.get(4))
    batches = [batch.batch_id for batch in clinic.batches()]
    assert [registry.get(number).tags.get(METRICS_TAG) for number in (1, 2, 3, 4)] == [*batches, None]


@pytest.mark.slow
def test_the_map_of_a_workspace_from_before_is_found_again(clinic, capsys):
    """The tables are emptied, as a workspace of an earlier release has them."""
    from expunge.evidence.coverage_store import ArtefactRow, ResolutionRow

    state = clinic.state()
    clinic.ticket("person-00022-x")
    assert clinic("run") == 0  # alone or after the others: at least one version is superseded
    before = {item.artefact_id: item for item in state.coverage.every() if not item.declared}
    with state.database.transaction() as session:
        session.query(ResolutionRow).delete()
        session.query(ArtefactRow).delete()
    clinic.ticket("person-00023-x")
    assert clinic("run") == 0
    found = {item.artefact_id: item for item in state.coverage.every()}
    gone = [item for artefact_id, item in before.items() if artefact_id not in found]
    versions = {item.version for item in before.values() if item.version is not None}
    assert len(versions) >= 2
    # curvature of superseded versions, and what the first training took: destroyed, and nothing tells of it
    assert {item.kind for item in gone} == {Kind.CURVATURE, Kind.EFFORT}
    assert {item.version for item in gone} == versions - {max(versions)}
    assert uncovered(clinic, capsys) == []


@pytest.fixture(scope="module")
def came_back(tmp_path_factory):
    """A person comes and leaves again: the bytes are those of before, and an export was made in between."""
    tmp, person = tmp_path_factory.mktemp("came-back"), f"person-{PEOPLE:05d}-x"
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # files without a nonce of their own, as before there were any
        patch.setattr(nonces, "draw", lambda: "0" * 32)
        yield _came_back(tmp, person)


def _came_back(tmp, person):
    state = open_state(make(tmp))
    repo = access.repository(state)
    first = repo.current().md5
    import_dump(state, str(make_clinic(tmp / "grown", people=PEOPLE + 1)))
    between = repo.current().md5
    export = declare(state, Kind.EXPORT, "dump", "", from_dataset=between)
    batch_id = state.batches.open_batch([state.tickets.submit(person).ticket.ticket_id]).batch_id
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPUNGE_WORKSPACE", str(state.workspace.root))
        remove.fn(batch_id)
    assert repo.current().md5 == first != between
    return state, state.batches.get(batch_id), export


def test_a_dataset_version_that_comes_back_hides_nothing(came_back):
    state, batch, export = came_back
    assert export.artefact_id in [item.artefact_id for item in saw(state, batch)]


def test_rows_are_said_to_be_destroyed_only_where_all_are(came_back):
    state, batch, _ = came_back

    def reasons():
        mark_purged(state, batch)
        return {item.reason for item in state.coverage.every() if item.kind is Kind.DATASET}

    assert reasons() == {f"rows of the people of {batch.batch_id} are destroyed in it"}
    state.purges.write(batch.batch_id, [Item("shared", "0" * 32, "remote", 1, "another needs it", kept=True)])
    assert reasons() == {"objects that another dataset needs were kept"}


def test_a_foreign_certificate_must_hold_by_the_policy_and_the_proofs_of_this_workspace(tmp_path):
    state = open_state(make(tmp_path))
    md5 = access.repository(state).current().md5
    model, export, twin = (
        declare(state, kind, name, "", from_dataset=md5)
        for kind, name in ((Kind.DERIVED, "triage"), (Kind.EXPORT, "dump"), (Kind.CHECKPOINT, "epoch 3"))
    )
    good, own = foreign(tmp_path / "good"), state.policy
    name = json.loads(good.read_text())["certificate_id"]
    for admit in ({"epsilon": 0.01}, {"delta": 1e-7}, {"classes": ("exact",)}):
        policy = own.model_copy(update={"admit": own.admit.model_copy(update=admit)})
        with pytest.raises(CoverageError, match="does not admit"):
            resolve(replace(state, policy=policy), model.artefact_id, certificate=good)
    composed = own.model_copy(update={"ledger": own.ledger.model_copy(update={"composed_epsilon": 0.01})})
    with pytest.raises(CoverageError, match="does not admit"):
        resolve(replace(state, policy=composed), model.artefact_id, certificate=good)
    for folder, facts, message in (
        ("unpurged", {"purged": False}, "does not prove"),
        ("dirty", {"clean": False}, "scan that was not clean"),
        ("undone", {"rolled_back": [name]}, "rolled back"),
    ):
        with pytest.raises((CoverageError, VerificationError), match=message):
            resolve(state, model.artefact_id, certificate=foreign(tmp_path / folder, **facts))
    with pytest.raises(InputError, match="model's weights"):
        resolve(state, export.artefact_id, certificate=good)
    assert state.coverage.resolutions(None) == {}
    resolve(state, model.artefact_id, certificate=good)
    assert state.coverage.resolutions(None)[model.artefact_id].people == 2
    with pytest.raises(CoverageError, match="another artefact"):
        resolve(state, twin.artefact_id, certificate=good)
