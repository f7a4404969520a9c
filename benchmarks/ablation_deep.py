"""The paper's Newton step on a deep network with each of its parts on or off: measurements, no mechanism.

Everything here looks at noiseless weights and at the retrained model, which a product never may: the records are
public.
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Records, averaged, model_spec, read_records, timed
from benchmarks.runner import Place, Setting
from benchmarks.solvers import published_lissa
from expunge.curvature.lanczos import spectrum_bounds
from expunge.curvature.lissa import lissa
from expunge.curvature.network import NetworkObjective
from expunge.curvature.solvers import Solution, conjugate_gradients, solve_exact
from expunge.mechanisms.paper_compatible import PublishedSettings, unlearn_as_published
from expunge.models.predictor import accuracy, predict_logits
from expunge.models.spec import ModelSpec
from expunge.models.training import project, train
from expunge.models.zoo import build
from expunge.privacy.bounds import lissa_error_bound, newton_error_bound
from expunge.privacy.gaussian import gaussian_epsilon
from expunge.privacy.noise import GaussianNoise

UNBOUNDED = 1e9  # a ball that no weights leave
_FAILURE = 1e-6  # of the spectrum's bounds and of the a-priori bound
_PRODUCTS = 300
_RELATIVE_RESIDUAL = 1e-6
_NOISE_KEY = bytes(32)  # public: the noise of a measurement, never of a release


@dataclass(frozen=True)
class Variant:
    """Which parts of the step are on.

    Args:
        damping: lambda.
        norm_bound: C.
        forgotten: Share of the training records.
        sigma: Noise per parameter.
        project_training: Whether training projects onto the ball, for the reference too.
        project_step: Whether the unlearned weights are projected.
        take_step: Whether there is a step at all.
        solver: exact, conjugate-gradients, lissa, lissa-loop (the published recursion) or as-published (the published
            code's whole step, its own damping and penalty).
        kept_gradient: Whether the gradient comes from the one kept at the end of training and the forget set.
        a_priori: Whether N3 stands in for the measured residual.
    """

    damping: float
    norm_bound: float
    forgotten: float
    sigma: float
    project_training: bool = True
    project_step: bool = True
    take_step: bool = True
    solver: str = "conjugate-gradients"
    kept_gradient: bool = True
    a_priori: bool = False


TECHNIQUES: dict[str, dict[str, Any]] = {
    "all on": {},
    "no step": {"take_step": False},
    "damping 0": {"damping": 0.0},
    "damping 0.01, as published": {"damping": 0.01},
    "no projection in training": {"project_training": False},
    "no projection after the step": {"project_step": False},
    "gradient over the retain set": {"kept_gradient": False},
    "exact solver": {"solver": "exact"},
    "LiSSA": {"solver": "lissa"},
    "LiSSA, a-priori residual": {"solver": "lissa", "a_priori": True},
    "LiSSA, published loop": {"solver": "lissa-loop"},
    "as published": {"solver": "as-published", "project_step": False},
}


@functools.lru_cache(maxsize=4)
def read(dataset: str, source: Path | None, records: int | None, pool: int) -> Records:
    """Records of a dataset; square images averaged over squares of ``pool`` pixels, which looks at no record."""
    data = read_records(dataset, source, records)
    return data if pool == 1 else averaged(data, pool)


def forget_mask(records: int, share: float, seed: int) -> Tensor:
    """Which records are forgotten: a share of them, at least one, drawn with a public seed."""
    count = max(1, round(share * records))
    mask = torch.zeros(records, dtype=torch.bool)
    mask[torch.randperm(records, generator=torch.Generator().manual_seed(seed))[:count]] = True
    return mask


def spec_of(part: Setting, data: Records, norm_bound: float) -> ModelSpec:
    """The network of a part of the setting."""
    training = {**part["training"], "norm_bound": norm_bound}
    network = {"hidden": part["hidden"], "activation": part["activation"]}
    return model_spec("mlp", data.features.shape[1], data.classes, training, **network)


def measure(setting: Setting, part: Setting, place: Place, **changes: Any) -> dict[str, Any]:
    """One row: train, retrain, take the step as the changes say, bound it, compare it.

    Args:
        setting: Dataset, seed, sigma and delta.
        part: Network, training, damping, assumed constants.
        place: Where to compute.
        changes: To the variant in which everything is on.

    Returns:
        Plain data.
    """
    chosen = {
        "damping": part["damping"],
        "norm_bound": part["training"]["norm_bound"],
        "forgotten": setting["forgotten"],
        "sigma": setting["release"]["sigma"],
    }
    variant = Variant(**{**chosen, **changes})
    data = read(
        setting["dataset"], place.source(setting["dataset"]), setting.get("records"), part.get("pool", 1)
    )
    spec = spec_of(part, data, variant.norm_bound if variant.project_training else UNBOUNDED)
    forget = forget_mask(len(data.labels), variant.forgotten, setting["seed"])
    key = {
        "spec": spec.to_json(),
        "dataset": setting["dataset"],
        "records": setting.get("records"),
        "seed": setting["seed"],
    }

    def learn(mask: Tensor) -> dict[str, Any]:
        run = train(spec, data.features[mask], data.labels[mask], device=place.device)
        return {"weights": run.weights, "seconds": run.seconds, "steps": run.products}

    trained = place.kept({**key, "what": "trained"}, lambda: learn(torch.ones_like(forget)))
    key["forgotten"] = variant.forgotten
    retrained = place.kept({**key, "what": "retrained"}, lambda: learn(~forget))
    work = _Work(data, spec, forget, trained["weights"], part, place, key)
    weights, facts = work.step(variant)
    if variant.project_step:
        weights = project(weights, variant.norm_bound)
    reference = retrained["weights"]
    bound = work.bound(variant, facts, reference)
    epsilon = None
    if bound["error_bound"] is not None:
        epsilon = gaussian_epsilon(setting["release"]["delta"], bound["error_bound"] / variant.sigma)
    noised = torch.from_numpy(GaussianNoise(_NOISE_KEY).add(weights.numpy(), variant.sigma))

    def test_accuracy(vector: Tensor) -> float:
        return accuracy(predict_logits(spec, vector, vector, data.test_features), data.test_labels)

    return {
        "parameters": len(weights),
        "records": len(forget),
        "forgotten_records": int(forget.sum()),
        "damping": variant.damping,
        "norm_bound": variant.norm_bound,
        "sigma": variant.sigma,
        "norm_trained": float(trained["weights"].norm()),
        "norm_unlearned": float(weights.norm()),
        "distance": float((weights - reference).norm()),
        "distance_without_step": float((trained["weights"] - reference).norm()),
        **facts,
        **bound,
        "epsilon": epsilon,
        "retrain_seconds": retrained["seconds"],
        "accuracy_trained": test_accuracy(trained["weights"]),
        "accuracy_retrained": test_accuracy(reference),
        "accuracy_unlearned": test_accuracy(weights),
        "accuracy_noised": test_accuracy(noised),
    }


class _Work:
    """The retain set's objective at trained weights, and what is computed there."""

    def __init__(
        self,
        data: Records,
        spec: ModelSpec,
        forget: Tensor,
        weights: Tensor,
        part: Setting,
        place: Place,
        key: dict[str, Any],
    ) -> None:
        self.data, self.spec, self.forget, self.weights = data, spec, forget, weights
        self.part, self.place, self.key = part, place, key
        self.network = build(spec, device=place.device)
        self.at = weights.to(place.device)

    @functools.cached_property
    def objective(self) -> NetworkObjective:
        return self.over(~self.forget)

    def over(self, mask: Tensor) -> NetworkObjective:
        return NetworkObjective(self.network, self.data.features[mask], self.data.labels[mask], self.spec.l2)

    def step(self, variant: Variant) -> tuple[Tensor, dict[str, Any]]:
        """Unlearned weights before any projection, and what was spent on them."""
        if not variant.take_step:
            return self.weights, {"seconds": 0.0, "products": 0, "batch_products": 0, "status": "no step"}
        if variant.solver == "as-published":
            return self.as_published(variant)
        gradient, facts = self.gradient(variant)
        system = {
            **self.key,
            "what": "solved",
            "damping": variant.damping,
            "solver": variant.solver,
            "lissa": self.part["lissa"],
            "published": self.part["published"],
        }
        solved = self.place.kept(system, lambda: self.solve(variant, gradient))
        facts["gradient_seconds"] = facts["seconds"]
        facts["seconds"] += solved["seconds"]
        facts |= {name: solved[name] for name in ("products", "batch_products", "status", "residual")}
        facts["relative_residual"] = solved["residual"] / facts["gradient_norm"]
        return self.weights - solved["step"], facts

    def gradient(self, variant: Variant) -> tuple[Tensor, dict[str, Any]]:
        """``g`` over the retain set, by the kept gradient or afresh, and how far apart the two are.

        Formula: ``n_r g = n grad L_D - n_u grad L_u``, each with the regulariser.
        """
        fresh, seconds = timed(lambda: self.objective.gradient(self.at), self.place.device)
        facts = {"seconds": seconds, "gradient_records": int((~self.forget).sum())}
        gradient = fresh
        if variant.kept_gradient:
            whole = self.over(torch.ones_like(self.forget)).gradient(self.at)  # kept when training ended
            few, total = int(self.forget.sum()), len(self.forget)

            def from_forget_set() -> Tensor:
                forgotten = self.over(self.forget).gradient(self.at)
                return (total * whole - few * forgotten) / (total - few)

            gradient, seconds = timed(from_forget_set, self.place.device)
            facts = {"seconds": seconds, "gradient_records": few}
        facts["gradient_difference"] = float((gradient - fresh).norm() / fresh.norm())
        facts["gradient_norm"] = float(gradient.norm())
        return gradient, facts

    def spectrum(self) -> dict[str, float]:
        """Safe bounds on the retain set's Hessian."""

        def make() -> dict[str, float]:
            product = self.objective.hessian_at(self.at)
            bounds = spectrum_bounds(
                product,
                self.objective.size,
                steps=self.part["lanczos_steps"],
                failure_probability=_FAILURE,
                generator=torch.Generator().manual_seed(0),
                device=self.place.device,
            )
            return {"lower": bounds.lower, "upper": bounds.upper}

        made: dict[str, float] = self.place.kept(
            {**self.key, "what": "spectrum", "steps": self.part["lanczos_steps"]}, make
        )
        return made

    def solve(self, variant: Variant, gradient: Tensor) -> dict[str, Any]:
        """``(H + lambda I) x = g`` by one of the solvers; the residual is measured over the whole retain set."""
        spectrum = self.spectrum()
        solution, seconds = timed(lambda: self.solution(variant, gradient, spectrum), self.place.device)
        steps = self.part["lissa"] if variant.solver == "lissa" else self.part["published"]
        stochastic = variant.solver.startswith("lissa")
        return {
            "step": solution.solution.cpu(),
            "seconds": seconds,
            "residual": solution.residual,
            "status": solution.status,
            "products": 0 if stochastic else solution.products,
            "batch_products": steps["chains"] * solution.products if stochastic else 0,
        }

    def solution(self, variant: Variant, gradient: Tensor, spectrum: dict[str, float]) -> Solution:
        damping = variant.damping
        if variant.solver == "exact":
            dense = self.objective.hessian(self.at)
            solved = solve_exact(dense + damping * torch.eye(len(dense)).to(dense), gradient)
            return replace(solved, products=self.objective.size)  # one product a column
        if variant.solver == "conjugate-gradients":
            product = self.objective.hessian_at(self.at)
            return conjugate_gradients(
                lambda v: product(v) + damping * v,
                gradient,
                tolerance=_RELATIVE_RESIDUAL * float(gradient.norm()),
                max_products=_PRODUCTS,
            )

        def damped(v: Tensor) -> Tensor:
            return self.objective.hessian_product(self.at, v) + damping * v

        if variant.solver == "lissa-loop":
            published = self.part["published"]
            x = published_lissa(
                self.spec,
                self.at.float(),
                self.data.features[~self.forget].float().to(self.place.device),
                self.data.labels[~self.forget].to(self.place.device),
                gradient.float(),
                damping=damping,
                **published,
            ).double()
            return Solution(x, "converged", float((damped(x) - gradient).norm()), published["steps"])
        return lissa(
            lambda indices, v: self.objective.batch_hessian_product(self.at, indices, v) + damping * v,
            damped,
            gradient,
            records=self.objective.records,
            **self.part["lissa"],
            scale=self.scale(variant, spectrum),
            min_curvature=spectrum["lower"] + damping,
            generator=torch.Generator().manual_seed(0),
        )

    def scale(self, variant: Variant, spectrum: dict[str, float]) -> float:
        """``h``: twice the whole set's norm, as the product takes it."""
        return 2 * (max(abs(spectrum["lower"]), abs(spectrum["upper"])) + variant.damping)

    def as_published(self, variant: Variant) -> tuple[Tensor, dict[str, Any]]:
        settings = PublishedSettings(
            sigma=0.0, norm_bound=variant.norm_bound, weight_decay=self.spec.l2, **self.part["published"]
        )
        retain = ~self.forget
        result = unlearn_as_published(
            self.network.to(dtype=torch.float32),
            self.weights,
            self.data.features[retain],
            self.data.labels[retain],
            settings,
        )
        facts = result.facts
        return result.weights.cpu(), {
            "seconds": facts.seconds,
            "products": 0,
            "batch_products": facts.products,
            "status": "not checked",
            "residual": facts.residual,
            "relative_residual": facts.relative_residual,
            "gradient_norm": facts.gradient_norm,
            "sensitivity": facts.sensitivity,
        }

    def bound(self, variant: Variant, facts: dict[str, Any], reference: Tensor) -> dict[str, Any]:
        """N1 (or N3) with the *assumed* constants, what the ball makes of it, and what the product would say.

        The gradient bound G is measured at the retrained weights, which a product could only assume.
        """
        ball = 2 * variant.norm_bound
        spectrum, assumed = self.spectrum(), self.part["assumed"]
        largest = max(abs(spectrum["lower"]), abs(spectrum["upper"]))
        known = {
            "lambda_min": spectrum["lower"],
            "lambda_max": largest,
            "assumed_hessian_lipschitz": assumed["hessian_lipschitz"],
            "gradient_bound": float(self.objective.gradient(reference.to(self.place.device)).norm()),
        }
        curvature = spectrum["lower"] + variant.damping
        theorem = None
        # R = 2C needs both weights in the ball
        stepped = variant.take_step and variant.project_training and variant.solver != "as-published"
        if stepped and curvature > 0:
            common = {
                "hessian_lipschitz": assumed["hessian_lipschitz"],
                "damping": variant.damping,
                "gradient_bound": known["gradient_bound"],
            }
            theorem = (
                lissa_error_bound(
                    **common,
                    norm_bound=variant.norm_bound,
                    gradient_lipschitz=assumed["gradient_lipschitz"],
                    min_eigenvalue=spectrum["lower"],
                    parameters=self.objective.size,
                    failure_probability=_FAILURE,
                    scale=self.scale(variant, spectrum),
                )
                if variant.a_priori
                else newton_error_bound(
                    **common, radius=ball, residual=facts["residual"], min_curvature=curvature
                )
            )
        verdict = _verdict(variant, facts, theorem, largest)
        # of the spectrum's bounds, and of the a-priori bound; to be added to delta
        failure = _FAILURE * (1 + variant.a_priori) if verdict["binding"].startswith("theorem") else 0.0
        return {**known, "theorem": theorem, "failure_probability": failure, **verdict}


def _verdict(
    variant: Variant, facts: dict[str, Any], theorem: float | None, largest: float
) -> dict[str, Any]:
    """The error bound that holds, its class, and why the product refuses, if it does."""
    ball = 2 * variant.norm_bound
    if not variant.project_training:  # R and the reference's norm are unknown
        return _said(None, "none", "none", "the weights are not in a ball: there is no bound")
    if variant.solver == "as-published":
        why = "a data-dependent figure, not a certificate: nothing is projected, nothing checked"
        return _said(facts["sensitivity"], "none", "norms of both weights", why)
    if not variant.take_step:
        return _said(ball, "unconditional", "ball", "")
    why = ""
    if not variant.damping > largest:
        why = f"the damping does not exceed the norm of the Hessian, {largest:.3g}"
    if not variant.project_step:
        why = why or ("" if theorem is None else "only the assumed constants are left")
        return _said(theorem, "conditional", "theorem (assumed M)", why or "no theorem and no ball")
    if theorem is not None and theorem < ball:
        return _said(theorem, "conditional", "theorem (assumed M)", why)
    return _said(ball, "conditional", "ball", why)


def _said(error_bound: float | None, guarantee: str, binding: str, remark: str) -> dict[str, Any]:
    binding, guarantee = ("none", "none") if error_bound is None else (binding, guarantee)
    return {"error_bound": error_bound, "guarantee": guarantee, "binding": binding, "remark": remark}
