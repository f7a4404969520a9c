"""Two mechanisms in one batch, and more weights than the parent had: what the certificate states covers both."""

from dataclasses import replace

import pytest

from expunge.mechanisms.planner import make_plan
from expunge.privacy.accountant import compose_m
from expunge.privacy.gaussian import gaussian_epsilon
from expunge.privacy.noise import truncation_delta
from expunge.state import open_state
from tasks.validation import validate
from tests.conftest import CONTRACT, clinic_rows
from tests.flows.test_pipeline import policy


@pytest.fixture(scope="module")
def loose(clinic):
    """Gates that any accuracy passes."""
    policy(clinic, gates={"max_accuracy_drop": 0.9})
    return clinic


def test_a_category_that_an_import_brings_is_noised_and_charged(loose, tmp_path):
    visits = clinic_rows(84)
    visits.loc[visits["person"].isin([f"person-{number:05d}-x" for number in range(80, 84)]), "ward"] = "west"
    visits.to_csv(tmp_path / "visits.csv", index=False)
    (tmp_path / "contract.yaml").write_text(CONTRACT, encoding="utf-8")
    assert loose("data", "import", str(tmp_path)) == 0
    loose.ticket("person-00005-x")
    assert loose("run") == 0
    certificate = loose.certificates()[-1]
    (batch,) = loose.batches()
    features = 2 + len(("north", "south", "rare", "west"))
    size = 6 * features + 6 + 2 * 6 + 2
    assert (certificate["mechanism"], certificate["parameters"]) == ("convex", size)
    stated = {constant["name"]: constant["value"] for constant in certificate["constants"]}
    assert stated["generator_delta"] == truncation_delta(size, certificate["epsilon"])
    assert [record["coordinates"] for record in batch.data["drawn"]] == [size]
    assert loose("certificate", "verify", certificate["certificate_id"]) == 0


@pytest.fixture
def first_discarded(monkeypatch):
    """Fixes the order of mechanisms; the gate refuses the release of the first."""

    def fix(*order):
        def planned(context):
            return replace(make_plan(context), order=order)

        def gate(batch_id):
            mechanism = open_state().batches.get(batch_id).data["mechanism"]
            return ["utility"] if mechanism == order[0] else validate(batch_id)

        monkeypatch.setattr("tasks.planning.make_plan", planned)
        monkeypatch.setattr("flows.erase.validate", gate)

    return fix


def test_a_smaller_m_is_not_stated_after_a_discarded_draw_of_a_larger_one(loose, first_discarded):
    """Convex alone would state sqrt(2) of its own m, a sixth of what both draws spend together."""
    first_discarded("output-perturbation", "convex", "retrain")
    loose.ticket("person-00011-x")
    assert loose("run") == 0
    batch, certificate = loose.batches()[-1], loose.certificates()[-1]
    refusals = {refusal["mechanism"]: refusal["reason"] for refusal in batch.data["refusals"]}
    assert list(refusals) == ["output-perturbation", "convex"]
    assert "does not compose with an earlier draw" in refusals["convex"]
    assert (batch.draws, len(batch.data["drawn"])) == (1, 1)  # none was wasted on what could not be stated
    assert (certificate["guarantee"], certificate["epsilon"]) == ("exact", 0.0)


def test_a_larger_m_covers_the_discarded_draw(loose, first_discarded):
    policy(loose, ledger={"accumulated_error": 100.0})
    first_discarded("convex", "output-perturbation", "retrain")
    loose.ticket("person-00017-x")
    assert loose("run") == 0
    batch, certificate = loose.batches()[-1], loose.certificates()[-1]
    spent = [record["m"] for record in batch.data["drawn"]]
    assert (certificate["mechanism"], certificate["sequential"]["draws"]) == ("output-perturbation", 2)
    assert spent[0] < spent[1]
    assert certificate["sequential"]["composed_m"] > compose_m(spent)
    assert certificate["epsilon"] >= gaussian_epsilon(certificate["gaussian_delta"], compose_m(spent))
    assert loose("certificate", "verify", certificate["certificate_id"]) == 0
