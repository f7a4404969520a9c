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
    *_SCOPE_1[:2],
    "Decisions that looked at the forget set have no bound of their own: that this release was made, that gates "
    "passed, which mechanism was tried first, and how long it took. Gates only take releases away: that one is made "
    "and is told from the reference stays within the bound, whatever they refuse. Given that it was made, the bound is "
    "divided by the probability of that.",
    *_SCOPE_1[3:-1],
    "Seeds, hyper-parameters, the split and policy are taken not to depend on the person: policy was pinned when the "
    "batch was planned, which may be after the person asked, and the ledger dates each statement of it.",
    "The certificate counts the releases of its own lineage, the model that it names. Another lineage that was trained "
    "on the same people has releases and a ledger of its own, and what both tell together is not covered: two alike "
    "compose to the square root of 2 times the Gaussian parameter of one.",
    "What was published of versions before this one is not covered: their test metrics, commits and certificates.",
    "Counts are told without noise: how many people asked, how many of their records were removed and how many of "
    "these were trained on, how many records stay, how many test rows there were before and after, and, where an "
    "attack was a gate, how many of the people were trained on; how many versions, partitions and releases there are, "
    "and how many files and bytes the residue scan read. Whoever can list the stores sees sizes and times of files "
    "too.",
)
# Beside the others, where it is so.
UNSALTED: Final = (
    "Before this batch, files that saw people were written in this workspace without a random value in them, by an "
    "earlier release or by hand: digests of such files, in git, the ledger, MLflow or this certificate, confirm a "
    "guessed row of theirs to whoever knows all other rows."
)
# Instead of people, in a certificate of a model that was trained again.
NOBODY: Final = (
    "Nobody was removed by this release: the model was trained again, from nothing, on the dataset as it is. Whoever "
    "was removed from that dataset before is not in the model."
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
