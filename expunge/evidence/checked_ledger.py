"""A ledger checked once and looked up many times: what it says of each certificate."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.evidence.canonical import digest
from expunge.evidence.certificate import Certificate
from expunge.evidence.ledger import CLOCKS, LedgerEntry, check_ledger, moment_of
from expunge.evidence.policy_change import certificate_faults, untold
from expunge.evidence.result import VerificationResult
from expunge.evidence.verify_ledger import SIGNED_HEAD

_SLACK = 1e-9  # relative: evidence passes through decimal text
_TRAINED = ("opening", "release", "retraining")


@dataclass(frozen=True)
class CheckedLedger:
    """A lineage's ledger with its faults found and its entries by certificate and batch.

    Args:
        outcome: Of its verification.
        releases: Entries of releases and retrainings, by certificate id.
        moves: Moves of the alias, by certificate id.
        purges: The first entry that proves a batch's purge, by batch.
        all_purges: Every one, by batch.
        models: The first entry of each model, by digest.
        undone: Certificate ids of releases that were rolled back.
        policies: Entries that state the policy, in order.
    """

    outcome: VerificationResult
    releases: Mapping[str, Sequence[LedgerEntry]]
    moves: Mapping[str, Sequence[LedgerEntry]]
    purges: Mapping[str, LedgerEntry]
    all_purges: Mapping[str, Sequence[LedgerEntry]]
    models: Mapping[str, LedgerEntry]
    undone: frozenset[str]
    policies: Sequence[LedgerEntry] = ()

    @classmethod
    def of(cls, entries: Sequence[LedgerEntry], outcome: VerificationResult | None = None) -> "CheckedLedger":
        """Check a ledger's chain and arithmetic and index it.

        Args:
            entries: In order.
            outcome: Of a verification of it; the entries alone are checked here otherwise.

        Returns:
            The ledger.
        """
        releases: dict[str, list[LedgerEntry]] = {}
        moves: dict[str, list[LedgerEntry]] = {}
        purges: dict[str, list[LedgerEntry]] = {}
        models: dict[str, LedgerEntry] = {}
        for entry in entries:
            if entry.kind in ("release", "retraining") and entry.certificate_id is not None:
                releases.setdefault(entry.certificate_id, []).append(entry)
            if entry.kind == "alias" and entry.certificate_id is not None:
                moves.setdefault(entry.certificate_id, []).append(entry)
            if entry.kind == "purge" and entry.batch is not None:
                purges.setdefault(entry.batch, []).append(entry)
            if entry.kind in _TRAINED and entry.model_digest is not None:
                models.setdefault(entry.model_digest, entry)
        outcome = outcome or VerificationResult(
            tuple(check_ledger(entries)), checked=("chain and sequential arithmetic",)
        )
        first = {batch: found[0] for batch, found in purges.items()}
        policies = tuple(entry for entry in entries if entry.kind == "policy")
        undone = frozenset(_undone(entries))
        return cls(outcome, releases, moves, first, purges, models, undone, policies)

    def policy_for(self, certificate: Certificate) -> LedgerEntry | None:
        """The last statement of policy before a certificate's release.

        Args:
            certificate: The certificate.

        Returns:
            Its entry; None if there is none, or the ledger does not know the certificate.
        """
        releases = self.releases.get(certificate.certificate_id, ())
        earlier = [entry for entry in self.policies if releases and entry.sequence < releases[0].sequence]
        return earlier[-1] if earlier else None

    def policy_untold(self, certificate: Certificate) -> Iterator[str]:
        """What the ledger leaves open of the policy that a certificate names.

        Args:
            certificate: The certificate.

        Yields:
            Lines of what was not checked.
        """
        stated = self.policy_for(certificate) if certificate.version > 1 else None
        if stated is not None and (change := stated.policy) is not None:
            yield from untold(stated.sequence, stated.issued_at, change)

    def vouches_for(self, certificate: Certificate) -> bool:
        """Whether a key that counts signs that this certificate is the one that was issued.

        Args:
            certificate: The certificate.

        Returns:
            Whether nothing is wrong with the ledger, its head is signed, and it has the certificate's digest.
        """
        entries = self.releases.get(certificate.certificate_id, ())
        signed = self.outcome.consistent and SIGNED_HEAD in self.outcome.checked
        return signed and [entry.certificate_digest for entry in entries] == [digest(certificate.to_json())]

    def disagreements(self, certificate: Certificate) -> Iterator[str]:
        """What the ledger says otherwise than a certificate, field by field.

        Args:
            certificate: The certificate.

        Yields:
            Findings in words.
        """
        entries = self.releases.get(certificate.certificate_id, ())
        if not entries:
            yield "the ledger has no entry for this certificate"
            return
        if len(entries) > 1:
            yield f"the ledger has {len(entries)} entries for this certificate"
        entry = entries[0]
        if entry.certificate_digest != digest(certificate.to_json()):
            yield "the certificate's digest is not the one in the ledger: it was changed after it was issued"
        differ = [name for name, one, other in _pairs(certificate, entry) if not _same(one, other)]
        if differ:
            yield f"the certificate and its ledger entry {entry.sequence} differ in {', '.join(differ)}"
        parent = self.models.get(certificate.model.parent_digest)
        if parent is None or parent.sequence >= entry.sequence:
            yield "the parent's digest is that of no earlier model in the ledger"
        elif moment_of(parent.issued_at) - moment_of(certificate.issued_at) > CLOCKS:
            yield "the certificate was issued before the model that it starts from"
        stated = self.policy_for(certificate)
        yield from certificate_faults(certificate, stated.policy if stated is not None else None)
        model = certificate.model
        ways = (
            (model.parent_version, model.version),
            (model.version, model.parent_version),
        )  # there, and back
        for entry_of_move in self.moves.get(certificate.certificate_id, ()):
            move = entry_of_move.move
            if move is not None and (move.from_version, move.to_version) not in ways:
                yield (
                    f"the alias went from version {move.from_version} to {move.to_version} for this certificate "
                    f"(entry {entry_of_move.sequence}), which is of version {model.version} after "
                    f"{model.parent_version}"
                )
        for purge in self.all_purges.get(certificate.batch, ()):
            yield from _check_purge(purge, entry, certificate)
            named = purge.certificate_id
            # of a batch that was rolled back, its last release is purged after
            if (
                named not in (None, certificate.certificate_id)
                and certificate.certificate_id not in self.undone
            ):
                yield f"the purge entry {purge.sequence} names another certificate of the batch, {named}"


def _pairs(c: Certificate, e: LedgerEntry) -> list[tuple[str, Any, Any]]:
    s = c.sequential
    return [
        ("kind", "retraining" if c.guarantee == "exact" else "release", e.kind),
        ("lineage", c.model.name, e.lineage),
        ("batch", c.batch, e.batch),
        ("issued_at", c.issued_at, e.issued_at),
        ("model digest", c.model.digest, e.model_digest),
        ("dataset md5", c.dataset.after.md5, e.dataset_md5),
        ("records", c.forget.records, e.records_removed),
        ("mechanism", c.mechanism, e.mechanism),
        ("guarantee", c.guarantee, e.guarantee),
        ("error bound", c.error_bound.value, e.error_bound),
        ("sigma", c.sigma, e.sigma),
        ("m", c.error_bound.value / c.sigma if c.sigma else 0.0, e.m),
        ("draws", s.draws, e.draws),
        ("composed m", s.composed_m, e.composed_m),
        ("epsilon", c.epsilon, e.epsilon),
        ("Gaussian delta", c.gaussian_delta, e.gaussian_delta),
        ("delta", c.delta, e.delta),
        ("step", s.step, e.step),
        ("accumulated error", s.accumulated_error, e.accumulated_error),
        ("uniform error", s.uniform_error, e.uniform_error),
    ]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_SLACK)
    return bool(one == other)


def _check_purge(purge: LedgerEntry, release: LedgerEntry, certificate: Certificate) -> Iterator[str]:
    scan = purge.details.get("scan")
    if not isinstance(scan, dict):
        yield f"the purge entry {purge.sequence} states no residue scan"
    elif scan.get("clean") is not True or scan.get("hits"):
        yield f"the purge entry {purge.sequence} states a residue scan that was not clean"
    if purge.sequence < release.sequence:
        yield f"the purge entry {purge.sequence} comes before the release that it follows, entry {release.sequence}"
    if moment_of(certificate.issued_at) - moment_of(purge.issued_at) > CLOCKS:
        yield f"the purge entry {purge.sequence} is dated before the certificate that it follows"


def _undone(entries: Sequence[LedgerEntry]) -> set[str]:
    """Certificates of releases that were rolled back, told in any of three ways.

    The alias goes back at once; the next release of the same batch, which is made only after that, names what it
    replaces, and replaces it whether it names it or not.
    """
    undone: set[str | None] = set()
    newest: dict[str, str] = {}  # certificate by batch
    served: list[tuple[int, str | None]] = []  # versions that the alias rose to, and their certificates
    for entry in entries:
        undone |= set(_named(entry.details.get("rolled_back")))
        name, move = entry.certificate_id, entry.move
        if entry.kind in ("release", "retraining") and entry.batch is not None and name is not None:
            if newest.get(entry.batch, name) != name:
                undone.add(newest[entry.batch])
            newest[entry.batch] = name
        if move is None:
            continue
        if move.from_version is None or move.to_version >= move.from_version:
            served.append((move.to_version, name))
            continue
        undone.add(name)
        while served and served[-1][0] > move.to_version:
            undone.add(served.pop()[1])
    return {name for name in undone if name is not None}


def _named(releases: Any) -> Iterator[str]:
    for one in releases if isinstance(releases, list) else []:
        if isinstance(one, dict) and isinstance(one.get("certificate_id"), str):
            yield one["certificate_id"]
