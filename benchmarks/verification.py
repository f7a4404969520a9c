"""What an auditor's verification costs: `python -m benchmarks.verification`.

Made-up evidence in a temporary folder: a ledger with a signed head, retrained exactly every fifty releases, and signed
certificates of its last releases, each in a folder of its own. They are verified as `expunge certificate verify
FOLDER... --key KEYS --ledger LEDGER` does, in a process of its own, whose peak memory is told too.
"""

import copy
import json
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, emit, fresh_process, hardware, high_water, parser, pick_device, say, timed
from expunge.evidence.bundle import ENVELOPE_FILE, Trust, Verifier, find_evidence
from expunge.evidence.canonical import digest
from expunge.evidence.keyring import KEYRING_FILE, load_keyring
from expunge.evidence.keys import SigningKeys
from expunge.evidence.ledger import GENESIS, LedgerEntry, account_of
from expunge.evidence.ledger_file import Ledger, sign_head
from expunge.evidence.model_files import MODEL_FILES, combined_digest
from expunge.evidence.statements import CERTIFICATE_PREDICATE, sign_statement

ENTRIES, CERTIFICATES, _RETRAINED = 10_000, 1_000, 50
_PATTERN = ROOT / "tests" / "golden" / "certificate-v1-signed-convex" / "certificate.json"
_FIGURES = ("mechanism", "guarantee", "sigma", "epsilon", "gaussian_delta", "delta")


def make(folder: Path, entries: int, certificates: int) -> None:
    """A ledger, the keys, and the certificates of the last releases."""
    keys = SigningKeys(folder / "keys")
    began = datetime.now(UTC) - timedelta(seconds=entries)
    keys.create(began - timedelta(days=1))
    signer, pattern = keys.signer(), json.loads(_PATTERN.read_text(encoding="utf-8"))
    ledger: list[LedgerEntry] = []
    since: list[LedgerEntry] = []  # the last exact training
    for number in range(entries):
        subjects = {name: digest([number, name]).removeprefix("sha256:") for name in MODEL_FILES}
        common = {
            "sequence": number,
            "previous": ledger[-1].digest() if ledger else GENESIS,
            "lineage": pattern["model"]["name"],
            "issued_at": (began + timedelta(seconds=number)).isoformat(timespec="seconds"),
            "model_digest": combined_digest(subjects),
            "dataset_md5": f"{number:032x}.dir",
        }
        if number % _RETRAINED == 0:
            kind = "retraining" if number else "opening"
            ledger.append(LedgerEntry(kind=kind, **common))
            since = [ledger[-1]]
            continue
        content = copy.deepcopy(pattern)
        bound = content["error_bound"]["value"]
        m = bound / content["sigma"]
        account = account_of(since).after_release(bound)
        stated = {
            "step": account.step,
            "accumulated_error": account.accumulated_error,
            "uniform_error": bound,
        }
        content |= {
            "certificate_id": f"c-{number:016x}",
            "batch": f"b-{number:012x}",
            "issued_at": common["issued_at"],
        }
        content["model"] |= {"digest": common["model_digest"], "parent_digest": ledger[-1].model_digest}
        content["dataset"]["after"]["md5"] = common["dataset_md5"]
        content["sequential"] |= stated
        entry = LedgerEntry(
            kind="release",
            batch=content["batch"],
            certificate_id=content["certificate_id"],
            certificate_digest=digest(content),
            records_removed=content["forget"]["records"],
            error_bound=bound,
            m=m,
            draws=1,
            composed_m=m,
            **{name: content[name] for name in _FIGURES},
            **stated,
            **common,
        )
        ledger.append(entry)
        since.append(entry)
        if number >= entries - certificates * _RETRAINED // (_RETRAINED - 1):
            place = folder / content["certificate_id"]
            place.mkdir()
            envelope = sign_statement(signer, CERTIFICATE_PREDICATE, subjects, content)
            (place / "certificate.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
            (place / ENVELOPE_FILE).write_text(json.dumps(envelope, indent=1), encoding="utf-8")
    head = sign_head(signer, ledger, datetime.now(UTC))
    whole = Ledger(ledger[0].lineage, tuple(ledger), head)
    (folder / "ledger.json").write_text(json.dumps(whole.to_json(), indent=1), encoding="utf-8")


def verify(folder: Path) -> dict[str, Any]:
    """Verify all of it, in this process."""
    before = high_water()
    trust = Trust(load_keyring(folder / "keys" / KEYRING_FILE), ledger=folder / "ledger.json")
    verifier, places = Verifier(trust), sorted(folder.glob("c-*"))
    clock = time.process_time()
    first, seconds = timed(lambda: verifier.verify(find_evidence(places[0])))
    between = time.process_time()
    outcomes, more = timed(lambda: [verifier.verify(find_evidence(place)) for place in places[1:]])
    return {
        "certificates": len(places),
        "verified": sum(outcome.verified for outcome in [first, *outcomes]),
        "ledger_and_first_certificate": {"seconds": seconds, "processor_seconds": between - clock},
        "other_certificates": {"seconds": more, "processor_seconds": time.process_time() - between},
        "ledger_bytes": (folder / "ledger.json").stat().st_size,
        "memory_bytes": high_water() - before,
    }


def measure(entries: int, certificates: int) -> dict[str, Any]:
    """Make the evidence, and verify it in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        _, seconds = timed(lambda: make(Path(place), entries, certificates))
        say(f"{entries} entries and their certificates made in {seconds:.1f} s")
        return {"entries": entries, **fresh_process("benchmarks.verification", ["--verify", place])}


def main() -> None:
    options = parser(__doc__, device=False)
    options.add_argument("--verify", type=Path, help="verify what lies in this folder, and nothing else")
    given = options.parse_args()
    if given.verify:
        sys.stdout.write(json.dumps(verify(given.verify)))
        return
    entries = given.records or ENTRIES
    document = {
        **measure(entries, min(CERTIFICATES, entries // 8)),
        "hardware": hardware(pick_device("cpu")),
    }
    emit("verification", document, None, given.out)


if __name__ == "__main__":
    main()
