"""The stages of dvc.yaml: prepare, train, evaluate. Files in, files out."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from expunge import nonces
from expunge.datasets.contract import read_contract
from expunge.datasets.partitions import read_dataset
from expunge.datasets.preprocessing import Preprocessing, encode, fit
from expunge.devices import device_in_use
from expunge.errors import CertificateRefusedError, DatasetError, PolicyError
from expunge.models.effort import Effort, save_effort
from expunge.models.predictor import accuracy
from expunge.models.serving import SavedModel, load_model, save_model
from expunge.models.spec import ModelSpec, require_declared
from expunge.models.training import train as train_model
from expunge.models.zoo import build, parts_of
from expunge.residue.model_parts import refuse_rows
from expunge.settings import Workspace, load_params

PREPROCESSING_FILE, MODEL_FOLDER, METRICS_FILE = "preprocessing.json", "model", "metrics.json"
STAGES = ("prepare", "train", "evaluate")


def prepare(workspace: Workspace) -> None:
    """Compute preprocessing constants from the training rows.

    Args:
        workspace: Where.
    """
    frame = read_dataset(workspace.dataset_dir)
    preprocessing = fit(frame[frame["split"] == "train"], read_contract(workspace.contract_path))
    _write_json(workspace.build_dir / PREPROCESSING_FILE, preprocessing.to_json())


def train(workspace: Workspace) -> None:
    """Train from scratch and save the model.

    Args:
        workspace: Where.

    Raises:
        NotConvergedError: If training does not reach its tolerance.
        PolicyError: If nobody declared a network of one's own to be public, or it cannot be made, or has layers for
            which nothing is ever certified.
        CertificateRefusedError: If a part of it holds a row of the dataset, or is not saved with it.
    """
    frame = read_dataset(workspace.dataset_dir)
    content = json.loads((workspace.build_dir / PREPROCESSING_FILE).read_text(encoding="utf-8"))
    preprocessing = Preprocessing.from_json(content)
    encoded = encode(frame[frame["split"] == "train"], preprocessing)
    params = load_params(workspace)
    spec = ModelSpec.from_params(
        params, in_features=encoded.features.shape[1], classes=len(preprocessing.classes)
    )
    require_declared(spec.name, params.model)
    parts = parts_of(spec, workspace.root)
    try:
        build(spec, parts)
    except CertificateRefusedError as error:  # no data could mend it: params.yaml is wrong
        raise PolicyError(f"this model can never be certified: {error}") from error
    contract = read_contract(workspace.contract_path)
    refuse_rows(parts, spec.hyperparameters, frame, contract, preprocessing)
    features, labels = torch.from_numpy(encoded.features), torch.from_numpy(encoded.labels)
    with device_in_use() as device:
        trained = train_model(spec, features, labels, search=parts, device=device)
    model = SavedModel(
        spec=spec,
        preprocessing=preprocessing,
        weights=trained.weights,
        origin=trained.origin,
        search=parts,
    )
    shutil.rmtree(workspace.build_dir / MODEL_FOLDER, ignore_errors=True)
    digest = save_model(model, workspace.build_dir / MODEL_FOLDER)
    save_effort(workspace.effort_dir, digest, Effort(trained.seconds, trained.products))


def evaluate(workspace: Workspace) -> None:
    """Measure the saved model on the test rows.

    Args:
        workspace: Where.
    """
    model = load_model(workspace.build_dir / MODEL_FOLDER, workspace.root)
    frame = read_dataset(workspace.dataset_dir)
    _write_json(workspace.build_dir / METRICS_FILE, metrics(model, frame))


def metrics(model: SavedModel, frame: pd.DataFrame) -> dict[str, float]:
    """Test metrics of a model.

    Args:
        model: The model.
        frame: Canonical rows; those of the test split count.

    Returns:
        ``accuracy`` and ``test_records``.

    Raises:
        DatasetError: If there are no test rows.
    """
    test = frame[frame["split"] == "test"]
    if test.empty:
        raise DatasetError("no test rows are left", expected="at least one", remedy="check the split")
    labels = torch.from_numpy(encode(test, model.preprocessing).labels)
    with device_in_use() as device:
        logits = model.logits(test, device)
    return {"accuracy": accuracy(logits, labels), "test_records": float(len(test))}


def install_model(source: Path, workspace: Workspace, measured: dict[str, float]) -> None:
    """Replace the stages' outputs by a released model's.

    Args:
        source: Folder of the released model.
        workspace: Where.
        measured: Its test metrics.
    """
    build = workspace.build_dir
    shutil.rmtree(build / MODEL_FOLDER, ignore_errors=True)
    build.mkdir(exist_ok=True)
    shutil.copytree(source, build / MODEL_FOLDER)
    model = load_model(source, workspace.root)
    _write_json(build / PREPROCESSING_FILE, model.preprocessing.to_json())
    _write_json(build / METRICS_FILE, measured)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {nonces.NONCE: nonces.draw(), **content}  # dvc.lock names its digest
    path.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
