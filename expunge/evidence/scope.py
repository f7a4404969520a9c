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
    *_SCOPE_1,
    "What was published of versions before this one is not covered: their test metrics, commits and certificates.",
    "Counts are told and not covered: of people and records that left, of records that stay, of versions, partitions "
    "and releases, of the files and bytes that the residue scan read. Whoever can list the stores sees sizes and times "
    "of files too.",
)
# Beside the others, where it is so.
UNSALTED: Final = (
    "Before this batch, files that saw people were written in this workspace without a random value in them, by an "
    "earlier release or by hand: digests of such files, in git, the ledger, MLflow or this certificate, confirm a "
    "guessed row of theirs to whoever knows all other rows."
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
