"""Fisher forgetting: noise where the retain set does not mind it.

Golatkar, Achille and Soatto, "Eternal sunshine of the spotless net: selective forgetting in deep networks" (CVPR 2020,
arXiv 1911.04933), section 5, the scrubbing procedure with the Hessian replaced by the diagonal of the Fisher
information of the retain set:

    S(w) = w + (lambda sigma_h^2)^(1/4) F^(-1/4) n,   n ~ N(0, I).

Simplified: the label of each record is drawn once from the model's own prediction, in place of the sum over classes
(the same expectation), and F has a floor, which the published code has as an upper limit on the noise.
"""

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.functional import cross_entropy

from benchmarks.baselines import Edited
from expunge import progress
from expunge.curvature.flat import FlatModule

_NUMBERS = 8_000_000  # of all gradients of a chunk, which bounds memory to 64 MB


def fisher_forget(
    network: FlatModule,
    weights: Tensor,
    features: Tensor,
    *,
    noise_scale: float,
    floor: float,
    seed: int,
) -> Edited:
    """Add the noise once.

    Args:
        network: The network.
        weights: The original's, shape (d,).
        features: The retain set, shape (n, p).
        noise_scale: ``(lambda sigma_h^2)^(1/4)``.
        floor: Added to F: weights that no record looks at have none.
        seed: Of drawn labels and noise: this is no release, so the noise need not be secret.

    Returns:
        Noised weights, with the noise's median over the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    information = fisher_diagonal(network, weights, features, generator)
    spread = noise_deviation(information, noise_scale, floor)
    noise = torch.randn(len(weights), dtype=weights.dtype, generator=generator)
    return Edited(weights + spread * noise, len(features), {"median_noise": float(spread.median())})


def noise_deviation(information: Tensor, noise_scale: float, floor: float) -> Tensor:
    """Standard deviation a weight: ``noise_scale (F + floor)^(-1/4)``.

    Args:
        information: F, at least 0, shape (d,).
        noise_scale: ``(lambda sigma_h^2)^(1/4)``.
        floor: Above 0.

    Returns:
        Shape (d,).

    Example:
        >>> noise_deviation(torch.tensor([16.0, 0.0]), 0.5, 0.0625).tolist()[1]
        1.0
    """
    return noise_scale * (information + floor) ** -0.25


def fisher_diagonal(
    network: FlatModule, weights: Tensor, features: Tensor, generator: torch.Generator
) -> Tensor:
    """Diagonal of ``E_x E_(y ~ p(y|x; w)) grad log p(y|x; w) grad log p(y|x; w)^T``, one drawn y a record.

    Args:
        network: The network.
        weights: Shape (d,).
        features: Shape (n, p).
        generator: Of the drawn labels.

    Returns:
        Shape (d,).
    """

    def loss(w: Tensor, one: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(network(w, one[None]), label[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    total = torch.zeros_like(weights)
    parts = torch.split(features, max(1, _NUMBERS // network.size))
    for done, part in enumerate(parts):
        with torch.no_grad():
            probabilities = torch.softmax(network(weights, part), dim=1)
        drawn = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        total += gradients(weights, part, drawn).square().sum(dim=0)
        progress.report("Fisher information", done + 1, len(parts))
    return total / len(features)
