"""Kept curvature: what makes the next re-solve of a strongly convex objective cheap.

Two forms of an approximate inverse of ``H + mu I`` at the optimum: a Cholesky factor for a head of few parameters,
a randomised Nystrom approximation for everything else (Frangella, Tropp and Udell 2023, Algorithm 2.1 and
equation 5.3),

    P^-1 = (lambda_r + mu) U (Lambda + mu I)^-1 U^T + (I - U U^T).

It only speeds a solver up: no certificate depends on it. But it is computed from records, so it saw the people in
them: it serves one release and is then built anew from the retain set at the released weights.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from expunge.curvature.linearized import LinearizedObjective
from expunge.errors import InputError

HEAD_LIMIT = 2000  # parameters of a head up to which its curvature is formed and factored
_SEED = 20240801  # of sketch and sample: public, independent of every record
_BLOCK = 16  # vectors a product of the sketch: bounds memory


@dataclass(frozen=True)
class KeptCurvature:
    """An approximate inverse of the curvature, as plain tensors.

    Args:
        form: "cholesky" or "nystrom".
        factor: L with ``L L^T = H + mu I``, shape (d, d), or U, shape (d, r).
        eigenvalues: Lambda, shape (r,), descending; empty for "cholesky".
        l2: mu.
        records: How many records it was computed from.
    """

    form: Literal["cholesky", "nystrom"]
    factor: Tensor
    eigenvalues: Tensor
    l2: float
    records: int

    @property
    def size(self) -> int:
        """D."""
        return len(self.factor)

    def to(self, dtype: torch.dtype, device: torch.device) -> "KeptCurvature":
        """The same in another precision, elsewhere.

        Args:
            dtype: Of the vectors it will be applied to.
            device: Where they lie.

        Returns:
            A new record.
        """
        return replace(
            self, factor=self.factor.to(device, dtype), eigenvalues=self.eigenvalues.to(device, dtype)
        )

    def apply(self, vector: Tensor) -> Tensor:
        """``P^-1 v``.

        Args:
            vector: Shape (d,), of the factor's dtype.

        Returns:
            Shape (d,).
        """
        if self.form == "cholesky":
            return torch.cholesky_solve(vector[:, None], self.factor)[:, 0]
        shrink = (self.eigenvalues[-1] + self.l2) / (self.eigenvalues + self.l2)
        return vector + self.factor @ ((shrink - 1) * (self.factor.T @ vector))


def keep_curvature(
    objective: LinearizedObjective, weights: Tensor, *, rank: int, sample: int
) -> KeptCurvature:
    """Approximate the inverse curvature at some weights.

    Args:
        objective: Over the records that may be seen.
        weights: Shape (d,): the optimum, or released weights near it.
        rank: r, columns of the sketch, above 0.
        sample: Records that the sketch looks at, at most; the factor of a head looks at all.

    Returns:
        The kept curvature, in float32 (sketch) or float64 (factor).

    Raises:
        InputError: If rank or sample is not above 0.
    """
    if rank < 1 or sample < 1:
        raise InputError("invalid sketch", expected="rank and sample above 0", got=f"{rank}, {sample}")
    inputs = objective.head_inputs() if objective.size <= HEAD_LIMIT else None
    if inputs is not None:
        return _cholesky(objective, inputs, weights)
    part = objective.sample(sample, _SEED)
    probabilities = torch.softmax(part.logits(weights.to(part.network.device, part.network.dtype)), dim=1)
    columns = min(rank, part.size)
    generator = torch.Generator().manual_seed(_SEED)
    test = torch.randn(part.size, columns, generator=generator).to(part.network.device)
    test = torch.linalg.qr(test).Q
    blocks = [part.curvature_block(probabilities, rows.contiguous()) for rows in torch.split(test.T, _BLOCK)]
    image = torch.cat(blocks).T - part.l2 * test
    # keeps the small Cholesky factor positive in float32, where H + mu I rounds by about 1e-7 (||H|| + mu)
    shift = 1e-6 * (float(image.norm()) + part.l2)
    middle = test.T @ image
    middle = (middle + middle.T) / 2
    lower, failed = _shifted_cholesky(middle, shift)
    while int(failed) and math.isfinite(shift):
        shift *= 10
        lower, failed = _shifted_cholesky(middle, shift)
    image = image + shift * test
    basis = torch.linalg.solve_triangular(lower, image.T, upper=False).T
    u, singular, _ = torch.linalg.svd(basis, full_matrices=False)
    eigenvalues = (singular.square() - shift).clamp(min=0.0)
    return KeptCurvature("nystrom", u.contiguous(), eigenvalues, objective.l2, part.records)


def _shifted_cholesky(matrix: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    factor, failed = torch.linalg.cholesky_ex(matrix + shift * torch.eye(len(matrix)).to(matrix))
    return factor, failed


def _cholesky(objective: LinearizedObjective, inputs: Tensor, weights: Tensor) -> KeptCurvature:
    network = objective.network
    probabilities = torch.softmax(objective.logits(weights.to(network.device, network.dtype)), dim=1)
    dense = softmax_hessian(inputs, probabilities)
    dense.diagonal().add_(objective.l2)
    factor = torch.linalg.cholesky(dense)
    return KeptCurvature("cholesky", factor, factor.new_empty(0), objective.l2, objective.records)


def softmax_hessian(inputs: Tensor, probabilities: Tensor) -> Tensor:
    """Hessian of mean cross entropy of a linear layer, in the flat order of its weight and bias.

    Formula: block (k, l) is ``X^T diag(p_k (1[k = l] - p_l)) X / n`` with X the inputs and a column of ones.

    Args:
        inputs: What the layer sees, shape (n, p).
        probabilities: Softmax of its outputs, shape (n, classes).

    Returns:
        Symmetric matrix of shape (d, d) with ``d = classes (p + 1)``.
    """
    records, width = inputs.shape
    classes = probabilities.shape[1]
    extended = torch.cat([inputs, inputs.new_ones(records, 1)], dim=1)
    dense = inputs.new_empty(classes, width + 1, classes, width + 1)
    for k in range(classes):
        for other in range(k, classes):
            weight = probabilities[:, k] * (float(k == other) - probabilities[:, other])
            block = extended.T @ (weight[:, None] * extended) / records
            dense[k, :, other], dense[other, :, k] = block, block.T
    size = classes * (width + 1)
    # the module keeps all weights before all biases
    order = torch.arange(size).view(classes, width + 1)
    flat = torch.cat([order[:, :width].reshape(-1), order[:, width]]).to(inputs.device)
    return dense.view(size, size)[flat][:, flat]
