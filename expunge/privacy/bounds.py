"""Bounds on the distance of unlearned weights from the retrained reference (docs: what a certificate proves).

Notation: ``C`` norm_bound, ``lambda`` damping, ``M`` hessian_lipschitz, ``G`` gradient_bound, ``s`` residual,
``tau`` gradient_tolerance, ``e`` rounding_allowance, ``mu`` strong_convexity.
"""

import math

from expunge.errors import CertificateRefusedError, InputError


def _check(**values: float) -> None:
    for name, value in values.items():
        if not (value >= 0) or math.isnan(value):
            raise InputError(f"invalid {name}", expected="a number >= 0", got=repr(value))


def newton_error_bound(
    *,
    hessian_lipschitz: float,
    radius: float,
    damping: float,
    gradient_bound: float,
    residual: float,
    min_curvature: float,
) -> float:
    """Bound (N1) on ``||w - x - w_ref||`` after one damped Newton step.

    Formula: ``(M R^2/2 + lambda R + G + ||s||) / b`` with ``b = lambda_min(H) + lambda``; with R = 2C, G = 0 and
    s = 0 it is ``2C(MC + lambda)/(lambda + lambda_min)`` of Zhang et al. (ICML 2024), Theorem 3.4.

    Args:
        hessian_lipschitz: M, Lipschitz constant of the Hessian; infinity where none is known.
        radius: R, bound on the distance of the starting weights from the reference.
        damping: lambda, the local convex approximation coefficient.
        gradient_bound: G, bound on the gradient norm of the retrained, unprojected model.
        residual: Norm of ``(H + lambda I) x - g``, measured over the whole retain set.
        min_curvature: b, a lower bound on the smallest eigenvalue of ``H + lambda I``.

    Returns:
        The bound, in weight units; may be infinite.

    Raises:
        CertificateRefusedError: If b is not positive: the theorem does not apply.
        InputError: If another argument is negative or not a number.

    Example:
        >>> newton_error_bound(hessian_lipschitz=1.0, radius=0.2, damping=0.5, gradient_bound=0.0,
        ...                    residual=0.0, min_curvature=1.0)
        0.12
    """
    _check(
        hessian_lipschitz=hessian_lipschitz,
        radius=radius,
        damping=damping,
        gradient_bound=gradient_bound,
        residual=residual,
    )
    if not min_curvature > 0:
        raise CertificateRefusedError(
            "the damped Hessian is not positive definite",
            expected="damping above minus the smallest Hessian eigenvalue",
            got=f"lower bound {min_curvature:.3g} on the smallest eigenvalue of H + damping I",
            remedy="raise newton.damping in policy.yaml, or let the batch be retrained",
        )
    quadratic = hessian_lipschitz * radius**2 / 2 if radius > 0 else 0.0
    return (quadratic + damping * radius + gradient_bound + residual) / min_curvature


def iterated_newton_error_bound(
    *,
    hessian_lipschitz: float,
    norm_bound: float,
    damping: float,
    gradient_bound: float,
    steps: list[tuple[float, float]],
) -> tuple[float, str]:
    """Bound (N2) after several Newton steps, each linearised anew at the projected iterate.

    Formula: ``R_0 = 2C``, ``R_i = min(N1(R_{i-1}), 2C)``: every iterate lies in the ball and within ``R_i`` of the
    reference, so that N1 holds for the next step with radius ``R_i``.

    Args:
        hessian_lipschitz: M; infinity where none is known.
        norm_bound: C.
        damping: lambda.
        gradient_bound: G; infinity where none is known.
        steps: For each step its measured residual and its lower bound b on the damped curvature.

    Returns:
        The bound and what binds it: "theorem" or "ball".

    Raises:
        CertificateRefusedError: If a b is not positive.
        InputError: If an argument is out of range, or there is no step.

    Example:
        >>> iterated_newton_error_bound(hessian_lipschitz=0.0, norm_bound=1.0, damping=1.0, gradient_bound=0.0,
        ...                             steps=[(0.0, 2.0), (0.0, 2.0)])
        (0.5, 'theorem')
    """
    if not steps:
        raise InputError("no Newton step", expected="at least one", got="0", remedy="correct newton.steps")
    radius, binding = 2 * norm_bound, "ball"
    for residual, min_curvature in steps:
        theorem = newton_error_bound(
            hessian_lipschitz=hessian_lipschitz,
            radius=radius,
            damping=damping,
            gradient_bound=gradient_bound,
            residual=residual,
            min_curvature=min_curvature,
        )
        radius, binding = projected_error_bound(theorem, norm_bound)
    return radius, binding


def lissa_error_bound(
    *,
    norm_bound: float,
    hessian_lipschitz: float,
    gradient_lipschitz: float,
    damping: float,
    min_eigenvalue: float,
    gradient_bound: float,
    parameters: int,
    failure_probability: float,
    scale: float,
) -> float:
    """The paper's a-priori bound (N3) for a step solved by LiSSA; N1 with the measured residual stands beside it.

    Formula: ``(2C(MC + lambda) + G)/b + (16 sqrt(ln(d/rho))/b + 1/16) (2LC + G)`` with ``b = lambda + lambda_min``,
    with probability ``1 - rho`` once the depth is about ``2 kappa ln kappa``; rho is added to delta. The published
    1/16 is dimensionally ``1/(16 h)``: it is the larger of the two for h >= 1, and below h = 1 it does not apply
    (Zhang et al., ICML 2024; as quoted by Mu and Klabjan, NeurIPS 2025, Table 16, with G = 0).

    Args:
        norm_bound: C.
        hessian_lipschitz: M.
        gradient_lipschitz: L, Lipschitz constant of the gradient.
        damping: lambda, above the norm of the Hessian.
        min_eigenvalue: lambda_min.
        gradient_bound: G.
        parameters: d.
        failure_probability: rho, in (0, 1).
        scale: h, at least 1.

    Returns:
        The bound, in weight units.

    Raises:
        CertificateRefusedError: If ``lambda + lambda_min`` is not positive.
        InputError: If another argument is out of range.

    Example:
        >>> lissa_error_bound(norm_bound=1.0, hessian_lipschitz=0.0, gradient_lipschitz=0.0, damping=1.0,
        ...                   min_eigenvalue=1.0, gradient_bound=0.0, parameters=3, failure_probability=0.1, scale=1.0)
        1.0
    """
    _check(gradient_lipschitz=gradient_lipschitz)
    if not 0 < failure_probability < 1 or parameters < 1:
        raise InputError("invalid failure_probability or parameters", expected="rho in (0, 1), d >= 1")
    if not scale >= 1:
        raise InputError(
            "invalid scale", expected="at least 1: the published bound does not apply below", got=repr(scale)
        )
    deterministic = newton_error_bound(
        hessian_lipschitz=hessian_lipschitz,
        radius=2 * norm_bound,
        damping=damping,
        gradient_bound=gradient_bound,
        residual=0.0,
        min_curvature=damping + min_eigenvalue,
    )
    spread = 16 * math.sqrt(math.log(parameters / failure_probability)) / (damping + min_eigenvalue) + 1 / 16
    return deterministic + spread * (2 * gradient_lipschitz * norm_bound + gradient_bound)


def projected_error_bound(newton_bound: float, norm_bound: float) -> tuple[float, str]:
    """Bound (N2): both weights lie in the ball ``||w|| <= C``, so they are at most 2C apart.

    Formula: ``min(N1, 2C)``.

    Args:
        newton_bound: N1, in weight units, possibly infinite.
        norm_bound: C, the radius of the ball that training and unlearning project onto.

    Returns:
        The bound and what binds it: "theorem" or "ball".

    Raises:
        InputError: If an argument is negative or not a number.

    Example:
        >>> projected_error_bound(math.inf, 20.0)
        (40.0, 'ball')
    """
    _check(newton_bound=newton_bound, norm_bound=norm_bound)
    ball = 2 * norm_bound
    return (newton_bound, "theorem") if newton_bound < ball else (ball, "ball")


def convex_error_bound(
    *, gradient_tolerance: float, rounding_allowance: float, strong_convexity: float
) -> float:
    """Bound (C1) on the distance of two points that both nearly minimise a strongly convex objective.

    Formula: ``2 (tau + e) / mu``: each point has a true gradient norm of at most ``tau + e`` on the retain set,
    and a mu-strongly convex function has ``||w - w*|| <= ||grad(w)|| / mu``.

    Args:
        gradient_tolerance: tau, the norm at which training and unlearning stop.
        rounding_allowance: e, bound on the rounding error of one gradient evaluation.
        strong_convexity: mu, above 0.

    Returns:
        The bound, in weight units.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> convex_error_bound(gradient_tolerance=1e-8, rounding_allowance=0.0, strong_convexity=1e-3)
        2e-05
    """
    _check(gradient_tolerance=gradient_tolerance, rounding_allowance=rounding_allowance)
    if not 0 < strong_convexity < math.inf:
        raise InputError("invalid strong_convexity", expected="a number > 0", got=repr(strong_convexity))
    return 2 * (gradient_tolerance + rounding_allowance) / strong_convexity
