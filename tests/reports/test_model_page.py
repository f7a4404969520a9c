"""Pages of the registered model: every state that a version can be in is said."""

from expunge.reports.model_page import VersionFacts, model_page, version_page


def facts(number: int, **other) -> VersionFacts:
    made = {
        "experiment": "1",
        "run": f"r{number}",
        "verdict": "v",
        "after": "a.dir",
        "after_revision": "f" * 40,
    }
    return VersionFacts(number=number, **made | other)


LINEAGE = {
    1: facts(1, purged="T1", documents=["certificate.html"]),
    2: facts(2, parent=1, before="b.dir", batch="b-1", certificate="c-1", purged="T2", rolled_back="T0"),
    3: facts(3, parent=1, before="b.dir", batch="b-1", certificate="c-2", purged_parent="T1", purged="T3"),
    4: facts(4, parent=3, before="a.dir", batch="b-2", certificate="c-3", documents=["purge.json", "x.bin"]),
}


def test_children_and_states():
    page = version_page("m", 1, LINEAGE, 4)
    assert "Child: [version 2](#/models/m/versions/2) (rolled back at T0)" in page
    assert "Child: [version 3](#/models/m/versions/3)\n" in page
    assert "State: superseded, weights purged at T1" in page
    assert "Parent: none" in page
    undone = version_page("m", 2, LINEAGE, 4)
    assert "State: rolled back at T0, weights purged at T2" in undone
    assert "superseded" not in undone.split("Parent")[0]
    assert "Purge: none, this version was rolled back" in undone


def test_the_purge_of_what_was_superseded():
    assert "superseded weights of version 1 purged at T1, record in artifacts" in version_page(
        "m", 3, LINEAGE, 4
    )
    assert "Purge: not yet" in version_page("m", 4, LINEAGE, 4)


def test_only_files_that_are_there_are_linked():
    page = version_page("m", 4, LINEAGE, 4)
    assert "[purge.json](#/experiments/1/runs/r4/artifacts/purge.json)" in page
    assert "certificate.html" not in page
    assert "x.bin" not in page
    assert "Dataset before: [`a.dir`](#/experiments/1/runs/r4)\n" in page


def test_the_model_says_what_serves():
    page = model_page("m", LINEAGE, 4)
    assert page.startswith("**Current: [version 4](#/models/m/versions/4).**")
    assert page.index("| [version 4]") < page.index("| [version 1]")
    assert page.count("| current") == 1
    assert "none yet" in model_page("m", {}, None)


def test_after_a_rollback_the_parent_is_current_and_its_child_is_not():
    lineage = {1: facts(1), 2: facts(2, parent=1, rolled_back="T0"), 3: facts(3, quarantined="T9")}
    page = model_page("m", lineage, 1)
    assert "| none | current |" in page
    assert "rolled back at T0, weights not purged yet" in page
    assert "registered, not serving, weights out of use, to be purged at T9" in page
