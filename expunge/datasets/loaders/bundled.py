"""Sets that come inside scikit-learn: nothing to download."""

import pandas as pd

from expunge.datasets.contract import ColumnRule, DatasetContract, Scale


def load_breast_cancer() -> tuple[pd.DataFrame, DatasetContract]:
    """Breast Cancer Wisconsin (Diagnostic): 569 patients, one row each, 30 measurements, benign or malignant.

    Returns:
        Raw rows and their contract; means and deviations come from the training rows.
    """
    from sklearn.datasets import load_breast_cancer as bundled

    data = bundled(as_frame=True)
    names = {name: name.replace(" ", "_") for name in data.feature_names}
    raw = data.frame.rename(columns=names)
    raw["diagnosis"] = raw.pop("target").map(dict(enumerate(data.target_names)))
    contract = DatasetContract(
        name="breast-cancer",
        label="diagnosis",
        classes=tuple(data.target_names),
        columns=tuple(ColumnRule(name=name) for name in names.values()),
    )
    return raw, contract


def load_digits() -> tuple[pd.DataFrame, DatasetContract]:
    """Optical recognition of handwritten digits: 1,797 images of 8 x 8 pixels, values 0 to 16.

    Returns:
        Raw rows and their contract.
    """
    from sklearn.datasets import load_digits as bundled

    data = bundled()
    names = [f"p{index:02d}" for index in range(data.data.shape[1])]
    raw = pd.DataFrame(data.data, columns=names)
    raw["digit"] = data.target.astype(str)
    contract = DatasetContract(
        name="digits",
        label="digit",
        classes=tuple(str(digit) for digit in range(10)),
        columns=tuple(ColumnRule(name=name, scale=Scale(divide=16)) for name in names),
    )
    return raw, contract
