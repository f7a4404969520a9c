"""The published procedure as its code runs it, for reproducing the paper's tables: it has no certificate.

Zhang, Dong, Wang and Li (ICML 2024, arXiv 2408.00920) and the code published with it. This mode keeps what changes the
numbers and makes them worthless as evidence: a penalty on *unsquared* norms, a damping far below ``||H||``, a recursion
whose result nobody checks, unlearned weights that are not projected, noise chosen by hand. What the code leaves out is
measured here and returned beside the weights. It is no mechanism: the planner does not know it, and a release made from
its result is refused. ``docs/paper-compatible.md`` lists every difference; :mod:`expunge.mechanisms.newton` is the
corrected step.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NoReturn

import torch
from torch import Tensor

from expunge import progress
from expunge.curvature.flat import FlatModule
from expunge.curvature.network import NetworkObjective
from expunge.errors import CertificateRefusedError, InputError
from expunge.privacy.gaussian import gaussian_epsilon
from expunge.privacy.noise import GaussianNoise

_REPORT_EVERY = 20


@dataclass(frozen=True)
class PublishedSettings:
    """The published settings; those of training are recorded here and used by nothing in this module.

    Args:
        damping: lambda, added to the weight decay in front of the penalty of the recursion.
        chains: Independent repetitions that are averaged.
        steps: Depth of the recursion.
        batch: Records a mini-batch of the recursion.
        scale: h.
        sigma: Noise per parameter; 0 adds none.
        norm_bound: C, of the projection after every training step.
        weight_decay: mu, of training and of the retained gradient.
        unsquared_penalty: Whether the penalty is ``sum_k ||w_k||`` over the tensors, as published, or half the square.
        learning_rate: Of Adam, in training.
        epochs: Of training.
        training_batch: Records a mini-batch of training.
        delta: At which the honest epsilon is stated; the published code has none.

    Raises:
        InputError: If a number is out of range; the message names all of them.

    Example:
        >>> PublishedSettings().damping
        0.01
    """

    damping: float = 0.01
    chains: int = 10
    steps: int = 1000
    batch: int = 10
    scale: float = 1000.0
    sigma: float = 0.001
    norm_bound: float = 20.0
    weight_decay: float = 5e-4
    unsquared_penalty: bool = True
    learning_rate: float = 1e-3
    epochs: int = 50
    training_batch: int = 128
    delta: float = 1e-5

    def __post_init__(self) -> None:
        """Check every number."""
        may_be_zero = ("damping", "sigma", "weight_decay")
        wrong = []
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "unsquared_penalty":
                continue
            low = value >= 0 if item.name in may_be_zero else value > 0
            if not (low and value < (1 if item.name == "delta" else math.inf)):
                wrong.append(f"{item.name}={value!r}")
        if wrong:
            raise InputError(
                "invalid published settings",
                expected="finite positive numbers (damping, sigma and weight_decay may be 0), delta below 1",
                got=", ".join(wrong),
            )


@dataclass(frozen=True)
class MeasuredFacts:
    """What the published code does not look at. All of it depends on the forget set: never publish it as a guarantee.

    Args:
        gradient_norm: ``||g||`` with the squared weight decay, over the whole retain set, float64.
        residual: ``||(H + (mu + lambda) I) x - g||`` with the squared weight decay and damping, over the whole retain
            set, float64: how far the step is from the paper's.
        own_gradient_norm: ``||g||`` with the penalty that was used.
        own_residual: Of the system that the recursion iterates on, with the penalty that was used.
        noiseless_norm: Norm of the unlearned weights before noise; above norm_bound they left the ball.
        sensitivity: ``C + max(C, noiseless_norm)``, which is ``2 C`` inside the ball: how far apart the unlearned and
            the projected retrained weights may be.
        sigma: Noise that was added per parameter.
        epsilon: Of that sensitivity and noise at delta, exactly; infinite without noise.
        delta: As in the settings.
        products: Mini-batch Hessian products spent.
        seconds: Wall time of gradient and recursion, the measurements excluded.
    """

    gradient_norm: float
    residual: float
    own_gradient_norm: float
    own_residual: float
    noiseless_norm: float
    sensitivity: float
    sigma: float
    epsilon: float
    delta: float
    products: int
    seconds: float

    @property
    def relative_residual(self) -> float:
        """``residual / gradient_norm``; 1 is what no step at all would leave."""
        return self.residual / self.gradient_norm if self.gradient_norm else math.nan


@dataclass(frozen=True)
class PublishedResult:
    """Weights as the published code would save them, and what it would not say.

    Args:
        weights: Float64, shape (d,).
        facts: Measured.
    """

    weights: Tensor
    facts: MeasuredFacts

    @property
    def error_bound(self) -> NoReturn:
        """There is none: whoever asks wants to certify.

        Raises:
            CertificateRefusedError: Always.
        """
        _refuse()

    @property
    def binding(self) -> NoReturn:
        """There is none: whoever asks wants to certify.

        Raises:
            CertificateRefusedError: Always.
        """
        _refuse()


def _refuse() -> NoReturn:
    raise CertificateRefusedError(
        "the paper-compatible mode has no certificate",
        expected="the result of a mechanism",
        got="weights of the published procedure",
        remedy="use the newton mechanism or retraining; see docs/paper-compatible.md",
    )


def unlearn_as_published(
    network: FlatModule,
    weights: Tensor,
    features: Tensor,
    labels: Tensor,
    settings: PublishedSettings | None = None,
    *,
    seed: int = 42,
    noise: GaussianNoise | None = None,
) -> PublishedResult:
    """One request, as published.

    Formula: with ``P(w) = sum_k ||w_k||_2`` over the parameter tensors, ``g = grad(L + mu P)(w)`` over the retain set
    and ``A_t v = hessian(L_t + (mu + lambda) P)(w) v`` of a fresh mini-batch drawn with replacement,

        x_0 = g,   x_t = x_{t-1} + g - A_t x_{t-1} / h,   x = mean over chains of x_s / h,
        w' = w - x + N(0, sigma^2 I).

    Nothing is projected and nothing is checked on the way: where the recursion diverges, so do the weights. With
    ``unsquared_penalty=False`` P is ``||w||^2 / 2``, as in training and in the paper.

    Reference: Zhang et al. (ICML 2024), Algorithm 1 and the code published with it.

    Args:
        network: In the precision that the recursion should run in; the published code runs in float32.
        weights: Trained, projected onto the ball, shape (d,).
        features: The retain set, shape (n, ...).
        labels: Class indices, shape (n,).
        settings: The published ones by default.
        seed: Of the mini-batches, never of the noise.
        noise: The stream; a fresh one by default.

    Returns:
        Weights without a certificate, and measured facts.

    Raises:
        InputError: If the weights do not fit the network, or there are no records.

    Example:
        >>> net = FlatModule(torch.nn.Linear(2, 2))
        >>> few = PublishedSettings(chains=1, steps=2, scale=10.0)
        >>> done = unlearn_as_published(net, net.initial(), torch.ones(3, 2), torch.tensor([0, 1, 0]), few)
        >>> f"{done.facts.epsilon:.1e}"
        '8.0e+08'
    """
    settings = settings or PublishedSettings()
    if weights.shape != (network.size,) or len(labels) == 0 or len(labels) != len(features):
        raise InputError(
            "weights or records do not fit",
            expected=f"weights of shape ({network.size},), and as many labels as records, at least one",
            got=f"weights {tuple(weights.shape)}, {len(features)} records, {len(labels)} labels",
        )
    began = time.perf_counter()
    start = weights.to(dtype=network.dtype, device=network.device)
    step = _recursion(network, start, features, labels, settings, seed).double()
    seconds = time.perf_counter() - began
    noiseless = weights.to(step.device).double() - step
    facts = _measure(network, weights, features, labels, settings, step, float(noiseless.norm()), seconds)
    if settings.sigma == 0:
        return PublishedResult(noiseless, facts)
    drawn = torch.from_numpy((noise or GaussianNoise()).draw(network.size, settings.sigma))
    return PublishedResult(noiseless + drawn.to(noiseless.device), facts)


def unlearn_sequence_as_published(
    network: FlatModule,
    weights: Tensor,
    retain_sets: Sequence[tuple[Tensor, Tensor]],
    settings: PublishedSettings | None = None,
    *,
    add_noise_between: bool = False,
    seed: int = 42,
) -> tuple[PublishedResult, ...]:
    """Several requests, each starting from the weights that the one before it left.

    The published code means to add noise to what it saves but never does: it asks the tensors of a state dict whether
    they require gradients, and none does. That is ``add_noise_between=False``: no request is noised, the last one
    included, and epsilon is infinite.

    Args:
        network: As for one request.
        weights: Trained, shape (d,).
        retain_sets: Features and labels that are left after each request.
        settings: The published ones by default.
        add_noise_between: Whether every request is noised, the next one starting from the noised weights.
        seed: Of the mini-batches; request i uses ``seed + i``.

    Returns:
        One result a request.

    Raises:
        InputError: If the weights do not fit the network, or a retain set is empty.

    Example:
        >>> net, rows = FlatModule(torch.nn.Linear(2, 2)), (torch.ones(3, 2), torch.tensor([0, 1, 0]))
        >>> few = PublishedSettings(chains=1, steps=2, scale=10.0)
        >>> [done.facts.epsilon for done in unlearn_sequence_as_published(net, net.initial(), [rows, rows], few)]
        [inf, inf]
    """
    settings = settings or PublishedSettings()
    if not add_noise_between:
        settings = replace(settings, sigma=0.0)
    results: list[PublishedResult] = []
    for index, (features, labels) in enumerate(retain_sets):
        result = unlearn_as_published(network, weights, features, labels, settings, seed=seed + index)
        weights = result.weights
        results.append(result)
    return tuple(results)


def unsquared_gradient(network: FlatModule, weights: Tensor) -> Tensor:
    """Gradient of the unsquared penalty.

    Formula: ``w_k / ||w_k||`` for each tensor k, and 0 where ``w_k = 0``.

    Args:
        network: Whose tensors they are.
        weights: Shape (d,).

    Returns:
        Shape (d,).

    Example:
        >>> net = FlatModule(torch.nn.Linear(2, 1, bias=False))
        >>> unsquared_gradient(net, torch.tensor([3.0, 4.0]))
        tensor([0.6000, 0.8000])
    """
    parts = [part.reshape(-1) for part in network.unflatten(weights).values()]
    return torch.cat([part * _inverse_norm(part) for part in parts])


def unsquared_product(network: FlatModule, weights: Tensor, vectors: Tensor) -> Tensor:
    """Hessian of the unsquared penalty, times vectors.

    Formula: ``(I - u_k u_k^T) / ||w_k||`` with ``u_k = w_k / ||w_k||``, on the block of each tensor k: no multiple of
    the identity. It is singular along the weights, it is large for small tensors and small for large ones. Where
    ``w_k = 0`` there is no Hessian, and the block is taken as 0 (automatic differentiation, as published, gives NaN).

    Args:
        network: Whose tensors they are.
        weights: Shape (d,).
        vectors: Shape (..., d).

    Returns:
        Shape (..., d).

    Example:
        >>> net = FlatModule(torch.nn.Linear(2, 1, bias=False))
        >>> unsquared_product(net, torch.tensor([2.0, 0.0]), torch.eye(2))
        tensor([[0.0000, 0.0000],
                [0.0000, 0.5000]])
    """
    parts = [part.reshape(-1) for part in network.unflatten(weights).values()]
    blocks = torch.split(vectors, [len(part) for part in parts], dim=-1)
    products = []
    for part, block in zip(parts, blocks, strict=True):
        inverse = _inverse_norm(part)
        unit = part * inverse
        products.append((block - (block @ unit)[..., None] * unit) * inverse)
    return torch.cat(products, dim=-1)


def _inverse_norm(part: Tensor) -> Tensor:
    norm = part.norm()
    return torch.where(norm > 0, 1 / norm, torch.zeros_like(norm))


def _penalty_gradient(network: FlatModule, weights: Tensor, settings: PublishedSettings) -> Tensor:
    slope = unsquared_gradient(network, weights) if settings.unsquared_penalty else weights
    return settings.weight_decay * slope


def _penalty_product(
    network: FlatModule, weights: Tensor, vectors: Tensor, settings: PublishedSettings
) -> Tensor:
    curved = unsquared_product(network, weights, vectors) if settings.unsquared_penalty else vectors
    return (settings.weight_decay + settings.damping) * curved


def _recursion(
    network: FlatModule,
    weights: Tensor,
    features: Tensor,
    labels: Tensor,
    settings: PublishedSettings,
    seed: int,
) -> Tensor:
    """The step x, its chains run as one batch; no residual, no ceiling, no check that anything is finite."""
    objective = NetworkObjective(network, features, labels, 0.0)
    generator = torch.Generator().manual_seed(seed)
    right = objective.gradient(weights) + _penalty_gradient(network, weights, settings)
    state = right.expand(settings.chains, -1)
    for taken in range(1, settings.steps + 1):
        indices = torch.randint(objective.records, (settings.chains, settings.batch), generator=generator)
        product = objective.batch_hessian_product(weights, indices, state)
        product = product + _penalty_product(network, weights, state, settings)
        state = state + right - product / settings.scale
        if taken % _REPORT_EVERY == 0 or taken == settings.steps:
            progress.report("unlearning: as published", taken, settings.steps)
    return state.mean(dim=0) / settings.scale


def _measure(
    network: FlatModule,
    weights: Tensor,
    features: Tensor,
    labels: Tensor,
    settings: PublishedSettings,
    step: Tensor,
    noiseless_norm: float,
    seconds: float,
) -> MeasuredFacts:
    exact = network.to(dtype=torch.float64)
    at = weights.to(dtype=torch.float64, device=exact.device)
    objective = NetworkObjective(exact, features, labels, 0.0)
    gradient, product = objective.gradient(at), objective.hessian_product(at, step)
    squared = replace(settings, unsquared_penalty=False)
    norms = []
    for penalised in (squared, settings):
        right = gradient + _penalty_gradient(exact, at, penalised)
        left = product + _penalty_product(exact, at, step, penalised)
        norms += [float(right.norm()), float((left - right).norm())]
    bound = settings.norm_bound
    sensitivity = bound + max(bound, noiseless_norm) if math.isfinite(noiseless_norm) else math.inf
    return MeasuredFacts(
        gradient_norm=norms[0],
        residual=norms[1],
        own_gradient_norm=norms[2],
        own_residual=norms[3],
        noiseless_norm=noiseless_norm,
        sensitivity=sensitivity,
        sigma=settings.sigma,
        epsilon=gaussian_epsilon(settings.delta, sensitivity / settings.sigma)
        if settings.sigma
        else math.inf,
        delta=settings.delta,
        products=settings.chains * settings.steps,
        seconds=seconds,
    )
