"""A model as a folder: weights.safetensors and model.json; no pickle, no code, no record.

Both files are released: whatever is in them is a function of the weights, of the retain set, or public. Version 1 had a
block on the training, which told of the people whom that training saw; version 2 has none, and the block is not read.

``_load_pyfunc`` is the entry point that MLflow's python_function flavour looks for.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from expunge import nonces
from expunge.datasets.preprocessing import Preprocessing, encode_features
from expunge.errors import DatasetError
from expunge.evidence.model_files import MODEL_FILE, WEIGHTS_FILE, model_digest
from expunge.models.predictor import predict_logits
from expunge.models.spec import ModelSpec


@dataclass(frozen=True)
class SavedModel:
    """A model read from its folder.

    Args:
        spec: Architecture and training procedure.
        preprocessing: From raw columns to features.
        weights: Trainable parameters, float64, shape (d,).
        origin: Initial weights, float64, shape (d,).
        search: Folder of one's own model code.
    """

    spec: ModelSpec
    preprocessing: Preprocessing
    weights: Tensor
    origin: Tensor
    search: Path | None = None

    def logits(self, frame: pd.DataFrame, device: torch.device | str = "cpu") -> Tensor:
        """Logits for raw records.

        Args:
            frame: One row a record, with the dataset's feature columns.
            device: Where to compute.

        Returns:
            Shape (n, classes), on the CPU.
        """
        features = torch.from_numpy(encode_features(frame, self.preprocessing))
        return predict_logits(self.spec, self.weights, self.origin, features, self.search, device)

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Label and class probabilities for raw records (the python_function interface).

        Args:
            frame: One row a record, with the dataset's feature columns.
            params: Unused; part of the interface.

        Returns:
            Columns ``label`` and ``p_<class>``.
        """
        probabilities = torch.softmax(self.logits(frame), dim=1).numpy()
        classes = list(self.preprocessing.classes)
        out = pd.DataFrame(probabilities, columns=[f"p_{name}" for name in classes], index=frame.index)
        out.insert(0, "label", [classes[index] for index in probabilities.argmax(axis=1)])
        return out


def save_model(model: SavedModel, folder: Path) -> str:
    """Write a model's folder; each file carries a nonce of its own.

    Args:
        model: The model.
        folder: Created if absent.

    Returns:
        The model's digest (:func:`model_digest`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"weights": model.weights.contiguous(), "origin": model.origin.contiguous()}
    save_file(tensors, str(folder / WEIGHTS_FILE), metadata={nonces.NONCE: nonces.draw()})
    content = {
        "version": 2,
        nonces.NONCE: nonces.draw(),
        "spec": model.spec.to_json(),
        "preprocessing": model.preprocessing.to_json(),
    }
    (folder / MODEL_FILE).write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    return model_digest(folder)


def load_model(folder: Path, search: Path | None = None) -> SavedModel:
    """Read a model's folder.

    Args:
        folder: Written by :func:`save_model`.
        search: Folder of one's own model code.

    Returns:
        The model.

    Raises:
        DatasetError: If a file is missing or is not a model of ours.
    """
    try:
        content = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
        tensors = load_file(str(folder / WEIGHTS_FILE))
        return SavedModel(
            spec=ModelSpec.from_json(content["spec"]),
            preprocessing=Preprocessing.from_json(content["preprocessing"]),
            weights=tensors["weights"],
            origin=tensors["origin"],
            search=search,
        )
    except (OSError, KeyError, ValueError) as error:
        raise DatasetError(
            "cannot read the model",
            expected=f"{MODEL_FILE} and {WEIGHTS_FILE}",
            got=f"{type(error).__name__}: {error}",
            remedy="run `expunge train`, or restore the folder",
        ) from error


def _load_pyfunc(path: str) -> SavedModel:
    return load_model(Path(path))
