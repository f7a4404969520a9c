"""Data that keep their contract and are poor all the same: said at once, refused by nobody."""

import pandas as pd

from expunge.datasets.contract import DatasetContract

_LARGE_SHARE, _LIKE_TEXT, _FEW_ROWS = 0.2, 0.5, 20


def shortcomings(frame: pd.DataFrame, contract: DatasetContract) -> list[str]:
    """List what a reader should know before training; no message names a person.

    Args:
        frame: Canonical rows of a whole dataset.
        contract: What they keep.

    Returns:
        Sentences; none where nothing is poor.

    Example:
        >>> from expunge.datasets.catalogue import load
        >>> shortcomings(load("breast-cancer").frame, load("breast-cancer").contract)
        []
    """
    found = [*_classes(frame, contract)]
    if contract.subject is not None:
        found += _people(frame)
    train = frame[frame["split"] == "train"]
    for rule in contract.columns:
        values = train[rule.name]
        if rule.kind == "numeric" and len(values) > 1 and values.nunique() == 1:
            found.append(f"column {rule.name} has one value in all training rows: it teaches nothing")
        elif rule.kind == "categorical" and rule.categories == "from-data" and len(values) >= _FEW_ROWS:
            kinds = int(values.nunique())
            if kinds > _LIKE_TEXT * len(values):
                found.append(
                    f"column {rule.name} has {kinds:,} different values in {len(values):,} training rows, as text or "
                    "an id has: each becomes a feature of its own, which may be one person's; leave the column out, or "
                    "name `categories`"
                )
    return found


def people_in_both_splits(frame: pd.DataFrame) -> int:
    """Count the people who have rows in train and in test: attacks on them would not be fair.

    Args:
        frame: Canonical rows.

    Returns:
        Number of people.

    Example:
        >>> people_in_both_splits(pd.DataFrame({"subject_id": ["a", "a", "b"], "split": ["train", "test", "test"]}))
        1
    """
    return int((frame.groupby("subject_id")["split"].nunique() > 1).sum())


def _classes(frame: pd.DataFrame, contract: DatasetContract) -> list[str]:
    trained, everywhere = (
        set(frame.loc[frame["split"] == "train", "label"]),
        set(frame["label"]),
    )
    found = []
    if absent := [one for one in contract.classes if one not in everywhere]:
        found.append(f"no row has the class {', '.join(absent[:8])}")
    if untrained := [one for one in contract.classes if one in everywhere - trained]:
        found.append(f"no training row has the class {', '.join(untrained[:8])}: the model never sees it")
    if len(trained) == 1:
        found.append("all training rows are of one class: the model learns nothing but that")
    return found


def _people(frame: pd.DataFrame) -> list[str]:
    found = []
    sizes = frame["subject_id"].value_counts()
    if len(sizes) > 1 and (share := sizes.iloc[0] / len(frame)) > _LARGE_SHARE:
        found.append(
            f"one person has {share:.0%} of the rows: the model is mostly of that person, whose removal leaves little "
            "of it; see whether the id stands for nobody in particular (unknown, test)"
        )
    if both := people_in_both_splits(frame):
        found.append(
            f"{both:,} people have rows in train and in test: releases cannot be attacked fairly, so the attack gates "
            "stay off; put each person wholly into one split"
        )
    return found
