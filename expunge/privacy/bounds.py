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
