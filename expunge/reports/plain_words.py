"""What a certificate says, in plain words that never say more than it does."""

import math
from typing import Any

CLASS_WORDS = {
    "exact": "The model was trained again from scratch without these people. Nothing of them can be in its weights.",
    "unconditional": "The bound holds for any data and any model, with no constant assumed.",
    "convex": "The bound is proved, up to what is assumed below: the training objective has one solution by "
    "construction, and both the released model and one trained without these people lie close to it.",
    "conditional": "The bound holds only if the constants marked as assumed are right. Nobody has proved them.",
}


def odds(epsilon: float) -> str:
    """What epsilon means as a factor on an observer's odds.

    Args:
        epsilon: In nats.

    Returns:
        In words.

    Example:
        >>> odds(0.05)
        'by a factor of at most 1.051'
    """
    if epsilon == 0:
        return "not at all"
    if epsilon > 20:
        return f"by a factor of up to e^{epsilon:.3g}, which is no protection"
    return f"by a factor of at most {math.exp(epsilon):.4g}"


def verdict(certificate: dict[str, Any]) -> str:
    """The certificate in one or two sentences.

    Args:
        certificate: A certificate as plain data.

    Returns:
        The verdict; a vacuous one says so first.
    """
    records, subjects = certificate["forget"]["records"], certificate["forget"]["subjects"]
    who = f"{records} record{'s' if records != 1 else ''} of {subjects} {'people' if subjects != 1 else 'person'}"
    if certificate["vacuous"]:
        return (
            f"VACUOUS: this certificate is outside the limits of policy and proves nothing useful about {who}. "
            f"It states epsilon = {certificate['epsilon']:.4g}."
        )
    if certificate["guarantee"] == "exact":
        return f"The model was retrained exactly, without {who}."
    return (
        f"The released model has unlearned {who}. Someone who sees it can tell it from a model that was never trained "
        f"on them hardly better than by guessing: their odds change {odds(certificate['epsilon'])}, except with "
        f"probability {certificate['delta']:.2g}."
    )
