"""UCI tables: Diabetes 130-US hospitals (person-level) and Adult. Their contracts lie beside, in contracts/."""

import io
from importlib import resources
from pathlib import Path

import pandas as pd
import yaml

from expunge.datasets.contract import DatasetContract
from expunge.datasets.sources import SourceFile, read_source
from expunge.errors import DatasetError

DIABETES_ZIP = SourceFile(
    "dataset_diabetes.zip",
    "0689e7ec031237dc63031b938805c48377748761a3b26acab621567afa24df97",
    "https://archive.ics.uci.edu/ml/machine-learning-databases/00296/dataset_diabetes.zip",
    member="diabetic_data.csv",
)
ADULT_TRAIN = SourceFile(
    "adult.data",
    "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/adult.data",
)
ADULT_TEST = SourceFile(
    "adult.test",
    "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
    "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/adult.test",
)
_ADULT_COLUMNS = [
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education_num",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital_gain",
    "capital_loss",
    "hours_per_week",
    "native_country",
    "income",
]
_ICD_CHAPTERS = (  # ICD-9 chapters as grouped by Strack et al. 2014 (doi 10.1155/2014/781670), Table 2
    ("circulatory", ((390, 459), (785, 785))),
    ("respiratory", ((460, 519), (786, 786))),
    ("digestive", ((520, 579), (787, 787))),
    ("diabetes", ((250, 250),)),
    ("injury", ((800, 999),)),
    ("musculoskeletal", ((710, 739),)),
    ("genitourinary", ((580, 629), (788, 788))),
    ("neoplasms", ((140, 239),)),
)


def packaged_contract(name: str) -> DatasetContract:
    """A contract that comes with the package.

    Args:
        name: Of the dataset.

    Returns:
        The contract.
    """
    text = (
        resources.files("expunge.datasets").joinpath("contracts", f"{name}.yaml").read_text(encoding="utf-8")
    )
    return DatasetContract.model_validate(yaml.safe_load(text))


def icd_chapter(code: str) -> str:
    """Chapter of an ICD-9 diagnosis code.

    Args:
        code: As in the data; ``?`` where missing.

    Returns:
        One of nine groups, or ``?``.

    Example:
        >>> icd_chapter("250.83"), icd_chapter("V45"), icd_chapter("428")
        ('diabetes', 'other', 'circulatory')
    """
    if code == "?":
        return "?"
    try:
        number = int(float(code))
    except ValueError:  # supplementary codes: E..., V...
        return "other"
    for chapter, ranges in _ICD_CHAPTERS:
        if any(low <= number <= high for low, high in ranges):
            return chapter
    return "other"


def load_diabetes130(source: Path | None) -> tuple[pd.DataFrame, DatasetContract]:
    """UCI 296: 101,766 hospital stays of 71,518 patients; the patient is ``patient_nbr``.

    Args:
        source: The zip file; None to download it.

    Returns:
        Raw rows and their contract.

    Raises:
        DatasetError: If the file is wrong.
    """
    content = read_source(DIABETES_ZIP, source)
    raw = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    for column in ("diag_1", "diag_2", "diag_3"):
        raw[column] = raw[column].map(icd_chapter)
    contract = packaged_contract("diabetes130")
    numeric = [rule.name for rule in contract.columns if rule.kind == "numeric"]
    return raw.astype(dict.fromkeys(numeric, "float64")), contract


def load_adult(source: Path | None) -> tuple[pd.DataFrame, DatasetContract]:
    """UCI 2: 48,842 persons, one row each; income above or up to 50,000 dollars; the set's own split.

    Args:
        source: Folder with adult.data and adult.test; None to download them.

    Returns:
        Raw rows and their contract.

    Raises:
        DatasetError: If a file is wrong.
    """
    if source is not None and not source.is_dir():
        raise DatasetError(
            "adult is two files", expected="the folder of adult.data and adult.test", got=source.name
        )
    parts = []
    for file, split, skip in ((ADULT_TRAIN, "train", 0), (ADULT_TEST, "test", 1)):
        text = io.BytesIO(read_source(file, source))
        part = pd.read_csv(
            text, names=_ADULT_COLUMNS, skiprows=skip, skipinitialspace=True, keep_default_na=False, dtype=str
        )
        parts.append(part.assign(split_name=split))
    raw = pd.concat(parts, ignore_index=True)
    raw["income"] = raw["income"].str.rstrip(".")
    contract = packaged_contract("adult")
    numeric = [rule.name for rule in contract.columns if rule.kind == "numeric"]
    return raw.astype(dict.fromkeys(numeric, "float64")), contract
