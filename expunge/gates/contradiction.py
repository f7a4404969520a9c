"""Whether what an attack sees can be, if the certificate is true."""

import math


def contradiction_p_value(p_value: float, epsilon: float, delta: float) -> float:
    """How probable such an outcome is at most, if the certificate holds.

    Formula: ``min(1, e^epsilon p + delta)``: the event "p-value at most p" has probability p under the reference, and
    an (epsilon, delta)-certified release is in any event with at most e^epsilon times that, plus delta. Forgotten
    people are taken to be like the never-trained ones that they are compared with.

    Args:
        p_value: Of an exact test of the reference, fixed before the release was seen; in [0, 1].
        epsilon: Certified, over all draws; in nats.
        delta: Certified, in [0, 1).

    Returns:
        In [0, 1].

    Example:
        >>> round(contradiction_p_value(1e-6, 0.05, 1e-6), 9)
        2.051e-06
    """
    if p_value <= 0:
        return delta
    return min(1.0, math.exp(min(0.0, epsilon + math.log(p_value))) + delta)


def lowest_epsilon(p_value: float, delta: float, confidence: float) -> float | None:
    """The lower bound on epsilon that one release's attack gives.

    Formula: ``ln((1 - confidence - delta) / p)``, the epsilon at which :func:`contradiction_p_value` reaches
    ``1 - confidence``.

    Args:
        p_value: As there.
        delta: Certified.
        confidence: That the bound holds, in (0, 1).

    Returns:
        In nats; 0 where nothing is shown, None where delta alone explains anything.

    Example:
        >>> lowest_epsilon(0.2, 1e-6, 0.95)
        0.0
    """
    left = 1 - confidence - delta
    if left <= 0:
        return None
    return max(0.0, math.log(left / max(p_value, 1e-300)))
