"""What every certificate says that it does not cover, by version; a version's sentences never change."""

from typing import Final

from expunge.evidence.certificate import NEWEST

_SCOPE_1 = (
    "The certificate speaks of the released weights, against someone who sees releases from this one on; earlier "
    "releases that someone kept are not covered.",
    "What retained records reveal is not covered, near-duplicates of the person included.",
    "Decisions that looked at the forget set are not covered: that this release was made, that gates passed, which "
    "mechanism was tried first, and how long it took.",
    "Requests are taken not to depend on earlier releases, nor on whether the person was present (non-adaptive).",
    "The noise generator is computational: the guarantee holds against adversaries who cannot break ChaCha20.",
    "Seeds, hyper-parameters, the split and policy are taken not to depend on the person.",
)
# From version 2 on.
_SCOPE_2 = (
    *_SCOPE_1[:-1],
    "Seeds, hyper-parameters, the split and policy are taken not to depend on the person: policy was pinned when the "
    "batch was planned, which may be after the person asked, and the ledger dates each statement of it.",
    "The certificate counts the releases of its own lineage, the model that it names. Another lineage that was trained "
    "on the same people has releases and a ledger of its own, and what both tell together is not covered: two alike "
    "compose to the square root of 2 times the Gaussian parameter of one.",
)
_SCOPES: Final = {1: _SCOPE_1, 2: _SCOPE_2}
_OF_NOISE = "noise generator"  # a line that says nothing of an exact release


def scope_of(guarantee: str, version: int = NEWEST) -> list[str]:
    """What every certificate of a class says it does not cover.

    Args:
        guarantee: The class.
        version: Of the certificate.

    Returns:
        Sentences.
    """
    return [line for line in _SCOPES[version] if guarantee != "exact" or _OF_NOISE not in line]
