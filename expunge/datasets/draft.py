"""A draft of a contract for a folder that has none: its author corrects it, nothing is decided by it."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from expunge.datasets import folder
from expunge.datasets.contract import RESERVED, DatasetContract
from expunge.datasets.numbers import no_numbers
from expunge.errors import DatasetError

_PEOPLE = re.compile(
    r"(person|patient|subject|user|customer|client|member|employee|student)(_?(id|no|nr|number))?|id", re.I
)
_LABELS = re.compile(r"label|outcome|target|class|result|diagnosis|y", re.I)
_MOST_CLASSES, _MOST_CATEGORIES, _CHOOSE = 20, 50, "CHOOSE"


def draft(place: Path) -> list[str]:
    """Write contract.yaml for the tables of a folder.

    Args:
        place: The folder.

    Returns:
        What its author has to look at, in words.

    Raises:
        DatasetError: If it is no folder, has a contract, or its tables cannot be read.
    """
    path = place / folder.CONTRACT_FILE
    if not place.is_dir() or path.exists():
        raise DatasetError(
            "no contract can be drafted",
            expected=f"a folder of your own tables without {folder.CONTRACT_FILE} (--dataset FOLDER)",
            got=f"{path}, which is there" if path.exists() else str(place),
            remedy="check --dataset",
        )
    raw = _rows(place)
    names = [str(one) for one in raw.columns]
    subject = next((one for one in names if _PEOPLE.fullmatch(one)), None)
    label = next(
        (one for one in names if _LABELS.fullmatch(one) and raw[one].nunique() <= _MOST_CLASSES), None
    )
    split = next(
        (one for one in names if one == "split" and set(raw[one].dropna()) <= {"train", "test"}), None
    )
    columns, left = [], []
    for one in names:
        if one in (subject, label, split):
            continue
        if one in RESERVED:
            left.append(f"{one}: a name that Expunge uses itself")
            continue
        rule = _rule(one, raw[one])
        (columns.append(rule) if isinstance(rule, dict) else left.append(f"{one}: {rule}"))
    name = re.sub(r"[^a-z0-9]+", "-", place.resolve().name.lower()).strip("-")[:40] or "own"
    content: dict[str, Any] = {"version": 1, "name": name}
    if subject is not None:
        content["subject"] = subject
    content["label"] = label or _CHOOSE
    content["classes"] = sorted(map(str, raw[label].dropna().unique())) if label else [_CHOOSE, "ANOTHER"]
    content["split"] = {"column": split} if split else {"test_fraction": 0.2}
    content["columns"] = columns
    notes = [
        f"subject: {subject}"
        if subject
        else "subject: not found; name the person's column, or each row is another person",
        f"label: {label}" if label else "label and classes: not found; write them where CHOOSE stands",
        f"{len(columns)} feature columns" + (f"; {len(left)} left out: {folder.some(left)}" if left else ""),
    ]
    text = "".join(
        f"# {' '.join(line.split())}\n" for line in [*notes[:2], *(f"left out: {one}" for one in left)]
    )
    path.write_text(text + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return notes


def _rows(place: Path) -> pd.DataFrame:
    """Every column as text first, then as what its numbers are."""
    paths, _ = folder.files_of(place)
    names: dict[str, None] = {}
    for path in paths:
        names |= dict.fromkeys(folder.columns_of(path, path.name))
    probe = {"version": 1, "name": "draft", "label": "", "classes": ["a", "b"]}
    columns = [{"name": one} for one in names if one and one not in RESERVED]
    numeric = DatasetContract.model_validate({**probe, "columns": columns or [{"name": "none"}]})
    return folder.read(place, numeric)[0]


def _rule(name: str, values: "pd.Series[Any]") -> dict[str, Any] | str:
    if pd.api.types.is_numeric_dtype(values):
        empty = values.isna().any()
        return {"name": name, **({"missing": 0} if empty else {})}
    words = values.dropna()
    if not len(words):
        return "empty"
    kinds = int(words.nunique())
    if kinds > _MOST_CATEGORIES or pd.api.types.is_datetime64_any_dtype(values):
        return f"{kinds} different values {no_numbers(words)}"
    return {"name": name, "kind": "categorical"}
