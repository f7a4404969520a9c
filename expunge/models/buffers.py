"""BatchNorm statistics from released weights and the retain set alone.

A network with BatchNorm is refused by default: its running statistics saw the forget set and are not unlearned. The
other way is to throw them away. After a release the statistics are a deterministic function of the released weights
and the retain set, and the retrained model's are the same function of its own weights and the same retain set: they
are post-processing, which costs no further epsilon. They say nothing of the forget set beyond what the released weights
say; of the retain set they are exact, un-noised averages.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from expunge.curvature.flat import FlatModule
from expunge.errors import CertificateRefusedError

CHUNK = 256


def recompute_statistics(
    module: nn.Module, weights: Tensor, features: Tensor, chunk: int = CHUNK
) -> dict[str, Tensor]:
    """Reset every BatchNorm layer's statistics and recompute them, in float64.

    Formula: the mean over K chunks, in the order of the rows, of the chunk's mean and unbiased variance of the layer's
    inputs (``momentum=None``); within a chunk, earlier layers normalise by the chunk itself, as in training. K is
    ``ceil(n / chunk)`` and chunks differ by at most one record, so that a short last chunk does not weigh too much.

    Reference: Izmailov et al., "Averaging weights leads to wider optima" (UAI 2018, arXiv 1803.05407), section 3.2.

    Args:
        module: With BatchNorm layers; left as it is.
        weights: Released weights, shape (d,): the trainable parameters in ``named_parameters`` order.
        features: The retain set, encoded, shape (n, ...), n at least 2.
        chunk: Records at a time, at least 3; part of the definition of the result.

    Returns:
        All the module's buffers by name, for :class:`expunge.curvature.flat.FlatModule`.

    Raises:
        CertificateRefusedError: If the weights do not fit, a buffer belongs to no BatchNorm layer, there are fewer than
            two records, or :class:`expunge.curvature.flat.FlatModule` refuses the module for another reason.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm1d(1))
        >>> statistics = recompute_statistics(net, torch.ones(2), torch.tensor([[1.0], [3.0]]))
        >>> float(statistics["0.running_mean"]), float(statistics["0.running_var"])
        (2.0, 2.0)
    """
    own = copy.deepcopy(module).double()
    network = FlatModule(
        own, dict(own.named_buffers())
    )  # refuses random layers and BatchNorm without statistics
    _check(own, network.size, weights, features, chunk)
    trainable = [parameter for parameter in own.parameters() if parameter.requires_grad]
    nn.utils.vector_to_parameters(weights.detach().double(), trainable)
    update_bn(torch.tensor_split(features.double(), math.ceil(len(features) / chunk)), own)  # resets first
    return {name: value.clone() for name, value in own.named_buffers()}


def _check(module: nn.Module, size: int, weights: Tensor, features: Tensor, chunk: int) -> None:
    if weights.shape != (size,):
        raise CertificateRefusedError(
            "the weights do not fit the module",
            expected=f"shape ({size},)",
            got=str(tuple(weights.shape)),
            remedy="pass the weights released for this very module",
        )
    if (
        len(features) < 2 or chunk < 3
    ):  # chunks of two may leave one of a single record, which has no variance
        raise CertificateRefusedError(
            "too few records for a variance",
            expected="at least 2, in chunks of at least 3",
            got=f"{len(features)} in chunks of {chunk}",
            remedy="use GroupNorm",
        )
    known = {
        f"{prefix}.{name}" if prefix else name
        for prefix, layer in module.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)
        for name, _ in layer.named_buffers(recurse=False)
    }
    others = [name for name, _ in module.named_buffers() if name not in known]
    if others:
        raise CertificateRefusedError(
            "a buffer cannot be recomputed",
            expected="buffers of BatchNorm layers only",
            got=", ".join(others[:4]),
            remedy="use layers without buffers",
        )
