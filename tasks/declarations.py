"""What Expunge cannot see, and what people say of it: derived models, embeddings, exports on the coverage map."""

import json
from collections.abc import Sequence
from pathlib import Path

from expunge.errors import CoverageError, InputError, VerificationError
from expunge.evidence.certificate import Certificate, parse_certificate
from expunge.evidence.coverage import CERTIFIABLE, Artefact, Kind, Resolution, artefact, artefact_id
from expunge.evidence.ledger import LedgerEntry
from expunge.evidence.ledger_file import parse_ledger
from expunge.evidence.verify import verify_certificate
from expunge.evidence.verify_ledger import verify_ledger
from expunge.reports.plain_words import bound
from expunge.state import State
from expunge.tickets.intake import check_reason
from expunge.tickets.lifecycle import OPEN
from tasks.adapters import access
from tasks.coverage import catch_up, model_id

# The ledger that lies beside a certificate is renewed at the purge.
_EXPORT = (
    "copy the folder .expunge/evidence/c-... from the other workspace when its batch is closed; a release before "
    "signed heads writes its ledger by `expunge ledger show --json > ledger.json`"
)


def declare(
    state: State,
    kind: Kind,
    name: str,
    where: str,
    *,
    from_version: int | None = None,
    from_dataset: str | None = None,
    parent: str | None = None,
) -> Artefact:
    """Put something on the map that Expunge cannot see; it saw whomever saw what it was made from.

    What was said to be purged or recomputed is open again when it is declared again: it was made again.

    Args:
        state: The workspace.
        kind: One that can be declared.
        name: Without personal data.
        where: Free text.
        from_version: The model version it was made from, or
        from_dataset: the dataset version, or
        parent: another artefact.

    Returns:
        The artefact.

    Raises:
        InputError: If not exactly one origin is named, or it is unknown, or the name is taken.
    """
    if not name.strip():
        raise InputError("a name is needed", expected="--name NAME", got="none", remedy="name it")
    _require_no_person(state, name, where)
    if sum(origin is not None for origin in (from_version, from_dataset, parent)) != 1:
        raise InputError(
            "what was it made from",
            expected="one of --from-version, --from-dataset and --parent",
            remedy="name the one it was made from; its ancestors follow",
        )
    catch_up(state)
    if from_version is not None:
        origin = state.coverage.get(model_id(state, access.registry(state).get(from_version)))
    elif from_dataset is not None:
        origin = state.coverage.get(artefact_id(Kind.DATASET, from_dataset))
    else:
        origin = state.coverage.get(str(parent))
    made = artefact(kind, name, where=where, parents=[origin.artefact_id], declared=True)
    return state.coverage.declare(made)


def resolve(
    state: State,
    name: str,
    *,
    status: str | None = None,
    reason: str = "",
    certificate: Path | None = None,
    standing: bool = False,
) -> Artefact:
    """Say what became of a declared artefact, for the next batch.

    Args:
        state: The workspace.
        name: Id of the artefact.
        status: purged (for good), recomputed or not covered; or
        reason: of it.
        certificate: Another workspace's certificate.json, with its ledger.json beside it.
        standing: Whether it serves every batch to come.

    Returns:
        The artefact.

    Raises:
        InputError: If it cannot be said of this artefact.
        CoverageError: If the certificate does not cover it.
    """
    if certificate is not None:
        state.coverage.resolve(_by_certificate(state, name, certificate))
        return state.coverage.get(name)
    _require_no_person(state, reason)
    check_reason(reason, None)
    if status == "purged":
        state.coverage.purged_elsewhere(name, f"declared: {reason}")
    elif status == "recomputed":
        said = Resolution(name, "recomputed", f"declared: {reason}", standing=standing)
        state.coverage.resolve(said)
    else:
        said = Resolution(name, "not covered", f"exception: {reason}", standing=standing)
        state.coverage.resolve(said)
    return state.coverage.get(name)


def _by_certificate(state: State, name: str, path: Path) -> Resolution:
    """What another workspace's certificate covers: it is verified here, against the ledger beside it."""
    try:
        certificate = parse_certificate(json.loads(path.read_text(encoding="utf-8")))
        ledger = parse_ledger(json.loads(path.with_name("ledger.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(
            "the certificate cannot be read",
            expected="certificate.json with ledger.json beside it",
            got=path.name,
            remedy=_EXPORT,
        ) from error
    kind = state.coverage.get(name).kind
    if kind not in CERTIFIABLE:
        raise InputError(
            "a certificate cannot cover this artefact: it speaks of a model's weights",
            expected=" or ".join(CERTIFIABLE),
            got=kind,
            remedy="make it again or destroy it, and say so with --status; or --exception REASON",
        )
    findings = [
        *verify_certificate(certificate, ledger=ledger.entries).findings,
        *verify_ledger(ledger).findings,
    ]
    if findings:
        raise VerificationError("the certificate does not hold", got="; ".join(dict.fromkeys(findings)))
    if any(
        entry.certificate_id == certificate.certificate_id for entry in state.ledger.entries(state.lineage)
    ):
        raise CoverageError(
            "the certificate is about this workspace's own model",
            expected="one of the derived model's own workspace",
            got=certificate.certificate_id,
        )
    _require_admitted(state, certificate)
    _require_purged(certificate, ledger.entries)
    model = certificate.model
    exact = certificate.guarantee == "exact"
    figures = "" if exact else f", epsilon {bound(certificate.epsilon)}, delta {bound(certificate.delta)}"
    return Resolution(
        name,
        "recomputed" if exact else "covered",
        f"by certificate {certificate.certificate_id} of model {model.name} version {model.version}{figures}; "
        "verified here; that it is about the same people is the operator's word",
        certificate_id=certificate.certificate_id,
        people=certificate.forget.subjects,
    )


def _require_admitted(state: State, certificate: Certificate) -> None:
    """By the policy of this workspace: the other one's may admit anything."""
    c, admit = certificate, state.policy.admit
    composed, limit = c.sequential.composed_epsilon, state.policy.ledger.composed_epsilon
    if (
        c.vacuous
        or c.guarantee not in admit.classes
        or c.epsilon > admit.epsilon
        or c.delta > admit.delta
        or composed > limit
    ):
        raise CoverageError(
            "the policy of this workspace does not admit the certificate",
            expected=f"{'/'.join(admit.classes)}, epsilon <= {min(admit.epsilon, limit):g}, delta <= {admit.delta:g}, "
            "not vacuous",
            got=f"{c.guarantee}, epsilon {bound(c.epsilon)}, composed {bound(composed)}, delta {bound(c.delta)}"
            + (", vacuous" if c.vacuous else ""),
            remedy="unlearn there with a mechanism that it admits, or retrain",
        )


def _require_purged(certificate: Certificate, ledger: Sequence[LedgerEntry]) -> None:
    """What the release superseded is proved gone."""
    name, batch = certificate.certificate_id, certificate.batch
    scans = [
        e.details.get("scan") for e in ledger if (e.kind, e.batch, e.certificate_id) == ("purge", batch, name)
    ]
    if not any(isinstance(scan, dict) and scan.get("clean") is True for scan in scans):
        raise CoverageError(
            "the ledger beside the certificate does not prove that what it superseded is destroyed",
            expected=f"a purge entry of {batch} with a clean residue scan",
            got="a scan that found something" if scans else "none",
            remedy=f"finish the batch there; {_EXPORT}",
        )


def _require_no_person(state: State, *texts: str) -> None:
    """The map is shown, and kept for ever: nobody with an open ticket may be named on it."""
    waiting = [ticket.ticket_id for ticket in state.tickets.select(states=OPEN)]
    for subject in state.tickets.subjects_of(waiting):
        for text in texts:
            check_reason(text or "none", subject)
