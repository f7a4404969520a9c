"""Unlearning against retraining, side by side in one run: `python -m benchmarks.unlearn_vs_retrain [DATASET [SOURCE]]`.

Prints one JSON document: seconds, curvature products, their ratio, distance to the retrained weights, hardware.
"""

import json
import os
import platform
import sys
import time
from pathlib import Path

import torch

from expunge.datasets.catalogue import load
from expunge.datasets.preprocessing import encode, fit
from expunge.mechanisms.convex import certified_bound
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.privacy.noise import GaussianNoise
from expunge.settings import Params, Policy


def measure(dataset: str, source: Path | None) -> dict[str, object]:
    """Train, remove the person with most rows, unlearn from the noised weights, and retrain from scratch."""
    loaded = load(dataset, source)
    rows = loaded.frame[loaded.frame["split"] == "train"]
    person = rows["subject_id"].value_counts().index[0]
    preprocessing = fit(rows, loaded.contract)
    everyone = encode(rows, preprocessing)
    retained = encode(rows[rows["subject_id"] != person], preprocessing)
    spec = ModelSpec.from_params(
        Params.model_validate({"model": {"hyperparameters": {"hidden": [32]}}}),
        in_features=everyone.features.shape[1],
        classes=len(preprocessing.classes),
    )
    trained = train(spec, torch.from_numpy(everyone.features), torch.from_numpy(everyone.labels))
    sigma = Policy().release.sigma
    began = time.perf_counter()
    noise = torch.from_numpy(GaussianNoise().draw(len(trained.weights), sigma))
    noise_seconds = time.perf_counter() - began
    data = (torch.from_numpy(retained.features), torch.from_numpy(retained.labels))
    unlearned = train(spec, *data, start=trained.weights + noise)
    retrained = train(spec, *data)
    return {
        "dataset": dataset,
        "train_records": len(everyone.labels),
        "records_removed": len(everyone.labels) - len(retained.labels),
        "parameters": len(trained.weights),
        "unlearn": {"seconds": unlearned.seconds, "products": unlearned.products},
        "retrain": {"seconds": retrained.seconds, "products": retrained.products},
        "ratio_seconds": unlearned.seconds / retrained.seconds,
        "ratio_products": unlearned.products / retrained.products,
        "noise_seconds": noise_seconds,
        "distance_to_retrained": float((unlearned.weights - retrained.weights).norm()),
        "certified_bound": certified_bound(spec),
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__},
    }


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "breast-cancer"
    path = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    sys.stdout.write(json.dumps(measure(name, path), indent=1) + "\n")
