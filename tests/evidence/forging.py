"""Evidence issued anew by whoever holds keys: the honest operator, a dishonest one, and a stranger."""

import copy
import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expunge.evidence.annex import create_auditor_keys, open_annex, seal
from expunge.evidence.bundle import ENVELOPE_FILE
from expunge.evidence.canonical import digest
from expunge.evidence.keyring import KEYRING_FILE
from expunge.evidence.keys import SigningKeys
from expunge.evidence.ledger import GENESIS, LedgerEntry, parse_entries
from expunge.evidence.ledger_file import Ledger, sign_head
from expunge.evidence.model_check import MODEL_SIGNATURE_FILE
from expunge.evidence.model_files import combined_digest, file_digests
from expunge.evidence.statements import (
    CERTIFICATE_PREDICATE,
    KEY_PREDICATE,
    RECEIPT_PREDICATE,
    sign_statement,
)
from tasks.adapters.model_signing import sign_model

GOLDEN = Path(__file__).parents[1] / "golden" / "certificate-v1-signed-convex"


def golden_certificate() -> dict[str, Any]:
    """A certificate from a real run."""
    content: dict[str, Any] = json.loads((GOLDEN / "certificate.json").read_text())
    return content


def golden_entries() -> list[LedgerEntry]:
    """Its ledger."""
    return parse_entries(json.loads((GOLDEN / "ledger.json").read_text())["entries"])


def golden_figures() -> dict[str, Any]:
    """What its annex holds."""
    return open_annex((GOLDEN / "annex.sealed").read_bytes(), GOLDEN / "auditor" / "annex.key")


def chained(entries: list[LedgerEntry]) -> list[LedgerEntry]:
    """Entries numbered and chained anew."""
    made: list[LedgerEntry] = []
    for index, entry in enumerate(entries):
        previous = made[-1].digest() if made else GENESIS
        made.append(entry.model_copy(update={"sequence": index, "previous": previous}))
    return made


def write(path: Path, content: Any) -> None:
    """Write JSON."""
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def signed_receipt(keys: SigningKeys, receipt: dict[str, Any]) -> dict[str, Any]:
    """A receipt signed now."""
    said = {"receipt": receipt, "signed_at": datetime.now(UTC).isoformat()}
    named = {f"receipt {receipt['ticket_id']}": digest(receipt).removeprefix("sha256:")}
    return sign_statement(keys.signer(), RECEIPT_PREDICATE, named, said)


@dataclass
class Operator:
    """Somebody with signing keys, who issues whatever they like, consistently.

    Args:
        place: For keys and the auditor's.
    """

    place: Path

    def __post_init__(self) -> None:
        """Make the keys."""
        self.keys = SigningKeys(self.place / "keys")
        self.keys.create(datetime(2026, 1, 1, tzinfo=UTC))
        create_auditor_keys(self.place / "auditor")
        self.annex_key = self.place / "auditor" / "auditor.key"

    def issue(
        self,
        folder: Path,
        certificate: dict[str, Any] | None = None,
        figures: dict[str, Any] | None = None,
        model: Path | None = None,
    ) -> Path:
        """An evidence folder in which everything agrees with the certificate, and is signed."""
        folder.mkdir(parents=True, exist_ok=True)
        content = copy.deepcopy(certificate or golden_certificate())
        files = folder / "model"
        shutil.copytree(model or GOLDEN / "model", files, dirs_exist_ok=True)
        subjects = file_digests(files)
        content["model"]["digest"] = combined_digest(subjects)
        annex, content["sealed_annex"]["digest"] = seal(figures or golden_figures(), self.place / "auditor")
        entries = [self._agreeing(entry, content) for entry in golden_entries()]
        ledger = chained(entries)
        (folder / "annex.sealed").write_bytes(annex)
        write(folder / "certificate.json", content)
        write(
            folder / ENVELOPE_FILE,
            sign_statement(self.keys.signer(), CERTIFICATE_PREDICATE, subjects, content),
        )
        self.write_ledger(folder / "ledger.json", ledger)
        shutil.copyfile(self.place / "keys" / KEYRING_FILE, folder / KEYRING_FILE)
        private = next((self.place / "keys").glob("signing-model-*.key"))
        sign_model(files, private, folder / MODEL_SIGNATURE_FILE)
        return folder

    def write_ledger(self, path: Path, entries: list[LedgerEntry]) -> None:
        """A ledger with a signed head."""
        head = sign_head(self.keys.signer(), entries, datetime.now(UTC))
        write(path, Ledger(entries[0].lineage, tuple(entries), head).to_json())

    def _agreeing(self, entry: LedgerEntry, c: dict[str, Any]) -> LedgerEntry:
        """An entry as it must be to agree with a certificate, where it is that certificate's."""
        if entry.certificate_id != c["certificate_id"] or entry.kind not in ("release", "retraining"):
            return entry
        s, bound = c["sequential"], c["error_bound"]["value"]
        return entry.model_copy(
            update={
                "kind": "retraining" if c["guarantee"] == "exact" else "release",
                "certificate_digest": digest(c),
                "model_digest": c["model"]["digest"],
                "dataset_md5": c["dataset"]["after"]["md5"],
                "records_removed": c["forget"]["records"],
                "mechanism": c["mechanism"],
                "guarantee": c["guarantee"],
                "error_bound": bound,
                "sigma": c["sigma"],
                "m": bound / c["sigma"] if c["sigma"] else 0.0,
                "draws": s["draws"],
                "composed_m": s["composed_m"],
                "epsilon": c["epsilon"],
                "gaussian_delta": c["gaussian_delta"],
                "delta": c["delta"],
                "step": s["step"],
                "accumulated_error": s["accumulated_error"],
                "uniform_error": s["uniform_error"],
            }
        )


class Thief(Operator):
    """Somebody with a private evidence key of an operator's, and keys of their own, which it vouches for.

    Args:
        place: For their keys.
        victim: Whose oldest key was stolen.
        more: How many keys lie between the stolen one and that which signs, each endorsed by the one before.
    """

    def __init__(self, place: Path, victim: Operator, more: int = 0) -> None:
        """Endorse everything, dated long before the stolen key's end."""
        super().__init__(place)
        self.stolen = victim.keys.keyring().of("evidence")[0]
        models = victim.keys.keyring().of("model")
        signers = {
            "evidence": victim.keys._signer(self.stolen),
            "model": victim.keys._signer(models[0]),
        }
        keys, uris = self.keys.keyring().keys, self.keys._uris()
        for number in range(more):
            other = SigningKeys(place / f"more-{number}")
            keys = [*other.create(datetime(2026, 1, 1, tzinfo=UTC)).of("evidence"), *keys]
            uris |= {
                keyid: f"file2:../more-{number}/{uri.partition(':')[2]}"
                for keyid, uri in other._uris().items()
            }
        self.keys._write(keys, uris)
        endorsed = []
        for key in keys:
            made = sign_statement(signers[key.use], KEY_PREDICATE, {"public key": key.keyid}, key.claim())
            endorsed.append(key.model_copy(update={"endorsement": made}))
            signers[key.use] = self.keys._signer(key)
        self.keys._write([self.stolen, models[0], *endorsed], uris)
