"""A model as a folder: model.json, weights.safetensors, and its parts that no batch changes; no pickle, no record.

Parts are frozen.safetensors and, of a network of one's own, code/PATH.py. A loaded model computes with them, whatever
the factory would make by now.

All files are released: whatever is in them is a function of the weights, of the retain set, or public. Version 1 had a
block on the training, which told of the people whom that training saw; version 2 has none, and the block is not read.

``_load_pyfunc`` is the entry point that MLflow's python_function flavour looks for.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from expunge import nonces
from expunge.datasets.preprocessing import Preprocessing, encode_features
from expunge.errors import DatasetError, WorkspaceError
from expunge.evidence.model_files import (
    CODE_FOLDER,
    FROZEN_FILE,
    MODEL_FILE,
    WEIGHTS_FILE,
    is_part,
    model_digest,
    part_digests,
)
from expunge.models.parts import Parts, Source
from expunge.models.predictor import predict_logits
from expunge.models.spec import ModelSpec, is_own
from expunge.models.zoo import parts_of


@dataclass(frozen=True)
class SavedModel:
    """A model read from its folder.

    Args:
        spec: Architecture and training procedure.
        preprocessing: From raw columns to features.
        weights: Trainable parameters, float64, shape (d,).
        origin: Initial weights, float64, shape (d,).
        search: Its parts; where it was saved without them, the folder of one's own code.
    """

    spec: ModelSpec
    preprocessing: Preprocessing
    weights: Tensor
    origin: Tensor
    search: Source = None

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


def source_for(parent: SavedModel, spec: ModelSpec) -> Source:
    """Where the network of a release comes from.

    Args:
        parent: The model that it is made from.
        spec: Of the release: the parent's, or with other widths where categories came or went.

    Returns:
        The parent's parts; for other widths its code alone, which makes the tensors anew.
    """
    parts = parent.search
    same = (spec.in_features, spec.classes) == (parent.spec.in_features, parent.spec.classes)
    return parts.made_anew() if isinstance(parts, Parts) and not same else parts


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
    _save_parts(parts_of(model.spec, model.search), folder)
    content = {
        "version": 2,
        nonces.NONCE: nonces.draw(),
        "spec": model.spec.to_json(),
        "preprocessing": model.preprocessing.to_json(),
        "parts": part_digests(folder),
    }
    (folder / MODEL_FILE).write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    return model_digest(folder)


def load_model(folder: Path, search: Path | None = None) -> SavedModel:
    """Read a model's folder.

    Args:
        folder: Written by :func:`save_model`.
        search: Folder of one's own code, which must be the model's; None where the model serves alone.

    Returns:
        The model.

    Raises:
        DatasetError: If a file is missing, is not the one that was saved, or is not a model of ours.
        WorkspaceError: If own code in the search folder is other code than the model's.
    """
    try:
        content = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
        tensors = load_file(str(folder / WEIGHTS_FILE))
        spec = ModelSpec.from_json(content["spec"])
        source: Source = search
        if content["version"] >= 2:
            source = _load_parts(spec, content["parts"], folder, tensors["origin"], search)
        return SavedModel(
            spec=spec,
            preprocessing=Preprocessing.from_json(content["preprocessing"]),
            weights=tensors["weights"],
            origin=tensors["origin"],
            search=source,
        )
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise DatasetError(
            "cannot read the model",
            expected=f"{MODEL_FILE} and {WEIGHTS_FILE}",
            got=f"{type(error).__name__}: {error}",
            remedy="run `expunge train`, or restore the folder",
        ) from error


def _save_parts(parts: Parts, folder: Path) -> None:
    if parts.frozen:
        save_file({name: one.contiguous() for name, one in parts.frozen.items()}, str(folder / FROZEN_FILE))
    for name, source in parts.code.items():
        if not is_part(f"{CODE_FOLDER}/{name}"):
            raise DatasetError(
                f"{name} cannot be saved with the model",
                expected="modules named in ASCII letters, digits and underscores",
                remedy="rename it",
            )
        path = folder / CODE_FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source)


def _load_parts(
    spec: ModelSpec, stated: dict[str, str], folder: Path, origin: Tensor, search: Path | None
) -> Parts:
    """Read a model's parts, each held against its digest in model.json, and own code against the workspace's."""
    there = part_digests(folder)
    for name in sorted({*stated, *there}):
        if stated.get(name) != there.get(name):
            raise DatasetError(
                f"{name} is not the file that was saved with the model",
                expected=stated.get(name, "no such file"),
                got=there.get(name, "no such file"),
                remedy="restore the model's folder",
            )
    names = [name.removeprefix(f"{CODE_FOLDER}/") for name in there if name != FROZEN_FILE]
    code = {name: (folder / CODE_FOLDER / name).read_bytes() for name in names}
    if is_own(spec.name) != bool(code):
        raise DatasetError(f"the model {spec.name} and the code in its folder do not fit together")
    for name, source in code.items():
        if search is not None and not ((search / name).is_file() and (search / name).read_bytes() == source):
            raise WorkspaceError(
                f"{name} is not the code that the model was made with",
                expected="the file as it was when the model was trained",
                got="another one" if (search / name).exists() else "no such file",
                remedy="restore it, for example by `git checkout`; a model of other code wants a new workspace",
            )
    frozen = load_file(str(folder / FROZEN_FILE)) if FROZEN_FILE in there else {}
    place = folder / CODE_FOLDER if search is None else search
    return Parts(code, frozen, origin, place.resolve())


def _load_pyfunc(path: str) -> SavedModel:
    model = load_model(Path(path))
    if model.search is None and is_own(model.spec.name):  # saved by an earlier version, without its code
        return replace(model, search=Path.cwd())
    return model
