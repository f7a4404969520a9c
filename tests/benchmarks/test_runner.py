"""Runs continue, nothing unfit is written, and what is committed is what the code makes of the results."""

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from benchmarks import __main__ as entry
from benchmarks import regression, results_page, runner
from expunge.errors import InputError


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A setting "small-fake" of an experiment of three cells, whose runs are counted."""
    folder = tmp_path / "settings"
    folder.mkdir()
    (folder / "small-fake.yaml").write_text("experiment: fake\nsize: 2\n")
    module = types.ModuleType("benchmarks.experiments.fake")
    module.ran = []
    module.value = 1.0
    module.cells = lambda setting: [{"seed": seed} for seed in (1, 2, 3)]

    def run(setting, cell, place):
        module.ran.append(cell["seed"])
        return {"value": module.value * cell["seed"]}

    module.run = run
    module.tables = lambda document: {
        "seeds": runner.table(
            ["seed", "value"], [[str(row["seed"]), str(row["value"])] for row in runner.rows(document)]
        ),
        "words": "The same in words.\n",
    }
    module.figure = lambda document: Figure()
    module.expected = lambda document: {f"{r['seed']}": r["value"] for r in runner.rows(document)}
    monkeypatch.setattr(runner, "SETTINGS", folder)
    monkeypatch.setitem(sys.modules, "benchmarks.experiments.fake", module)
    return module


def test_a_run_writes_document_and_picture(fake, tmp_path):
    document = runner.run("small-fake", runner.Place(), tmp_path)
    assert json.loads((tmp_path / "small-fake.json").read_text()) == document
    assert runner.read_document("small-fake", tmp_path) == document
    assert (tmp_path / "small-fake.png").read_bytes().startswith(b"\x89PNG")
    assert document["setting"] == {"experiment": "fake", "size": 2}
    assert runner.rows(document) == [{"seed": s, "value": float(s)} for s in (1, 2, 3)]
    assert all({"seconds", "finished_at", "hardware", "code"} < set(done) for done in document["cells"])


def test_a_stopped_run_continues_and_restart_forgets(fake, tmp_path, monkeypatch):
    whole = fake.run

    def stops(setting, cell, place):
        if cell["seed"] == 2:
            raise KeyboardInterrupt
        return whole(setting, cell, place)

    monkeypatch.setattr(fake, "run", stops)
    with pytest.raises(KeyboardInterrupt):
        runner.run("small-fake", runner.Place(), tmp_path)
    first = runner.read_document("small-fake", tmp_path)
    monkeypatch.setattr(fake, "run", whole)
    document = runner.run("small-fake", runner.Place(), tmp_path)
    assert fake.ran == [1, 2, 3]
    assert document["cells"][0] == first["cells"][0]
    runner.run("small-fake", runner.Place(), tmp_path)
    assert fake.ran == [1, 2, 3]  # nothing was left
    fake.value = 5.0
    again = runner.run("small-fake", runner.Place(), tmp_path, restart=True)
    assert fake.ran == [1, 2, 3] * 2
    assert [row["value"] for row in runner.rows(again)] == [5.0, 10.0, 15.0]


def test_another_configuration_is_refused(fake, tmp_path):
    runner.run("small-fake", runner.Place(), tmp_path)
    kept = (tmp_path / "small-fake.json").read_bytes()
    (runner.SETTINGS / "small-fake.yaml").write_text("experiment: fake\nsize: 3\n")
    with pytest.raises(InputError, match="another configuration"):
        runner.run("small-fake", runner.Place(), tmp_path)
    assert (tmp_path / "small-fake.json").read_bytes() == kept
    assert runner.run("small-fake", runner.Place(), tmp_path, restart=True)["setting"]["size"] == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_result_that_is_not_finite_is_refused(fake, tmp_path, value, monkeypatch):
    whole = fake.run
    monkeypatch.setattr(
        fake, "run", lambda s, cell, p: {"value": value} if cell["seed"] == 2 else whole(s, cell, p)
    )
    with pytest.raises(InputError, match="not finite"):
        runner.run("small-fake", runner.Place(), tmp_path)
    # what was found before is still there
    assert [done["cell"] for done in runner.read_document("small-fake", tmp_path)["cells"]] == [{"seed": 1}]


def test_no_cell_is_begun_that_would_end_too_late(fake, tmp_path, monkeypatch):
    clock = [0.0]
    whole = fake.run

    def slow(setting, cell, place):
        clock[0] += 60
        return whole(setting, cell, place)

    monkeypatch.setattr(fake, "run", slow)
    monkeypatch.setattr(runner, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    runner.run("small-fake", runner.Place(), tmp_path, minutes=2.5)
    assert fake.ran == [1, 2]
    runner.run("small-fake", runner.Place(), tmp_path, minutes=2.5)
    assert fake.ran == [1, 2, 3]


def test_what_cells_share_is_made_once(tmp_path):
    place, made = runner.Place(scratch=tmp_path), []

    def make():
        made.append(1)
        return {"weights": torch.ones(2)}

    first, second = (place.kept({"seed": 1, "which": "original"}, make) for _ in range(2))
    assert len(made) == 1
    torch.testing.assert_close(first["weights"], second["weights"])
    place.kept({"which": "retrained", "seed": 1}, make)
    assert len(made) == 2
    assert not list(tmp_path.glob("*.partial"))


def test_where_datasets_lie():
    place = runner.Place(Path("data"))
    assert place.source("digits") is None
    assert place.source("fashion-mnist") == Path("data/fashion_mnist")
    assert place.source("diabetes130") == Path("data/diabetes130/dataset_diabetes.zip")
    assert runner.Place().source("mnist") is None


def test_spread_and_table():
    assert runner.spread([]) == runner.spread([None]) == "–"
    assert runner.spread([0.5, None]) == "0.5"
    assert runner.spread([1.0, 3.0]) == "2 ± 1"
    assert runner.table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"


def test_commands(fake, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "none")
    assert entry.main(["list"]) == 0
    assert capsys.readouterr().out == "small-fake: 0 of 3 cells\n"
    assert entry.main(["run", "small-fake", "--out", str(tmp_path), "--scratch", str(tmp_path / "s")]) == 0
    assert fake.ran == [1, 2, 3]
    assert entry.main(["run", "no-such", "--out", str(tmp_path)]) != 0
    assert "unknown setting" in capsys.readouterr().err


def test_the_generated_part_is_made_anew(fake, tmp_path):
    runner.run("small-fake", runner.Place(), tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "By hand.\n\n<!-- generated: small-fake: seeds picture -->\nstale\n<!-- end -->\n\nMore by hand.\n"
    )
    results_page.write(tmp_path, page)
    filled = page.read_text()
    assert filled.startswith("By hand.\n\n<!-- generated: small-fake: seeds picture -->\n")
    assert filled.endswith("<!-- end -->\n\nMore by hand.\n")
    assert "stale" not in filled
    assert "| 2 | 2.0 |" in filled
    assert "in words" not in filled  # not named
    assert "![small-fake](results/small-fake.png)" in filled
    assert "3 cells" in filled
    assert results_page.fill(filled, tmp_path) == filled
    whole = (tmp_path / "small-fake.md").read_text()
    assert "| 2 | 2.0 |" in whole
    assert "in words" in whole
    assert "![small-fake](small-fake.png)" in whole


def test_a_part_that_names_no_table_is_refused(fake, tmp_path):
    runner.run("small-fake", runner.Place(), tmp_path)
    with pytest.raises(InputError, match=r"(?s)seeds, words, picture.*costs"):
        results_page.fill("<!-- generated: small-fake: costs -->\n<!-- end -->\n", tmp_path)


def test_results_of_another_configuration_are_not_shown(fake, tmp_path):
    runner.run("small-fake", runner.Place(), tmp_path)
    (runner.SETTINGS / "small-fake.yaml").write_text("experiment: fake\nsize: 3\n")
    with pytest.raises(InputError, match="another configuration"):
        results_page.fill("<!-- generated: small-fake: seeds -->\n<!-- end -->\n", tmp_path)


@pytest.mark.parametrize(
    "part",
    [
        "<!-- generated: small-fake -->\n<!-- end -->",
        "<!-- generated: small-fake: seeds -->",
        "<!--Generated: small-fake: seeds -->\n<!-- end -->",
    ],
)
def test_a_part_that_would_stay_as_it_is_is_refused(fake, tmp_path, part):
    with pytest.raises(InputError, match="not well formed"):
        results_page.fill(part, tmp_path)


def test_a_part_without_a_result_is_refused(fake, tmp_path):
    with pytest.raises(InputError, match="never run"):
        results_page.fill("<!-- generated: small-fake: seeds -->\n<!-- end -->\n", tmp_path)


def test_the_committed_page_is_made_of_the_committed_results():
    text = results_page.PAGE.read_text(encoding="utf-8")
    assert results_page.fill(text) == text
    written = {path.stem: path.read_text(encoding="utf-8") for path in runner.RESULTS.glob("*.md")}
    assert written == results_page.settings_pages()


def test_differences():
    expected = {"a": 1.0, "b": 2.0, "c": 0.0}
    assert regression.differences(dict(expected), expected) == []
    assert regression.differences({"a": 1.04, "b": 2.0, "c": 0.0}, expected) == []
    found = regression.differences({"a": 1.2, "c": 0.0, "d": 1.0}, expected)
    assert found == ["a: expected 1, got 1.2", "b is gone", "d is new"]


def test_the_regression_file_is_written_from_fresh_runs(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(regression, "EXPECTED", tmp_path / "expected.json")
    assert entry.main(["expect"]) == 0
    assert json.loads((tmp_path / "expected.json").read_text()) == {
        "small-fake": {"1": 1.0, "2": 2.0, "3": 3.0}
    }


@pytest.mark.parametrize("name", regression.small())
def test_small_settings_are_as_expected(name, ran):
    document, _ = ran(name)
    found = runner.experiment(document["setting"]["experiment"]).expected(document)
    expected = json.loads(regression.EXPECTED.read_text(encoding="utf-8"))
    assert regression.differences(found, expected[name]) == []


def test_every_small_setting_has_expected_figures():
    assert sorted(json.loads(regression.EXPECTED.read_text(encoding="utf-8"))) == regression.small()
