"""Unlearning without a certificate, as others published it: what the mechanisms are compared with.

None of them states an epsilon. Each returns what it changed and what it looked at.
"""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Edited:
    """Weights after a baseline.

    Args:
        weights: Float64, shape (d,).
        looks: Gradients of a single record that were evaluated; a Hessian product of a record counts as two.
        facts: What else was found, by name.
    """

    weights: Tensor
    looks: float
    facts: dict[str, float] = field(default_factory=dict)
