"""What a certificate says, in plain words that never say more than it does."""

import math
from collections.abc import Mapping
from decimal import ROUND_CEILING, Context
from typing import Any

# Of noised releases. A test that fires "on the released one" would be of the law given that the gates passed, which is
# larger by one over the probability that they do.
GATES_TAKE_AWAY = (
    "That a model is drawn, passes the gates and is recognised is no more probable, "
    "whatever the gates refuse."
)
EXCHANGED = "With the two exchanged the same bound holds of what was drawn, before the gates."
CLASS_WORDS = {
    "exact": "The model was trained again from scratch without these people. Nothing of them can be in its weights.",
    "unconditional": "The bound holds for any data and any model, with no constant assumed.",
    "convex": "The bound is proved, up to what the certificate assumes: the training objective has one solution by "
    "construction, and both the released model and one trained without these people lie close to it.",
    "conditional": "The bound holds only if the constants marked as assumed are right. Nobody has proved them.",
}
_UPWARDS = Context(prec=6, rounding=ROUND_CEILING)  # no figure that is a bound is printed below what it is
# Beside the noise's own delta, a draw's shares: constants of the certificate.
_DELTA_SHARES = {
    "generator_delta": "the truncation of the noise generator",
    "failure_probability": "the probability that a bound on the spectrum fails",
}
_CLOSE = 0.1  # e^0.1 = 1.105: a test with 1 % false alarms recognises at most 1.11 %
# Of the coverage list.
STATUS_WORDS = {
    "covered": "kept; what it can tell about these people is bounded by a certificate",
    "recomputed": "made again without these people",
    "purged": "destroyed",
    "purge pending": "to be destroyed after this certificate was issued; the purge entry of the ledger proves it, and "
    "until that entry is there nothing does",
    "not present": "there is no such thing here that holds anything of these people",
    "not covered": "may still hold something of these people; the reason says why it stays",
}


# Of the gates that a release passes before it is certified.
GATE_WORDS = {
    "data expectations": "the dataset without these people is as its contract says",
    "utility": "the model still does its work",
    "certificate": "its class, epsilon and delta are within policy",
    "membership attack": "this attack, which asks the model about these people, did not tell them from people whom no "
    "model was trained on; with few people it may be unable to. That an attack fails proves nothing: the certificate "
    "does",
    "membership attack as served": "the same through the interface that serves, in single precision",
    "shadow attack": "the same, by an attacker who trained models of their own to know how hard each row is",
    "exposure of retained people": "the people who stay are not exposed more than policy accepts",
}


def gate_words(name: str) -> str:
    """What passing a gate means.

    Args:
        name: Of the gate, as in certificates.

    Returns:
        In plain words; of a gate that is not known here, that.

    Example:
        >>> gate_words("utility")
        'the model still does its work'
    """
    return GATE_WORDS.get(name, "a gate that this release of Expunge does not know")


def recognition(epsilon: float, delta: float) -> str:
    """How often a test may recognise the released model, beside how often it is wrong about the reference.

    Formula: ``P[test fires on released] <= e^epsilon p + delta`` with ``p`` its false-alarm rate (Wasserman and Zhou
    2010, Theorem 2.4). That is all an (epsilon, delta) guarantee says: it is no bound on the odds that holds "except
    with probability delta", which would be a stronger statement. Figures are rounded up.

    Args:
        epsilon: In nats, at least 0.
        delta: In [0, 1).

    Returns:
        In words.

    Example:
        >>> recognition(0.05, 1e-6)
        'with probability at most 1.05128 p + 1e-06'
    """
    if epsilon > 20:
        return f"with probability at most e^{bound(epsilon)} p + {bound(delta)}, which is no protection"
    return f"with probability at most {bound(math.exp(epsilon))} p + {bound(delta)}"


def bound(value: float) -> str:
    """A figure that something is at most, rounded up to six digits: what is printed is never below it.

    The epsilon and delta of a certificate are printed by this alone, so that no two places state them differently.

    Args:
        value: The figure.

    Returns:
        In words.

    Example:
        >>> bound(0.0500000049)
        '0.0500001'
    """
    return f"{float(_UPWARDS.create_decimal(repr(value))):.{_UPWARDS.prec}g}"


def delta_parts(certificate: Mapping[str, Any]) -> str | None:
    """Say what the delta of a certificate is the sum of, and the sum to its last digit.

    Formula: ``delta = gaussian_delta + draws * (generator_delta + failure_probability)``, as the release computes it.

    Args:
        certificate: A certificate as plain data.

    Returns:
        In words; None where no noise was drawn, and delta is zero.
    """
    if not certificate["delta"]:
        return None
    constants = {constant["name"]: constant["value"] for constant in certificate["constants"]}
    draws = counted(certificate["sequential"]["draws"], "noise draw")
    parts = [f"{bound(certificate['gaussian_delta'])} that the noise is calibrated to"]
    parts += [
        f"{draws} times {bound(constants[name])} for {words}"
        for name, words in _DELTA_SHARES.items()
        if constants.get(name)
    ]
    return (
        f"δ is {certificate['delta']!r} to its last digit, shown rounded up as {bound(certificate['delta'])} "
        f"everywhere: {', and '.join(parts)}."
    )


def counted(number: int, one: str, many: str | None = None) -> str:
    """How many of something there are.

    Args:
        number: Of them.
        one: What a single one is called.
        many: What several are called; with an s at the end by default.

    Returns:
        In words.

    Example:
        >>> counted(1, "ticket"), counted(2000, "ticket"), counted(0, "entry", "entries")
        ('1 ticket', '2,000 tickets', '0 entries')
    """
    return f"{number:,} {plural(number, one, many)}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """What so many of something are called, without the number.

    Args:
        number: Of them.
        one: What a single one is called.
        many: What several are called; with an s at the end by default.

    Returns:
        The word.

    Example:
        >>> plural(1, "is", "are")
        'is'
    """
    return one if number == 1 else many or f"{one}s"


def figure(value: float | None) -> str:
    """A number as people read it.

    Args:
        value: Any.

    Returns:
        In words.

    Example:
        >>> figure(1234567), figure(0.001)
        ('1,234,567', '0.001')
    """
    if value is None:
        return "none known"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def who(certificate: Mapping[str, Any]) -> str:
    """How much was forgotten.

    Args:
        certificate: A certificate as plain data.

    Returns:
        Records and people.
    """
    records, subjects = certificate["forget"]["records"], certificate["forget"]["subjects"]
    return f"{counted(records, 'record')} of {counted(subjects, 'person', 'people')}"


def exchanged(certificate: Mapping[str, Any]) -> str:
    """What holds with the two sides exchanged: of what was drawn, and of what the gates let pass.

    Formula: ``P[reference in T] <= e^epsilon P[drawn in T] + delta``; with what is released for what is drawn, the
    probability that the gates refuse the reference is added (:mod:`expunge.privacy.truncation`).

    Args:
        certificate: A certificate as plain data, of a release with noise.

    Returns:
        In words; what version 1 does not state is not said.
    """
    gates = certificate.get("attack_gates")
    if gates is None:
        return EXCHANGED
    if not gates["false_alarm"]:
        return f"{EXCHANGED} No attack on these people was a gate."
    return (
        f"{EXCHANGED} Of what is released it holds with {bound(gates['exchanged_delta'])} instead of "
        f"{bound(certificate['delta'])} if these people are like those with whom the attacks compared them, which "
        "nobody proves: the gates then refuse a model that was never trained on them with probability at most "
        f"{bound(gates['false_alarm'])}. Both sides have to pass the gates that do not look at these people."
    )


def verdict(certificate: Mapping[str, Any]) -> str:
    """The certificate in one or two sentences.

    Args:
        certificate: A certificate as plain data.

    Returns:
        The verdict; a vacuous one says so first.
    """
    people = who(certificate)
    if certificate["vacuous"]:
        return (
            f"VACUOUS: this certificate is outside the limits of policy and proves nothing useful about {people}. "
            f"It states epsilon = {bound(certificate['epsilon'])}."
        )
    parts = len(certificate.get("public_parts", []))  # none in version 1
    word = (
        f" This takes the operator's word that {counted(parts, 'part')} of the model, which no batch changes, "
        f"{plural(parts, 'is', 'are')} public."
    )
    given = word if parts else ""
    if not certificate["forget"]["subjects"]:
        return (
            "Nobody was removed: the model was trained again on the dataset as it is, without those who had left it "
            f"before.{given}"
        )
    if certificate["guarantee"] == "exact":
        return f"The model was retrained exactly, without {people}.{given}"
    close = certificate["epsilon"] <= _CLOSE
    closeness = (
        "What its mechanism draws is hardly distinguishable from"
        if close
        else "There is a bound on telling what its mechanism draws from"
    )
    condition = (
        ", if the constants marked as assumed are right" if certificate["guarantee"] == "conditional" else ""
    )
    return (
        f"The released model has unlearned {people}{condition}. {closeness} a model that was never trained on "
        f"them: any test that raises a false alarm on such a model with probability p fires on what is drawn "
        f"{recognition(certificate['epsilon'], certificate['delta'])}. {GATES_TAKE_AWAY} {EXCHANGED}{given}"
    )
