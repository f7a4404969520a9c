"""Solvers of the paper's Newton system, side by side: exact inverse, conjugate gradients, LiSSA in two forms.

The system is ``(H + damping I) x = g`` at trained weights over the retain set, with damping just above ``||H||``.
Conjugate gradients run in float32 until the relative residual is within the tolerance, with activations kept between
products (the time of computing them is included) and streamed; the exact inverse is formed in float64; every residual
is measured in float64 over the whole retain set. ``benchmarks/experiments/peers.py`` calls it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from benchmarks.common import SEED, Records, best, model_spec, say, timed
from benchmarks.profiles import by_operator, group
from expunge.curvature.lanczos import spectrum_bounds
from expunge.curvature.lissa import lissa
from expunge.curvature.network import NetworkObjective
from expunge.curvature.solvers import Solution, conjugate_gradients
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.models.zoo import build, build_module

FORGOTTEN = 1000
DAMPING_FACTOR = 1.1  # of the upper bound on the spectrum
CHAINS, STEPS, BATCH, SCALE = 10, 1000, 10, 1000.0  # the paper's defaults
LANCZOS_STEPS, LANCZOS_FAILURE = 60, 1e-6
_MARGIN = 0.9  # float32 aims below the tolerance that float64 then measures


def published_lissa(
    spec: ModelSpec,
    weights: Tensor,
    features: Tensor,
    labels: Tensor,
    right: Tensor,
    *,
    damping: float,
    steps: int,
    chains: int,
    batch: int,
    scale: float,
) -> Tensor:
    """The recursion as it was published: chain after chain, step after step, one double backward each.

    Batches come from a loader with a random sampler, as published; the published data set decodes images besides.
    """
    module = build_module(spec).to(device=weights.device, dtype=weights.dtype)
    vector_to_parameters(weights, module.parameters())
    parameters = list(module.parameters())
    generator = torch.Generator().manual_seed(SEED)
    stored = TensorDataset(features, labels)
    total = torch.zeros_like(right)
    for _ in range(chains):
        x = right.clone()
        sampler = RandomSampler(stored, replacement=True, num_samples=batch * steps, generator=generator)
        for rows, classes in DataLoader(stored, batch_size=batch, sampler=sampler):
            loss = cross_entropy(module(rows), classes)
            loss = loss + (damping + spec.l2) / 2 * sum(p.square().sum() for p in parameters)
            gradients = torch.autograd.grad(loss, parameters, create_graph=True)
            inner = parameters_to_vector(gradients) @ x
            product = parameters_to_vector(torch.autograd.grad(inner, parameters, create_graph=True)).detach()
            x = right + x - product / scale
        total += x / scale
    return total / chains


def exact_inverse(objective: NetworkObjective, weights: Tensor, right: Tensor, damping: float) -> Tensor:
    """``(H + damping I)^-1 g`` by forming the Hessian, one product a column, and its inverse."""
    dense = objective.hessian(weights)
    dense.diagonal().add_(damping)
    inverse: Tensor = torch.linalg.inv(dense)
    return inverse @ right


def measure(
    records: Records,
    device: torch.device,
    *,
    forgotten: int = FORGOTTEN,
    hidden: tuple[int, ...] = (32, 32),
    activation: str = "tanh",
    epochs: int = 5,
    tolerance: float = 1e-3,
    steps: int = STEPS,
    published_steps: int | None = None,
    chains: int = CHAINS,
    batch: int = BATCH,
    scale: float = SCALE,
    dense_limit: int = 0,
) -> dict[str, Any]:
    """Train, and solve the Newton system of the retain set in every way; exactly up to ``dense_limit`` parameters."""
    spec = model_spec(
        "mlp",
        records.features.shape[1],
        records.classes,
        {"epochs": epochs},
        hidden=list(hidden),
        activation=activation,
    )
    trained = train(spec, records.features, records.labels)
    features, labels = records.features[forgotten:].to(device), records.labels[forgotten:].to(device)
    features32 = features.float()
    network = build(spec).to(device=device)
    exact = NetworkObjective(network, features, labels, spec.l2)
    single = NetworkObjective(network.to(dtype=torch.float32), features32, labels, spec.l2)
    weights = trained.weights.to(device)
    right = exact.gradient(weights)
    hessian = exact.hessian_at(weights)
    spectrum = spectrum_bounds(
        lambda v: hessian(v.to(device)).cpu(),
        exact.size,
        steps=LANCZOS_STEPS,
        failure_probability=LANCZOS_FAILURE,
        generator=torch.Generator().manual_seed(SEED),
    )
    damping = DAMPING_FACTOR * spectrum.upper
    weights32, right32 = weights.float(), right.float()

    def residual(x: Tensor) -> float:
        x = x.double()
        return float((hessian(x) + damping * x - right).norm() / right.norm())

    def damped(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda v: product(v) + damping * v

    def solve(product: Callable[[Tensor], Tensor]) -> Solution:
        return conjugate_gradients(
            damped(product),
            right32,
            tolerance=_MARGIN * tolerance * float(right.norm()),
            max_products=500,
            measure=False,
        )

    gradients, gradients_seconds = best(lambda: solve(single.hessian_at(weights32)), device)
    streamed, streamed_seconds = best(lambda: solve(partial(single.hessian_product, weights32)), device)
    say(f"conjugate gradients: {gradients_seconds:.3g} s kept, {streamed_seconds:.3g} s streamed")
    profile = group(by_operator(lambda: solve(single.hessian_at(weights32)), device))
    dense = None
    if exact.size <= dense_limit:
        x, dense_seconds = timed(lambda: exact_inverse(exact, weights, right, damping), device)
        dense = {"seconds": dense_seconds, "full_products": exact.size, "relative_residual": residual(x)}
        say(f"exact inverse: {dense_seconds:.3g} s")
    vectorised, vectorised_seconds = timed(
        lambda: lissa(
            lambda indices, v: single.batch_hessian_product(weights32, indices, v) + damping * v,
            damped(lambda v: single.hessian_product(weights32, v)),
            right32,
            records=len(labels),
            chains=chains,
            steps=steps,
            batch=batch,
            scale=scale,
            min_curvature=spectrum.lower + damping,
            generator=torch.Generator().manual_seed(SEED),
        ),
        device,
    )
    say(f"vectorised LiSSA: {vectorised_seconds:.3g} s")

    def run_published(count: int) -> Tensor:
        return published_lissa(
            spec,
            weights32,
            features32,
            labels,
            right32,
            damping=damping,
            steps=count,
            chains=chains,
            batch=batch,
            scale=scale,
        )

    run_published(2)  # warms up
    steps_run = published_steps or steps
    published, published_run = timed(lambda: run_published(steps_run), device)
    published_seconds = published_run * steps / steps_run
    return {
        "system": {
            "parameters": exact.size,
            "retained_records": exact.records,
            "hidden": list(hidden),
            "activation": activation,
            "epochs": epochs,
            "l2": spec.l2,
            "hessian_upper_bound": spectrum.upper,
            "hessian_lower_bound": spectrum.lower,
            "bounds_failure_probability": spectrum.failure_probability,
            "damping": damping,
            "tolerance": tolerance,
            "train_seconds": trained.seconds,
        },
        "exact_inverse": dense,
        "conjugate_gradients": {
            "seconds": gradients_seconds,
            "repeats": 3,
            "full_products": gradients.products,
            "status": gradients.status,
            "relative_residual": residual(gradients.solution),
            "profile": profile,
        },
        "conjugate_gradients_streamed": {
            "seconds": streamed_seconds,
            "repeats": 3,
            "full_products": streamed.products,
            "status": streamed.status,
            "relative_residual": residual(streamed.solution),
        },
        "lissa_published": {
            "seconds": published_seconds,
            "seconds_run": published_run,
            "steps_run": steps_run,
            "scaled": None
            if steps_run == steps
            else f"{steps_run} of {steps} steps a chain were run: seconds are scaled linearly, "
            "and the residual is that of the shortened run",
            "batches": "from a loader over tensors in memory; the published data set decodes images besides",
            "chains": chains,
            "batch": batch,
            "scale": scale,
            "batch_products": chains * steps_run,
            "relative_residual": residual(published),
        },
        "lissa_vectorised": {
            "seconds": vectorised_seconds,
            "repeats": 1,
            "chains": chains,
            "batch": batch,
            "scale": scale,
            "batch_products": chains * vectorised.products,
            "status": vectorised.status,
            "relative_residual": residual(vectorised.solution),
        },
        "ratios": {
            "published_over_cg": published_seconds / gradients_seconds,
            "published_over_cg_streamed": published_seconds / streamed_seconds,
            "vectorised_over_cg": vectorised_seconds / gradients_seconds,
            "vectorised_over_cg_streamed": vectorised_seconds / streamed_seconds,
            "published_over_vectorised": published_seconds / vectorised_seconds,
            "exact_over_cg": None if dense is None else dense["seconds"] / gradients_seconds,
        },
    }
