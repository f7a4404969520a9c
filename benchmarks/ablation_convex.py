"""The convex mechanism with its parts on or off, and the Newton step where its constants are provable."""

import math
from typing import Any

import torch
from torch import Tensor

from benchmarks.ablation_deep import forget_mask, read
from benchmarks.common import Records, model_spec
from benchmarks.convex import build_kept
from benchmarks.runner import Place, Setting
from expunge.curvature.network import NetworkObjective
from expunge.curvature.solvers import conjugate_gradients
from expunge.mechanisms.convex import certified_bound
from expunge.models.predictor import accuracy, predict_logits
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.models.zoo import build
from expunge.privacy.bounds import newton_error_bound
from expunge.privacy.gaussian import gaussian_epsilon
from expunge.privacy.noise import GaussianNoise

TECHNIQUES: dict[str, dict[str, Any]] = {
    "all on": {},
    "no kept curvature": {"kept": False},
    "cold start, kept curvature": {"warm": False},
    "cold start, no kept curvature": {"warm": False, "kept": False},
    "released weights not noised": {"noised_parent": False},
}
_RELATIVE_RESIDUAL, _PRODUCTS = 1e-10, 2000


def noise(weights: Tensor, sigma: float, key: int) -> Tensor:
    """Weights with the product's noise under a public key: a measurement, never a release."""
    return torch.from_numpy(GaussianNoise(key.to_bytes(32, "big")).add(weights.numpy(), sigma))


def measure(
    setting: Setting,
    place: Place,
    *,
    l2: float | None = None,
    gradient_tolerance: float | None = None,
    forgotten: float | None = None,
    sigma: float | None = None,
    warm: bool = True,
    kept: bool = True,
    noised_parent: bool = True,
) -> dict[str, Any]:
    """One row: train, release, re-solve on the retain set, compare with retraining.

    Args:
        setting: Dataset, seed, release, and the part ``convex``.
        place: Where to compute.
        l2: mu; the setting's by default, as all that follows.
        gradient_tolerance: tau.
        forgotten: Share of the training records.
        sigma: Noise per parameter.
        warm: Whether the solver starts at the released weights; else at zero.
        kept: Whether the curvature kept from the last release preconditions it.
        noised_parent: Whether those released weights are noised, as they are in the product.

    Returns:
        Plain data.
    """
    part = setting["convex"]
    data = read(setting["dataset"], place.source(setting["dataset"]), part.get("records"), 1)
    training = dict(part["training"])
    training |= {"l2": l2} if l2 is not None else {}
    training |= {"gradient_tolerance": gradient_tolerance} if gradient_tolerance is not None else {}
    spec = model_spec(part["name"], data.features.shape[1], data.classes, training, **part["hyperparameters"])
    sigma = setting["release"]["sigma"] if sigma is None else sigma
    share = setting["forgotten"] if forgotten is None else forgotten
    retain = ~forget_mask(len(data.labels), share, setting["seed"])
    key = {"what": "convex", "spec": spec.to_json(), "dataset": setting["dataset"], "records": len(retain)}
    trained = _trained(place, key, spec, data, torch.ones_like(retain))
    retrained = _trained(place, {**key, "seed": setting["seed"], "forgotten": share}, spec, data, retain)
    released = noise(trained["weights"], sigma, 1) if noised_parent else trained["weights"]
    curvature, build_seconds = None, 0.0
    if kept:
        curvature, build_seconds = build_kept(
            spec, data.features, data.labels, released, rank=part["rank"], sample=part["sample"]
        )
    unlearned = train(
        spec,
        data.features[retain],
        data.labels[retain],
        start=released if warm else None,
        kept=curvature,
        device=place.device,
    )
    bound = certified_bound(spec)
    origin = unlearned.origin

    def test_accuracy(weights: Tensor) -> float:
        return accuracy(predict_logits(spec, weights, origin, data.test_features), data.test_labels)

    return {
        "parameters": len(unlearned.weights),
        "records": len(retain),
        "forgotten_records": int((~retain).sum()),
        "l2": spec.l2,
        "gradient_tolerance": spec.gradient_tolerance,
        "sigma": sigma,
        "error_bound": bound,
        "guarantee": "convex",
        "epsilon": gaussian_epsilon(setting["release"]["delta"], bound / sigma),
        "distance": float((unlearned.weights - retrained["weights"]).norm()),
        "distance_without_step": float((trained["weights"] - retrained["weights"]).norm()),
        "products": unlearned.products,
        "seconds": unlearned.seconds,
        "curvature_seconds": build_seconds,
        "retrain_products": retrained["products"],
        "retrain_seconds": retrained["seconds"],
        "accuracy_retrained": test_accuracy(retrained["weights"]),
        "accuracy_unlearned": test_accuracy(unlearned.weights),
        "accuracy_noised": test_accuracy(noise(unlearned.weights, sigma, 2)),
    }


def _trained(
    place: Place, key: dict[str, Any], spec: ModelSpec, data: Records, mask: Tensor
) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        run = train(spec, data.features[mask], data.labels[mask], device=place.device)
        return {"weights": run.weights, "products": run.products, "seconds": run.seconds}

    made: dict[str, Any] = place.kept(key, make)
    return made


def softmax_hessian_lipschitz(features: Tensor) -> float:
    """Lipschitz constant M of the Hessian of softmax regression's mean cross entropy, proved.

    Formula: ``mean ||(x, 1)||^3 / sqrt(2)``. The third derivative of log-sum-exp along (u, u, v) is the third joint
    cumulant of the coordinates of u, u and v under the softmax, at most ``Var(u) max |v_i - mean v|``; a range of at
    most ``sqrt(2) ||u||`` gives ``Var(u) <= ||u||^2 / 2`` (Popoviciu) and ``|v_i - mean v| <= sqrt(2) ||v||``.

    Args:
        features: Records, shape (n, p).

    Returns:
        M, per weight unit.
    """
    return float((features.square().sum(dim=1) + 1).pow(1.5).mean()) / math.sqrt(2)


def provable(
    setting: Setting, place: Place, *, l2: float, forgotten: float, damping: float
) -> dict[str, Any]:
    """One Newton step on softmax regression: every constant of N1 is proved or measured, and N1 is compared.

    ``lambda_min(H) >= mu`` by construction, ``R = (||grad L_r(w)|| + tau) / mu`` by strong convexity, M as above, G =
    tau, the residual measured.

    Args:
        setting: Dataset, seed, release, and the part ``provable``.
        place: Where to compute.
        l2: mu.
        forgotten: Share of the training records.
        damping: lambda.

    Returns:
        Plain data.
    """
    part = setting["provable"]
    data = read(setting["dataset"], place.source(setting["dataset"]), part.get("records"), 1)
    training = {"l2": l2, "gradient_tolerance": part["gradient_tolerance"]}
    spec = model_spec("softmax", data.features.shape[1], data.classes, training)
    retain = ~forget_mask(len(data.labels), forgotten, setting["seed"])
    key = {"what": "softmax", "spec": spec.to_json(), "dataset": setting["dataset"], "records": len(retain)}
    trained = _trained(place, key, spec, data, torch.ones_like(retain))
    retrained = _trained(place, {**key, "seed": setting["seed"], "forgotten": forgotten}, spec, data, retain)
    features, labels = data.features[retain], data.labels[retain]
    # it starts at zero, so that the linearisation is the layer itself
    objective = NetworkObjective(build(spec, device=place.device), features, labels, spec.l2)
    weights, reference = trained["weights"].to(place.device), retrained["weights"].to(place.device)
    gradient = objective.gradient(weights)
    product = objective.hessian_at(weights)
    solved = conjugate_gradients(
        lambda v: product(v) + damping * v,
        gradient,
        tolerance=_RELATIVE_RESIDUAL * float(gradient.norm()),
        max_products=_PRODUCTS,
    )
    tolerance = spec.gradient_tolerance + spec.rounding_allowance
    radius = (float(gradient.norm()) + tolerance) / l2
    lipschitz = softmax_hessian_lipschitz(features)
    bound = newton_error_bound(
        hessian_lipschitz=lipschitz,
        radius=radius,
        damping=damping,
        gradient_bound=tolerance,
        residual=solved.residual,
        min_curvature=l2 + damping,
    )
    sigma, delta = setting["release"]["sigma"], setting["release"]["delta"]
    return {
        "parameters": len(weights),
        "forgotten_records": int((~retain).sum()),
        "hessian_lipschitz": lipschitz,
        "radius": radius,
        "status": solved.status,
        "products": solved.products,
        "theorem": bound,
        "best_bound": min(bound, radius),
        "epsilon": gaussian_epsilon(delta, min(bound, radius) / sigma),
        "distance": float((weights - solved.solution - reference).norm()),
        "distance_without_step": float((weights - reference).norm()),
        "convex_bound": certified_bound(spec),
        "convex_epsilon": gaussian_epsilon(delta, certified_bound(spec) / sigma),
    }
