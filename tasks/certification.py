"""Certification: the certificate is written from the release record alone, and the ledger entry chained."""

import hashlib
import secrets
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import expunge
from expunge.errors import CertificateRefusedError
from expunge.evidence.annex import ANNEX_FILE, ATTACK_GATES, annex_digest, recipient
from expunge.evidence.bundle import Trust, Verifier, find_evidence
from expunge.evidence.canonical import digest
from expunge.evidence.certificate import NEWEST, Certificate, Certificate2, parse_certificate
from expunge.evidence.checked_ledger import CheckedLedger
from expunge.evidence.ledger import account_of
from expunge.evidence.public_parts import assumptions_of
from expunge.evidence.result import VerificationResult
from expunge.evidence.scope import NOBODY, UNSALTED, scope_of
from expunge.evidence.verify import verify_certificate
from expunge.files import write_json
from expunge.models.spec import is_own
from expunge.privacy.accountant import SequentialAccount
from expunge.privacy.truncation import exchanged_delta, refusal_level
from expunge.reports.content import certificate_document
from expunge.reports.page import render_page
from expunge.reports.pdf import render_pdf
from expunge.stages import MODEL_FOLDER
from expunge.state import State, open_state
from expunge.tickets.batches import Batch, BatchStage
from tasks.adapters import access, git
from tasks.coverage import record_certificate, rows_for
from tasks.dataset import require_dataset
from tasks.ledger import append, write_ledger
from tasks.policy import record_policy, require_policy
from tasks.signing import sign_certificate, write_signed
from tasks.step import Timer, log, step


@step
def certify(batch_id: str) -> str:
    """Issue a validated release's certificate and chain its ledger entry.

    Args:
        batch_id: Of the batch.

    Returns:
        The certificate's id.

    Raises:
        RefusedError: If the dataset is not the one that removal left.
        CertificateRefusedError: If the certificate would not verify.
    """
    state, timer = open_state(), Timer()
    batch = state.batches.get(batch_id)
    if batch.done(BatchStage.CERTIFIED):
        return str(batch.data["certificate_id"])
    batch = require_policy(state, batch)
    require_dataset(state, batch)
    if batch.data["release"]["draws"] != batch.draws:
        raise CertificateRefusedError(
            "another draw of noise was counted after this release was made",
            expected=f"{batch.data['release']['draws']} draws",
            got=str(batch.draws),
            remedy="report this; nothing was released",
        )
    record_policy(state, batch.data["policy"])
    model = state.workspace.releases_dir / batch_id / MODEL_FOLDER
    if not _issued(state, batch):  # written once: a resumed batch issues the same one
        issued = _certificate(state, batch).to_json()
        batch = state.batches.record(
            batch_id, certificate=issued, envelope=sign_certificate(state, issued, model)
        )
    certificate = parse_certificate(batch.data["certificate"])
    content, release = certificate.to_json(), batch.data["release"]
    entry = append(
        state,
        kind="retraining" if certificate.guarantee == "exact" else "release",
        issued_at=certificate.issued_at,
        batch=batch_id,
        certificate_id=certificate.certificate_id,
        certificate_digest=digest(content),
        model_digest=certificate.model.digest,
        dataset_md5=certificate.dataset.after.md5,
        records_removed=certificate.forget.records,
        details=_details(batch),
        **{
            name: release[name]
            for name in (
                [
                    "mechanism",
                    "guarantee",
                    "error_bound",
                    "sigma",
                    "m",
                    "draws",
                    "composed_m",
                    "epsilon",
                    "gaussian_delta",
                    "delta",
                ]
            )
        },
    )
    entries = state.ledger.entries(state.lineage)
    checked = CheckedLedger.of(entries)
    annex = (state.workspace.releases_dir / batch_id / ANNEX_FILE).read_bytes()
    _require_verified(verify_certificate(certificate, ledger=checked, annex=annex))
    record_certificate(state, certificate)
    folder = state.workspace.evidence_dir / certificate.certificate_id
    folder.mkdir(parents=True, exist_ok=True)
    write_ledger(state, folder, entry.sequence)
    write_json(folder / "certificate.json", content)
    (folder / ANNEX_FILE).write_bytes(annex)
    # A batch that an earlier release began has none: its certificate is older than the keys.
    signed_by = None
    if (envelope := batch.data.get("envelope")) is not None:
        signed_by = write_signed(state, envelope, model, folder)
        trust = Trust(keys=state.signing.keyring(), ledger=checked)
        outcome = Verifier(trust).verify(find_evidence(folder), model=model)
        if not outcome.consistent:
            shutil.rmtree(folder)  # nothing lies among the evidence that does not hold
        _require_verified(outcome)
    document = certificate_document(content, [entry.to_json() for entry in entries], signed_by=signed_by)
    (folder / "certificate.html").write_text(render_page(document), encoding="utf-8")
    (folder / "certificate.pdf").write_bytes(render_pdf(document))
    state.batches.advance(
        batch_id,
        BatchStage.CERTIFIED,
        certificate_id=certificate.certificate_id,
        seconds=timer.seconds(batch.data, "certification"),
    )
    log(f"batch {batch_id}: certificate {certificate.certificate_id}")
    return certificate.certificate_id


def _issued(state: State, batch: Batch) -> bool:
    """Whether its certificate is written; one of an earlier version that the ledger does not have is issued anew."""
    stored = batch.data.get("certificate")
    if stored is None or stored["version"] >= NEWEST:
        return stored is not None
    known = (entry.certificate_id for entry in state.ledger.entries(state.lineage))
    return stored["certificate_id"] in known


def _require_verified(outcome: VerificationResult) -> None:
    if not outcome.consistent:
        raise CertificateRefusedError(
            "the certificate does not verify",
            got="; ".join(outcome.findings),
            remedy="report this; nothing was released",
        )


def _certificate(state: State, batch: Batch) -> Certificate:
    data, release, admit = batch.data, batch.data["release"], state.policy.admit
    parts = _public_parts(state, batch)
    account = account_of(state.ledger.entries(state.lineage))
    exact = release["guarantee"] == "exact"
    account = SequentialAccount() if exact else account.after_release(release["error_bound"])
    annex = (state.workspace.releases_dir / batch.batch_id / ANNEX_FILE).read_bytes()
    limits = state.policy.ledger
    return Certificate2.model_validate(
        {
            "certificate_id": f"c-{secrets.token_hex(8)}",
            "issued_at": state.ledger.now(state.lineage).isoformat(timespec="seconds"),
            "batch": batch.batch_id,
            "model": {
                "name": state.lineage,
                "version": access.registry(state).next_version(),
                "digest": data["model_digest"],
                "parent_version": data["parent_version"],
                "parent_digest": data["parent_digest"],
            },
            "dataset": {"before": data["before"], "after": data["after"]},
            "tickets": list(batch.pseudonyms),
            "forget": {"records": data["records"], "subjects": len(batch.tickets)},
            "retain": {"records": data["retain_records"]},
            **{
                name: release[name]
                for name in [
                    "mechanism",
                    "guarantee",
                    "reference",
                    "epsilon",
                    "delta",
                    "gaussian_delta",
                    "sigma",
                    "parameters",
                    "noise",
                ]
            },
            "assumptions": [*release["assumptions"], *assumptions_of(parts)],
            "error_bound": {
                "value": release["error_bound"],
                "binding": release["binding"],
                "formula": release["formula"],
            },
            "constants": release["constants"],
            "scope": [
                *([] if batch.tickets else [NOBODY]),
                *scope_of(release["guarantee"]),
                *([] if data.get("salted") else [UNSALTED]),  # an earlier release did not look
            ],
            "coverage": rows_for(state, batch),
            "sequential": {
                "step": account.step,
                "accumulated_error": account.accumulated_error,
                "uniform_error": account.uniform_error,
                "composed_m": release["composed_m"],
                "composed_epsilon": release["epsilon"],
                "composed_delta": release["delta"],
                "draws": release["draws"],
                "limits": limits.model_dump(),
            },
            "vacuous": not (
                release["guarantee"] in admit.classes
                and release["epsilon"] <= admit.epsilon
                and release["delta"] <= admit.delta
            ),
            "admitted": admit.model_dump(mode="json"),
            "validation": {"gates": data["gates"]},
            "attack_gates": _attack_gates(state, batch),
            "sealed_annex": {"digest": annex_digest(annex), "recipient": recipient(state.workspace.keys_dir)},
            "code": _code(),
            "policy": {
                "digest": data["policy"]["digest"],
                "pinned_at": data["policy"]["pinned_at"],
            },
            "public_parts": parts,
        }
    )


def _public_parts(state: State, batch: Batch) -> list[dict[str, Any]]:
    """Declared when the release was made; one that an earlier version of Expunge made has nothing to declare of."""
    if "public_parts" not in batch.data and is_own(state.params.model.name):
        raise CertificateRefusedError(
            "this release of a network of one's own was made by a version of Expunge that did not save its code",
            expected="code and frozen tensors among the model's files",
            got="neither",
            remedy="finish this batch with that version; the next one saves them",
        )
    return list(batch.data.get("public_parts", []))


def _details(batch: Batch) -> dict[str, Any]:
    """Which releases of the same batch were rolled back: their certificates are of versions that do not serve."""
    undone = batch.data.get("rolled_back", [])
    named = [{name: release[name] for name in ("version", "certificate_id", "at")} for release in undone]
    return {"rolled_back": named} if named else {}


def _code() -> dict[str, str | None]:
    """Which code made the release, as far as it can be told: a checkout names its commit and its lock file."""
    root = Path(expunge.__file__).resolve().parents[1]
    lock = root / "requirements.lock"
    return {
        "version": metadata.version("expunge"),
        "commit": git.head(root) if (root / ".git").exists() else None,
        "lock_digest": f"sha256:{hashlib.sha256(lock.read_bytes()).hexdigest()}" if lock.is_file() else None,
    }


def _attack_gates(state: State, batch: Batch) -> dict[str, float]:
    release, policy = batch.data["release"], state.policy.attacks
    false_alarm = 0.0
    if any(gate["name"] in ATTACK_GATES for gate in batch.data["gates"]):
        confidence = policy.contradiction.confidence
        false_alarm = refusal_level(policy.false_alarm, release["epsilon"], release["delta"], confidence)
    return {
        "false_alarm": false_alarm,
        "exchanged_delta": exchanged_delta(release["delta"], false_alarm),
    }
