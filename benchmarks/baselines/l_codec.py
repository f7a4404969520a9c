"""L-CODEC: a Newton step on the few units that the forgotten records' loss depends on.

Mehta, Pal, Singh and Ravi, "Deep unlearning via randomized conditionally independent Hessians" (CVPR 2022, arXiv
2204.07655). Records to be forgotten are perturbed; L-FOCI selects the units (rows of linear layers, filters of
convolutions) whose activations, given those selected before, the loss still depends on; the update of Sekhari et al.
(NeurIPS 2021) is made on their weights alone:

    w_P <- w_P + n_u / n_r (H_r,P + lambda I)^-1 grad_P L_u(w).

The coefficient is that of Azadkia and Chatterjee ("A simple measure of conditional dependence", Annals of Statistics
2021), section 2. Simplified: the whole forget set is one request with one selection, from some of its records; a
convolution's unit is its filter's mean over the image; curvature is an exact Hessian product over a sample of the
retain set, where the published code takes differences of kept gradients; lambda grows until the block is positive
definite; no noise follows, for its constants are not known.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.baselines import Edited
from expunge import progress
from expunge.curvature.flat import FlatModule
from expunge.curvature.network import NetworkObjective
from expunge.curvature.solvers import conjugate_gradients
from expunge.errors import NotConvergedError

_JITTER = 1e-6  # of an activation's spread: ties are broken at random
_TOLERANCE = 1e-3
_MOST_PRODUCTS = 60
_GROWTH = 4.0
_TRIES = 12

Units = list[tuple[str, int]]


def l_codec(
    network: FlatModule,
    weights: Tensor,
    retain: tuple[Tensor, Tensor],
    forget: tuple[Tensor, Tensor],
    *,
    l2: float,
    rows: int,
    perturbation: float,
    most_units: int,
    damping: float,
    curvature_records: int,
    seed: int,
) -> Edited:
    """Select, then step.

    Args:
        network: The network.
        weights: The original's, shape (d,).
        retain: Features and labels of the retain set.
        forget: Of the forget set.
        l2: mu of the objective.
        rows: Perturbed records that the selection looks at.
        perturbation: Standard deviation of the noise on an encoded feature.
        most_units: Units to select at most.
        damping: lambda to begin with.
        curvature_records: Retained records that the Hessian is taken over.
        seed: Of the records, perturbations and ties.

    Returns:
        The weights, with the numbers of units and weights that were touched and the damping that was needed.

    Raises:
        NotConvergedError: If the block's system was not solved at any damping.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(forget[1]), (rows,), generator=generator)
    inputs = forget[0][chosen]
    inputs = inputs + perturbation * torch.randn(inputs.shape, dtype=inputs.dtype, generator=generator)
    activations, units, losses = observe(network, weights, inputs, forget[1][chosen])
    selected = foci(activations, losses, most_units, np.random.default_rng(seed))
    block = block_of(network, [units[index] for index in selected])

    sample = torch.randperm(len(retain[1]), generator=generator)[:curvature_records]
    curved = NetworkObjective(network, retain[0][sample], retain[1][sample], l2)
    product = curved.hessian_at(weights)
    slope = NetworkObjective(network, *forget, l2).gradient(weights)[block]

    def inside(vector: Tensor, added: float) -> Tensor:
        whole = torch.zeros_like(weights)
        whole[block] = vector
        return product(whole)[block] + added * vector

    products = 0
    for _ in range(_TRIES):
        progress.report("L-CODEC: step", 0, 0)
        solution = conjugate_gradients(
            partial(inside, added=damping),
            slope,
            tolerance=_TOLERANCE * float(slope.norm()),
            max_products=_MOST_PRODUCTS,
        )
        products += solution.products
        if solution.status == "converged":
            break
        damping *= _GROWTH
    else:
        raise NotConvergedError("the block's system was not solved", remedy="raise the damping")
    moved = weights.clone()
    moved[block] += len(forget[1]) / len(retain[1]) * solution.solution
    return Edited(
        moved,
        rows + len(forget[1]) + 2 * products * len(sample),
        {"units": len(selected), "block": len(block), "damping": damping},
    )


def observe(
    network: FlatModule, weights: Tensor, inputs: Tensor, labels: Tensor
) -> tuple[NDArray[np.float64], Units, NDArray[np.float64]]:
    """Activations of every unit, and the loss, of each record.

    Args:
        network: The network.
        weights: Shape (d,).
        inputs: Shape (n, p).
        labels: Shape (n,).

    Returns:
        Activations of shape (n, units), the units by layer and index, and losses of shape (n,).
    """
    seen: list[Tensor] = []
    units: Units = []

    def watch(name: str, layer: nn.Module, given: Any, output: Tensor) -> None:
        flat = output.flatten(2).mean(dim=2) if output.ndim > 2 else output
        seen.append(flat)
        units.extend((name, index) for index in range(flat.shape[1]))

    hooks = [
        layer.register_forward_hook(partial(watch, name))
        for name, layer in network.module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            losses = cross_entropy(network(weights, inputs), labels, reduction="none")
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(seen, dim=1).double().numpy(), units, losses.double().numpy()


def block_of(network: FlatModule, units: Units) -> Tensor:
    """Indices of the flat weights that make up some units: a row of the layer's weight, and its bias.

    Args:
        network: The network.
        units: By layer and index.

    Returns:
        Shape (weights,).
    """
    places = network.unflatten(torch.arange(network.size))
    parts = []
    for layer, index in units:
        for kind in ("weight", "bias"):
            if f"{layer}.{kind}" in places:
                parts.append(places[f"{layer}.{kind}"][index].reshape(-1))
    return torch.cat(parts)


def foci(
    activations: NDArray[np.float64], response: NDArray[np.float64], most: int, rng: np.random.Generator
) -> list[int]:
    """Forward selection by conditional dependence, until nothing depends on what is left.

    Args:
        activations: Shape (n, units).
        response: Shape (n,).
        most: Units to select at most.
        rng: Breaks ties.

    Returns:
        Columns in the order of selection, at least one.
    """
    spread = activations.std(axis=0)
    alive = np.flatnonzero(spread > 0)
    scaled = activations[:, alive] / spread[alive]
    scaled = scaled + _JITTER * rng.standard_normal(scaled.shape)
    chosen: list[int] = []
    while len(chosen) < min(most, len(alive)):
        progress.report("L-CODEC: selection", len(chosen), most)
        rest = [column for column in range(len(alive)) if column not in chosen]
        scores = [codec(response, scaled[:, [column]], scaled[:, chosen]) for column in rest]
        best = int(np.argmax(scores))
        if chosen and scores[best] <= 0:
            break
        chosen.append(rest[best])
    return [int(alive[column]) for column in chosen]


def codec(response: NDArray[np.float64], z: NDArray[np.float64], x: NDArray[np.float64]) -> float:
    """How much Y depends on Z given X: 0 for independence, 1 where Y is a function of Z given X.

    Formula: with R_i the number of Y_j <= Y_i, L_i that of Y_j >= Y_i, N(i) the nearest neighbour of i in X and M(i) in
    (X, Z),

        sum (min(R_i, R_M(i)) - min(R_i, R_N(i))) / sum (R_i - min(R_i, R_N(i))),

    and without X ``sum (n min(R_i, R_M(i)) - L_i^2) / sum L_i (n - L_i)``.

    Args:
        response: Y, shape (n,).
        z: Shape (n, q).
        x: Shape (n, p); p = 0 for the unconditional coefficient.

    Returns:
        The coefficient; 0 where it has no value.
    """
    ranks = rankdata(response, method="max")
    low = rankdata(-response, method="max")
    n = len(response)
    both = np.minimum(ranks, ranks[_neighbours(np.hstack([x, z]))])
    if x.shape[1] == 0:
        above, below = (n * both - low**2).sum(), (low * (n - low)).sum()
    else:
        alone = np.minimum(ranks, ranks[_neighbours(x)])
        above, below = (both - alone).sum(), (ranks - alone).sum()
    return float(above / below) if below else 0.0


def _neighbours(points: NDArray[np.float64]) -> NDArray[np.int64]:
    found: NDArray[np.int64] = cKDTree(points).query(points, k=2)[1][:, 1]
    return found
