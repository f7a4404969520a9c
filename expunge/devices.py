"""The device that a process computes on: ``EXPUNGE_DEVICE``, else the first GPU that PyTorch sees, else the CPU.

A GPU only gets there faster. What a certificate rests on is settled on the CPU in float64, at the very weights that
are noised: the gradient norm and rounding of a convex release, the residual of a Newton step, every projection, and
the noise itself. The one figure of a bound that is still computed on the GPU is the spectrum of a Newton step: in
float64, by kernels that always sum in the same order, with Lanczos' margin for rounding on top.
"""

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from expunge.errors import InputError

CPU = torch.device("cpu")


def chosen_device() -> torch.device:
    """Choose a device; nothing else is done but that a GPU is told to compute exactly.

    Returns:
        ``cpu``, or ``cuda`` with its index.

    Raises:
        InputError: If ``EXPUNGE_DEVICE`` names no device, or one that is not here.

    Example:
        >>> os.environ["EXPUNGE_DEVICE"] = "cpu"
        >>> chosen_device()
        device(type='cpu')
    """
    named = os.environ.get("EXPUNGE_DEVICE", "")
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if named == "cpu" or not (named or seen):
        return CPU
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", named or "cuda")
    if match is None or int(match[1] or 0) >= seen:
        raise InputError(
            "EXPUNGE_DEVICE names no device of this machine",
            expected=", ".join(["cpu", *(f"cuda:{index}" for index in range(seen))]),
            got=named,
            remedy="correct it or unset it; a GPU needs a build of PyTorch that sees it",
        )
    _compute_exactly()
    return torch.device("cuda", int(match[1] or 0))


@contextmanager
def device_in_use() -> Iterator[torch.device]:
    """Choose a device and have it alone among this user's processes: whoever comes second waits.

    A pool's limit counts the runs of one Prefect server; stacks of several workspaces may share a machine.

    Yields:
        The device.

    Raises:
        InputError: If ``EXPUNGE_DEVICE`` names no device, or one that is not here.
    """
    device = chosen_device()
    if device.type == "cpu":
        yield device
        return
    path = Path(tempfile.gettempdir()) / f"expunge-{os.getuid()}-{device.type}-{device.index}.lock"
    with path.open("a", encoding="utf-8") as lock:  # a killed process gives it back
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield device


def _compute_exactly() -> None:
    """No TF32, and sums in one order: training is what a release is compared with, so it must be repeatable.

    Kernels without such a form only warn, as nothing on the GPU but the spectrum decides what may be certified.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
