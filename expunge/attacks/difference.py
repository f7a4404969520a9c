"""What parent and child together give away of the records between them.

Whoever kept the parent can subtract: the unlearning step, run backwards, is the forgotten records' gradient. No
certificate speaks against it (earlier releases that someone kept are outside its scope); large batches and noise do.

Reference: Bertran, Tang, Kearns, Morgenstern, Roth and Wu, "Reconstruction attacks on machine unlearning: simple models
are vulnerable" (NeurIPS 2024, arXiv 2405.20272).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.func import grad, jvp, vmap
from torch.nn.functional import cross_entropy

from expunge.attacks.roc import auc_interval
from expunge.attacks.scores import Floats, vector
from expunge.curvature.flat import FlatModule
from expunge.curvature.jacobian import chunk_size, record_bytes
from expunge.errors import InputError

_GRADIENT_BYTES = 1 << 28  # of per-record gradients at once


@dataclass(frozen=True)
class Reconstruction:
    """A record read off a gradient of a softmax layer.

    Args:
        features: What the layer saw, shape (width,).
        label: Its class.
        rank_one: Share of the gradient's squared norm that one record explains: 1 for a single forgotten record.
    """

    features: Tensor
    label: int
    rank_one: float


@dataclass(frozen=True)
class DifferenceResult:
    """How well the difference of two models picks the forgotten records out of candidates.

    Args:
        forgotten: Records in the batch.
        candidates: Records that were ranked, the forgotten ones included.
        best_rank: Rank of the forgotten record that stands out most, 1 the first; ties count against the attack.
        mean_percentile: Mean over the forgotten of the share of other candidates that they beat; 0.5 for chance.
        auc: Forgotten against other candidates; the same number.
        auc_low: Lower end of its 95 % interval.
        auc_high: Upper end.
    """

    forgotten: int
    candidates: int
    best_rank: int
    mean_percentile: float
    auc: float
    auc_low: float
    auc_high: float

    def to_json(self) -> dict[str, Any]:
        """Plain data, to be sealed.

        Returns:
            A JSON-able dict.
        """
        return asdict(self)


def forgotten_gradient(
    parent: Tensor,
    child: Tensor,
    product: Callable[[Tensor], Tensor],
    *,
    retained: int,
    forgotten: int,
    l2: float,
) -> Tensor:
    """Sum of the forgotten records' gradients, where both models are minimisers.

    Formula: ``n_r grad L_r(w) = -sum over D_u of (grad ell(w) + mu w)`` at the parent w, and ``grad L_r = 0`` at the
    child: ``sum grad ell(w) = n_r H (child - w) - n_u mu w``, with H the mean Hessian of L_r between the two.

    Reference: Bertran et al. (2024), section 4, there for a Newton step from the parent.

    Args:
        parent: Shape (d,).
        child: Shape (d,).
        product: Hessian of the objective times a vector; an attacker takes it from public records, at the midpoint.
        retained: n_r.
        forgotten: n_u.
        l2: mu.

    Returns:
        Shape (d,).
    """
    return retained * product(child - parent) - forgotten * l2 * parent


def reconstruct_record(gradient: Tensor, classes: int) -> Reconstruction:
    """Features and label of one forgotten record of a softmax layer with bias.

    Formula: its gradient is ``(p - e_y) (x, 1)^T``: the leading singular pair, scaled so that the bias's coordinate is
    1. Only the label's coefficient is negative.

    Reference: Bertran et al. (2024), section 3.

    Args:
        gradient: Of the layer's flat parameters, weights (classes, width) before bias (classes,), shape (d,).
        classes: Number of classes.

    Returns:
        The record; of several forgotten ones, a mixture of them.

    Example:
        >>> error, x = torch.tensor([-0.75, 0.75]), torch.tensor([3.0, 4.0])
        >>> found = reconstruct_record(torch.cat([torch.outer(error, x).reshape(-1), error]), 2)
        >>> found.label, found.features.round().tolist()
        (0, [3.0, 4.0])
    """
    width = len(gradient) // classes - 1
    weights, bias = gradient[: classes * width].view(classes, width), gradient[classes * width :]
    left, values, right = torch.linalg.svd(torch.cat([weights, bias[:, None]], dim=1), full_matrices=False)
    scale = right[0, -1]
    total = float(values.square().sum())
    return Reconstruction(
        features=right[0, :-1] / scale,
        label=int((left[:, 0] * torch.sign(scale)).argmin()),
        rank_one=float(values[0] ** 2) / total if total else 0.0,
    )


def gradient_scores(
    network: FlatModule,
    weights: Tensor,
    direction: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    origin: Tensor | None = None,
    normalize: bool = True,
) -> Floats:
    """How far each candidate's gradient points along a direction.

    Formula: ``<grad ell(z; w), direction>``, over both norms if normalised. With ``direction = child - parent`` it is
    the first-order rise of the candidate's loss from parent to child; with ``H (child - parent)`` and one forgotten
    record the cosine is 1 for that record and, unless gradients are parallel, for no other.

    Args:
        network: The model.
        weights: The parent's, shape (d,).
        direction: ``child - parent``, or a Hessian times it, shape (d,).
        features: Of the candidates, shape (n, in_features).
        labels: Shape (n,).
        origin: w0 of a linearised model; None for a deep one.
        normalize: Whether cosines are returned.

    Returns:
        Shape (n,); 0 where a norm is 0.
    """
    at = weights if origin is None else origin
    features = features.to(network.dtype)
    each = record_bytes(network, at, features[:1])
    length = min(chunk_size(each), max(1, _GRADIENT_BYTES // (8 * network.size)))
    scores = [
        _scores(network, weights, direction, x, y, origin, normalize)
        for x, y in zip(torch.split(features, length), torch.split(labels, length), strict=True)
    ]
    return np.asarray(torch.cat(scores).numpy(), dtype=np.float64)


def _scores(
    network: FlatModule,
    weights: Tensor,
    direction: Tensor,
    features: Tensor,
    labels: Tensor,
    origin: Tensor | None,
    normalize: bool,
) -> Tensor:
    def losses(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        if origin is None:
            return cross_entropy(network(w, x), y, reduction="none")
        linear = jvp(lambda u: network(u, x), (origin,), (w,))
        return cross_entropy(linear[0] + linear[1], y, reduction="none")

    if not normalize:
        along: Tensor = jvp(lambda w: losses(w, features, labels), (weights,), (direction,))[1]
        return along.detach()
    one = grad(lambda w, x, y: losses(w, x[None], y[None])[0])
    gradients = vmap(one, in_dims=(None, 0, 0))(weights, features, labels)
    norms = gradients.norm(dim=1) * direction.norm()
    return torch.where(norms > 0, gradients @ direction / norms, torch.zeros_like(norms)).detach()


def rank_forgotten(scores: ArrayLike, forgotten: Sequence[int]) -> DifferenceResult:
    """Judge a ranking of candidates.

    Args:
        scores: Of every candidate, the larger the likelier forgotten, shape (n,).
        forgotten: Positions of the forgotten ones.

    Returns:
        The result.

    Raises:
        InputError: If none or all of the candidates were forgotten.

    Example:
        >>> rank_forgotten([0.1, 0.9, 0.3], [1]).best_rank
        1
    """
    values = vector(scores, "scores of candidates")
    chosen = np.zeros(len(values), dtype=bool)
    chosen[list(forgotten)] = True
    if chosen.all() or not chosen.any():
        raise InputError(
            "nothing to rank", expected="forgotten records among others",
            got=f"{int(chosen.sum())} of {len(values)}",
        )  # fmt: skip
    auc, low, high = auc_interval(values[chosen], values[~chosen])
    best = 1 + int((values[~chosen] >= values[chosen].max()).sum())
    return DifferenceResult(int(chosen.sum()), len(values), best, auc, auc, low, high)
