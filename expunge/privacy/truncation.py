"""What gates that looked at the forget set cost: a release that they refuse is not released.

Let P be the law of what the mechanism draws, Q its reference, (epsilon, delta)-close in either direction, and S the
models that the gates let pass. What is released and lies in T has probability ``P(T and S)``, for every set T:

    P(T and S) <= P(T) <= e^epsilon Q(T) + delta,
    Q(T) <= Q(T and S) + Q(not S) <= e^epsilon P(T and S) + delta + Q(not S).

The first holds whatever S is: gates only take away. With the sides exchanged, the reference's own probability of being
refused is added: at ``T = not S`` nothing smaller would do, since the left side is ``Q(not S)`` and nothing is released
there. It is bounded only where the forgotten people are like those whom the gates compare them with.
"""

import math


def refusal_level(false_alarm: float, epsilon: float, delta: float, confidence: float) -> float:
    """How probably all attack gates together refuse a model of the reference, at most.

    Formula: ``max(false_alarm, (1 - confidence - delta) e^-epsilon)``: of k gates, each refuses where its p-value is
    at most ``false_alarm / k``, or contradicts the certificate, below ``(1 - confidence - delta) e^-epsilon / k``. The
    p-values are exact where the forgotten people are like the never-trained ones.

    Args:
        false_alarm: Of policy, all gates together, in (0, 1).
        epsilon: Certified, in nats.
        delta: Certified, in [0, 1).
        confidence: Of policy, at which an attack contradicts a certificate.

    Returns:
        A probability.

    Example:
        >>> refusal_level(1e-3, 0.05, 1e-6, 0.9999)
        0.001
    """
    return max(false_alarm, (1 - confidence - delta) * math.exp(-epsilon))


def exchanged_delta(delta: float, false_alarm: float) -> float:
    """Delta of what is released, with the sides exchanged, rounded up.

    Formula: ``min(1, delta + false_alarm)``, from ``Q(T) <= e^epsilon P(T and S) + delta + Q(not S)``.

    Args:
        delta: Certified, of what is drawn.
        false_alarm: How probably the gates refuse a model of the reference, at most; 0 where none looked.

    Returns:
        A probability.

    Example:
        >>> exchanged_delta(1e-6, 0.0)
        1e-06
    """
    if not false_alarm:
        return delta
    return min(1.0, math.nextafter(delta + false_alarm, math.inf))
