"""The coverage map: who saw whom, what a certificate says of it, and where it is kept."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from expunge.errors import CoverageError, InputError
from expunge.evidence.certificate import Status
from expunge.evidence.coverage import Kind, Resolution, artefact, artefact_id, coverage_rows, seen
from expunge.evidence.coverage_store import CoverageStore
from tests.tickets.conftest import database, postgres, url  # noqa: F401  fixtures: both databases


def data(md5):
    return artefact(Kind.DATASET, md5, dataset_md5=md5)


def model(number, md5, *parents):
    return artefact(Kind.MODEL, f"version {number}", dataset_md5=md5, version=number, parents=parents)


def derived(name, parent):
    return artefact(Kind.DERIVED, name, parents=[parent.artefact_id], declared=True)


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)  # when people asked: everything said in these tests is later
ONE, TWO, THREE = data("1.dir"), data("2.dir"), data("3.dir")
FIRST = model(1, "1.dir", ONE.artefact_id)
SECOND = model(2, "2.dir", TWO.artefact_id, FIRST.artefact_id)
RETRAINED = model(3, "3.dir", THREE.artefact_id)
CHILD, GRANDCHILD = derived("child", FIRST), derived("grandchild", derived("child", FIRST))
CLEAN = derived("clean", RETRAINED)
MAP = [ONE, FIRST, CHILD, GRANDCHILD, TWO, SECOND, THREE, RETRAINED, CLEAN]


def names(artefacts):
    return [item.name for item in artefacts]


def test_an_artefact_saw_whom_its_dataset_version_and_its_ancestors_held():
    before_three = ["1.dir", "version 1", "child", "grandchild", "2.dir", "version 2"]
    assert names(seen(MAP, "3.dir")) == before_three
    # made from the version without them, from a parent that saw them: it saw them too
    assert names(seen(MAP, "2.dir")) == ["1.dir", "version 1", "child", "grandchild", "version 2"]


def test_an_unknown_dataset_version_counts_as_one_that_held_them():
    stray = model(9, "unknown.dir")
    assert stray in seen([*MAP, stray], "3.dir")


def test_a_version_that_comes_back_hides_nothing_that_was_made_in_between(database):  # noqa: F811
    store = CoverageStore(database)
    assert store.last() == 0
    export = derived("export", TWO)
    store.register(ONE, FIRST, TWO, export)
    mark = store.last()
    later = model(2, "1.dir", ONE.artefact_id)
    stray, clean = derived("of the export", export), artefact(Kind.EXPORT, "clean", dataset_md5="1.dir")
    store.register(later, stray, clean)  # the person came with 2.dir, and left to 1.dir
    assert seen(store.every(), "1.dir") == []
    found = names(seen(store.every(), "1.dir", store.up_to(mark)))
    assert found == ["1.dir", "version 1", "2.dir", "export", "version 2", "of the export"]
    assert store.up_to(0) == set()


def rows(saw, said=None, **facts):
    made = coverage_rows(
        saw,
        said or {},
        **{"exact": False, "from_data": 0, "annex_open": False, "artifacts_seen": True, **facts},
    )
    assert {row["status"] for row in made} <= set(get_args(Status))
    return {row["artefact"]: row for row in made}


def test_nothing_is_called_purged_before_it_is():
    saw = seen(MAP, "3.dir")
    found = rows(saw)
    assert found["weights of versions 1 to 2"]["status"] == "purge pending"
    assert found["rows in earlier dataset versions (cache, remote)"]["status"] == "purge pending"
    assert [a for a, row in found.items() if row["status"] == "purged"] == [
        "rows in the current dataset version"
    ]
    gone = rows([replace(item, status="purged") if item is FIRST else item for item in saw])
    assert gone["weights of version 1"]["status"] == "purged"
    assert gone["weights of version 2"]["status"] == "purge pending"


def test_a_kind_that_was_declared_is_not_said_to_be_absent():
    embedding = artefact(Kind.EMBEDDING, "index", parents=[FIRST.artefact_id], declared=True)
    assert rows([FIRST])["embeddings"]["status"] == "not present"
    found = rows([FIRST, embedding])
    assert "embeddings" not in found
    assert found[embedding.label]["status"] == "not covered"
    said = {embedding.artefact_id: Resolution(embedding.artefact_id, "recomputed", "declared: nightly")}
    assert rows([FIRST, embedding], said)[embedding.label]["status"] == "recomputed"


def test_who_can_read_the_annex_and_what_nobody_looked_into():
    earlier = artefact(Kind.CERTIFICATE, "sealed annex of c-1")
    names = ("sealed annex of this certificate", "sealed annexes of 1 earlier certificate")
    assert all("the auditor alone" in rows([earlier])[name]["reason"] for name in names)
    left = rows([earlier], annex_open=True)
    assert all("whoever runs this workspace can read" in left[name]["reason"] for name in names)
    assert not any("auditor alone" in row["reason"] for row in left.values())
    server = "folder behind MLflow's tracking server"
    assert server not in left
    assert rows([], artifacts_seen=False)[server]["status"] == "not covered"


def test_what_is_always_stated_is_there():
    found = rows([])
    for artefact_name in (
        "the source file given to `expunge init`",
        "earlier releases that someone copied, models derived from them",
        "timing and choice of mechanism",
        "sealed annex of this certificate",
    ):
        assert found[artefact_name]["status"] == "not covered"
    assert found["released weights"]["status"] == "covered"
    assert rows([], exact=True)["released weights"]["status"] == "recomputed"


def test_a_certificate_stays_short_after_many_batches():
    many = [item for n in range(1, 200) for item in (data(f"{n}.dir"), model(n, f"{n}.dir"))]
    assert len(rows(many)) == len(rows(many[:2]))


@pytest.fixture
def store(database):  # noqa: F811
    made = CoverageStore(database)
    made.register(*MAP)
    return made


def claim(store, batch_id):
    return store.claim(batch_id, 1, NOON)


def test_registering_again_changes_nothing(store):
    store.mark([FIRST.artefact_id], "purged", "by b-1", "b-1")
    store.register(*MAP, FIRST)
    assert names(store.every()) == names(MAP)
    assert (store.get(FIRST.artefact_id).status, store.get(FIRST.artefact_id).batch_id) == ("purged", "b-1")
    assert store.get(SECOND.artefact_id).parents == SECOND.parents
    assert store.get(CHILD.artefact_id).made_at.tzinfo is not None
    assert artefact_id(Kind.MODEL, "version 1") == FIRST.artefact_id


def test_an_exception_serves_one_batch(store):
    for item in (CHILD, GRANDCHILD):
        store.resolve(Resolution(item.artefact_id, "not covered", "exception: frozen"))
    assert store.unresolved(1, NOON) == [store.get(CLEAN.artefact_id)]
    for _ in range(2):
        assert names(claim(store, "b-1")) == ["clean"]
    assert store.resolutions("b-1")[CHILD.artefact_id].reason == "exception: frozen"
    assert names(claim(store, "b-2")) == ["child", "grandchild", "clean"]
    assert store.resolutions("b-2") == {}


def test_a_standing_exception_serves_all_until_something_else_is_said(store):
    store.resolve(Resolution(CHILD.artefact_id, "not covered", "exception: always", standing=True))
    for batch in ("b-1", "b-1", "b-2"):
        assert "child" not in names(claim(store, batch))
        assert store.resolutions(batch)[CHILD.artefact_id].reason == "exception: always"
    store.resolve(Resolution(CHILD.artefact_id, "recomputed", "declared: once"))
    assert "child" not in names(claim(store, "b-3"))
    assert store.resolutions("b-3")[CHILD.artefact_id].status == "recomputed"
    assert "child" in names(claim(store, "b-4"))


def test_the_last_word_before_the_batch_begins_counts(store):
    store.resolve(Resolution(CHILD.artefact_id, "not covered", "exception: one"))
    claim(store, "b-1")
    store.resolve(Resolution(CHILD.artefact_id, "recomputed", "declared: two"))
    claim(store, "b-1")
    assert store.resolutions("b-1")[CHILD.artefact_id].reason == "declared: two"


def test_a_certificate_covers_one_batch(store):
    said = Resolution(CHILD.artefact_id, "covered", "by c-1", certificate_id="c-1")
    store.resolve(said)
    store.resolve(said)  # nobody has used it yet
    with pytest.raises(CoverageError, match="another artefact"):
        store.resolve(replace(said, artefact_id=CLEAN.artefact_id))
    claim(store, "b-1")
    with pytest.raises(CoverageError, match="earlier batch"):
        store.resolve(said)
    with pytest.raises(CoverageError, match="another artefact"):
        store.resolve(replace(said, artefact_id=CLEAN.artefact_id))


def test_what_was_said_before_the_people_asked_does_not_count(store):
    for item in (CHILD, GRANDCHILD):
        standing = item is GRANDCHILD
        store.resolve(Resolution(item.artefact_id, "recomputed", "declared: nightly", standing=standing))
    later = datetime.now(UTC) + timedelta(hours=1)
    assert names(store.unresolved(1, later)) == ["child", "clean"]
    assert names(store.claim("b-1", 1, later)) == ["child", "clean"]
    assert list(store.resolutions("b-1")) == [GRANDCHILD.artefact_id]
    assert names(claim(store, "b-2")) == ["clean"]


def test_a_certificate_of_fewer_people_does_not_count(store):
    store.resolve(Resolution(CHILD.artefact_id, "covered", "by c-1", certificate_id="c-1", people=2))
    assert "child" in names(store.unresolved(3, NOON))
    assert "child" in names(store.claim("b-1", 3, NOON))
    assert store.resolutions("b-1") == {}
    assert "child" not in names(store.claim("b-2", 2, NOON))


def test_what_was_destroyed_elsewhere_asks_for_nothing_more(store):
    store.purged_elsewhere(CHILD.artefact_id, "declared: deleted")
    assert names(claim(store, "b-1")) == ["grandchild", "clean"]
    with pytest.raises(InputError, match="purged already"):
        store.resolve(Resolution(CHILD.artefact_id, "not covered", "exception: x"))


def test_only_declared_artefacts_can_be_resolved(store):
    with pytest.raises(InputError, match="looks after"):
        store.resolve(Resolution(FIRST.artefact_id, "not covered", "exception: x"))
    with pytest.raises(InputError, match="looks after"):
        store.purged_elsewhere(ONE.artefact_id, "declared: x")
    with pytest.raises(InputError, match="no such artefact"):
        store.get("a-000000000000")


def test_what_was_purged_or_recomputed_and_is_declared_again_is_open_again(store):
    assert store.declare(derived("child", FIRST)).made_at == CHILD.made_at
    with pytest.raises(InputError, match="name is taken"):
        store.declare(derived("child", SECOND))
    store.purged_elsewhere(CHILD.artefact_id, "declared: deleted")
    again = store.declare(derived("child", FIRST))
    assert (again.status, again.reason, again.artefact_id) == ("kept", "made again", CHILD.artefact_id)
    assert names(claim(store, "b-1")) == ["child", "grandchild", "clean"]
    store.resolve(Resolution(CHILD.artefact_id, "recomputed", "declared: nightly", standing=True))
    assert "child" not in names(claim(store, "b-1"))
    store.declare(derived("child", FIRST))
    assert store.resolutions("b-1") == store.resolutions(None) == {}
    assert "child" in names(claim(store, "b-1"))
    store.resolve(Resolution(CHILD.artefact_id, "not covered", "exception: x", standing=True))
    store.declare(derived("child", FIRST))
    assert "child" not in names(claim(store, "b-1"))


def test_a_batch_can_claim_for_some_alone(store):
    for item in (CHILD, GRANDCHILD):
        store.resolve(Resolution(item.artefact_id, "recomputed", "declared: x"))
    assert names(store.claim("b-1", 1, NOON, {CHILD.artefact_id, CLEAN.artefact_id})) == ["clean"]
    assert list(store.resolutions("b-1")) == [CHILD.artefact_id]
    assert list(store.resolutions(None)) == [GRANDCHILD.artefact_id]
