"""Great Expectations on a dataset version, without a person's id in any expectation or result.

GX passes an int column against string ids, null ids and empty frames; a ``value_set`` of ids leaks into results. So:
types, nulls and row counts are expected explicitly, and erased people are looked for in a derived boolean column.
"""

import logging
import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from expunge.datasets.contract import SPLITS, DatasetContract

if TYPE_CHECKING:
    import pandas as pd

_ERASED = "is_erased"


def validate_dataset(
    frame: "pd.DataFrame", contract: DatasetContract, *, rows_expected: int, erased: Collection[str]
) -> list[dict[str, Any]]:
    """Check a dataset version after a removal.

    Args:
        frame: All rows of the version.
        contract: What they keep.
        rows_expected: Rows before, less rows removed.
        erased: Ids of the erased people; only a derived boolean column is shown to GX.

    Returns:
        ``{name, passed}`` for each expectation; no value of a row.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context: Any = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    expect = gx.expectations
    canonical = contract.identity.canonical
    people, gone = frame["subject_id"].astype(str), {canonical(one) for one in erased}
    left = [one for one in people.unique() if canonical(one) in gone]
    checked = frame.assign(**{_ERASED: people.isin(left)})
    columns = [
        "record_id",
        "subject_id",
        "label",
        "split",
        *(rule.name for rule in contract.columns),
        _ERASED,
    ]
    numeric = [rule.name for rule in contract.columns if rule.kind == "numeric"]
    wanted: list[tuple[str, Any]] = [
        ("schema", expect.ExpectTableColumnsToMatchSet(column_set=columns, exact_match=True)),
        ("row delta equals records removed", expect.ExpectTableRowCountToEqual(value=rows_expected)),
        ("record ids are unique", expect.ExpectColumnValuesToBeUnique(column="record_id")),
        (
            "record ids are whole numbers",
            expect.ExpectColumnValuesToBeOfType(column="record_id", type_="int64"),
        ),
        ("subject ids are text", expect.ExpectColumnValuesToMatchRegex(column="subject_id", regex=r"\S")),
        (
            "labels are classes",
            expect.ExpectColumnValuesToBeInSet(column="label", value_set=list(contract.classes)),
        ),
        (
            "splits are train and test",
            expect.ExpectColumnValuesToBeInSet(column="split", value_set=list(SPLITS)),
        ),
        ("no erased person", expect.ExpectColumnValuesToBeInSet(column=_ERASED, value_set=[False])),
        ("erased flags are boolean", expect.ExpectColumnValuesToBeOfType(column=_ERASED, type_="bool")),
    ]
    keys = ("record_id", "subject_id", "label", "split", *numeric)
    wanted += [(f"{name} is never null", expect.ExpectColumnValuesToNotBeNull(column=name)) for name in keys]
    for name, expectation in wanted:  # results come back in another order
        expectation.meta = {"name": name}
    suite = gx.ExpectationSuite(name="removal", expectations=[expectation for _, expectation in wanted])
    batch = (
        context.data_sources.add_pandas("workspace")
        .add_dataframe_asset("dataset")
        .add_batch_definition_whole_dataframe("version")
        .get_batch({"dataframe": checked})
    )
    outcome = batch.validate(suite, result_format="BOOLEAN_ONLY")
    passed = {name: False for name, _ in wanted}
    for result in outcome.results:
        passed[result.expectation_config.meta["name"]] = bool(result.success)
    text = all(isinstance(value, str) for value in frame["subject_id"])  # pandas 3 has several text types
    passed["subject ids are text"] = passed["subject ids are text"] and text
    passed["there are rows"] = len(frame) > 0
    return [{"name": name, "passed": value} for name, value in passed.items()]
