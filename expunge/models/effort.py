"""What a training took: for the operator's forecast and the cost guard, and for nobody else.

It is an un-noised function of every record that the training saw (one attribute of one person moves the count), so
it lies in the git-ignored state folder alone, one file a model, named by the model's digest. The purge of a batch
destroys those of every version before the batch's. An exact release has its own, of the retain set; a noised one has
none.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from expunge.evidence.model_files import MODEL_FILE
from expunge.files import write_json


@dataclass(frozen=True)
class Effort:
    """What a training from scratch took.

    Args:
        seconds: Wall time.
        products: Curvature products (linearised) or optimiser steps (deep).
    """

    seconds: float
    products: int


def effort_path(folder: Path, model_digest: str) -> Path:
    """Where the effort of a model's training lies.

    Args:
        folder: The workspace's folder of efforts.
        model_digest: ``sha256:...`` of the model's files.

    Returns:
        The file's path.
    """
    return folder / f"{model_digest.removeprefix('sha256:')}.json"


def save_effort(folder: Path, model_digest: str, effort: Effort) -> Path:
    """Keep what a training took.

    Args:
        folder: The workspace's folder of efforts; created if absent.
        model_digest: Of the model that it made.
        effort: What it took.

    Returns:
        The file.
    """
    path = effort_path(folder, model_digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(effort))
    return path


def load_effort(folder: Path, model_digest: str) -> Effort | None:
    """What the training of a model took.

    Args:
        folder: The workspace's folder of efforts.
        model_digest: Of the model.

    Returns:
        The effort; None where it was destroyed, never known, or the file is damaged.
    """
    try:
        content = json.loads(effort_path(folder, model_digest).read_text(encoding="utf-8"))
        return Effort(float(content["seconds"]), int(content["products"]))
    except (OSError, KeyError, TypeError, ValueError):
        return None


def effort_in_files(model: Path) -> Effort | None:
    """What the training took, as a first version's files told it before version 2 of the format.

    Args:
        model: Folder of a first version's files. A later version of that format carries its parent's figures: they
            say what a training with the removed people took, and must not be used again.

    Returns:
        The effort; None from version 2 on.
    """
    try:
        content = json.loads((model / MODEL_FILE).read_text(encoding="utf-8"))["training"]
        return Effort(float(content["seconds"]), int(content["products"]))
    except (OSError, KeyError, TypeError, ValueError):
        return None
