"""Great Expectations must fail where the data are wrong, and never see a person's id."""

import json

import pytest
import yaml

from expunge.datasets.contract import DatasetContract, canonical_frame
from tasks.adapters.expectations import validate_dataset
from tests.conftest import CONTRACT, clinic_rows

GONE = "person-00005-x"


@pytest.fixture(scope="module")
def contract():
    return DatasetContract.model_validate(yaml.safe_load(CONTRACT))


@pytest.fixture
def retained(contract):
    frame = canonical_frame(clinic_rows(), contract)
    return frame[frame["subject_id"] != GONE].reset_index(drop=True)


def failed(frame, contract, **changes):
    given = {"rows_expected": len(frame), "erased": [GONE], **changes}
    return {check["name"] for check in validate_dataset(frame, contract, **given) if not check["passed"]}


def test_a_good_version_passes_and_results_hold_no_value(retained, contract):
    checks = validate_dataset(retained, contract, rows_expected=len(retained), erased=[GONE])
    assert all(check["passed"] for check in checks)
    assert len(checks) > 10
    assert "person-" not in json.dumps(checks)


WRONG = {
    "row delta equals records removed": lambda f: f.iloc[:-1],
    "record ids are unique": lambda f: f.assign(record_id=0),
    "labels are classes": lambda f: f.assign(label="neither"),
    "splits are train and test": lambda f: f.assign(split="validation"),
    "age is never null": lambda f: f.assign(age=f["age"].where(f.index > 0)),
    "subject_id is never null": lambda f: f.assign(subject_id=f["subject_id"].where(f.index > 0)),
    "subject ids are text": lambda f: f.assign(subject_id=range(len(f))),
    "record ids are whole numbers": lambda f: f.assign(record_id=f["record_id"].astype(float)),
    "schema": lambda f: f.assign(extra=1),
    "no erased person": lambda f: f.assign(subject_id=f["subject_id"].where(f.index > 0, GONE)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_fails_under_its_own_name(name, retained, contract):
    assert name in failed(WRONG[name](retained), contract, rows_expected=len(retained))


def test_an_empty_version_fails(retained, contract):
    assert "there are rows" in failed(retained.iloc[:0], contract)
