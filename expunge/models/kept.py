"""Kept curvature on disk: one file for the model that serves, named by its digest, in the git-ignored state folder.

It saw the records it was computed from. It serves the next request, once, and is destroyed with what that request
supersedes; then it is built anew from the retain set at the released weights. A missing file costs time only.
"""

import shutil
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from expunge import nonces
from expunge.curvature.linearized import LinearizedObjective
from expunge.curvature.preconditioner import KeptCurvature, keep_curvature
from expunge.models.parts import Source
from expunge.models.spec import ModelSpec
from expunge.models.zoo import build


def kept_path(folder: Path, model_digest: str) -> Path:
    """Where the kept curvature of a model lies.

    Args:
        folder: The workspace's curvature folder.
        model_digest: ``sha256:...`` of the model's files.

    Returns:
        The file's path.
    """
    return folder / f"{model_digest.removeprefix('sha256:')}.safetensors"


def keeps(spec: ModelSpec) -> bool:
    """Whether curvature is kept for a model.

    Args:
        spec: The model.

    Returns:
        False for deep models, and where kept_rank is 0.
    """
    return spec.linearize and spec.kept_rank > 0


def rebuild_kept(
    folder: Path,
    model_digest: str,
    spec: ModelSpec,
    weights: Tensor,
    features: Tensor,
    labels: Tensor,
    search: Source = None,
    device: torch.device | str = "cpu",
) -> bool:
    """Destroy what was kept and build the curvature of a model from the records it was trained on.

    Args:
        folder: The workspace's curvature folder.
        model_digest: Of the model that serves now.
        spec: The model.
        weights: Its released weights, shape (d,).
        features: The records that it may know, shape (n, in_features).
        labels: Shape (n,).
        search: Folder of one's own model, or parts saved with a model.
        device: Where to compute; no certificate depends on what is kept.

    Returns:
        Whether anything is kept: not for deep models, nor where kept_rank is 0.
    """
    destroy_kept(folder)
    if not keeps(spec):
        return False
    network = build(spec, search, device)
    objective = LinearizedObjective(network, network.initial(), features, labels, spec.l2)
    kept = keep_curvature(objective, weights, rank=spec.kept_rank, sample=spec.kept_sample)
    folder.mkdir(parents=True, exist_ok=True)
    path = kept_path(folder, model_digest)
    staging = path.with_suffix(".partial")
    save_file(
        {"factor": kept.factor.contiguous().cpu(), "eigenvalues": kept.eigenvalues.cpu()},
        str(staging),
        metadata={
            "form": kept.form,
            "l2": repr(kept.l2),
            "records": str(kept.records),
            nonces.NONCE: nonces.draw(),
        },
    )
    staging.rename(path)
    return True


def load_kept(folder: Path, model_digest: str) -> KeptCurvature | None:
    """Read the kept curvature of a model.

    Args:
        folder: The workspace's curvature folder.
        model_digest: Of the model.

    Returns:
        The curvature; None where there is none or the file is damaged: unlearning is then slower, not different.
    """
    path = kept_path(folder, model_digest)
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = file.metadata()
            factor, eigenvalues = file.get_tensor("factor"), file.get_tensor("eigenvalues")
        if not (torch.isfinite(factor).all() and torch.isfinite(eigenvalues).all()):
            return None
        form: Literal["cholesky", "nystrom"] = "cholesky" if facts["form"] == "cholesky" else "nystrom"
        return KeptCurvature(form, factor, eigenvalues, float(facts["l2"]), int(facts["records"]))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def destroy_kept(folder: Path) -> None:
    """Destroy whatever curvature is kept.

    Args:
        folder: The workspace's curvature folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
