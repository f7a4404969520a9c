"""Verification of a ledger: its chain and arithmetic, its signed head, and witnesses of earlier heads.

The chain shows an edit, a reordering or a removal inside; the head a rewritten chain and entries that were cut off, to
whoever trusts the key; a witness an old copy that is passed off as the newest, and a ledger that the holder of the key
himself rewrote.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.errors import VerificationError
from expunge.evidence.keys import Keyring
from expunge.evidence.ledger import check_ledger
from expunge.evidence.ledger_file import Head, Ledger, head_of, read_head
from expunge.evidence.result import VerificationResult
from expunge.evidence.statements import HEAD_PREDICATE, open_statement


def verify_ledger(
    ledger: Ledger, *, keys: Keyring | None = None, witnesses: Sequence[Mapping[str, Any]] = ()
) -> VerificationResult:
    """Verify everything about a ledger that can be.

    Args:
        ledger: The ledger.
        keys: That are trusted. With keys, a head that nobody signed is a finding: it may have been taken away.
        witnesses: Envelopes of earlier heads.

    Returns:
        The outcome; an empty ledger is a finding.
    """
    entries = ledger.entries
    if not entries:
        return VerificationResult(("the ledger is empty",))
    findings, missing = check_ledger(entries), []
    checked = [f"{len(entries)} entries: chain and sequential arithmetic"]
    if ledger.lineage != entries[0].lineage:
        findings.append(f"the ledger calls itself {ledger.lineage}, its entries {entries[0].lineage}")
    if ledger.head is None and keys is None:
        missing.append("signed head: this ledger has none; that nothing was cut off its end was not checked")
    elif ledger.head is None:
        findings.append(
            "the head is not signed, though a key was given: the signature may have been taken away"
        )
    else:
        fault = _fault(ledger.head, ledger, keys, whole=True)
        if fault is not None:
            findings.append(f"head: {fault}")
        elif keys is None:
            missing.append("signature of the head: no key was given")
        else:
            checked.append("the head is signed by a trusted key, and is of these entries")
    for number, witness in enumerate(witnesses, 1):
        if (fault := _fault(witness, ledger, keys, whole=False)) is not None:
            findings.append(f"witness {number}: {fault}")
        else:
            head = read_head(witness)
            checked.append(
                f"continues witness {number}, of {head.entries} entries at {head.issued_at.isoformat()}"
            )
            if keys is None:
                missing.append(f"signature of witness {number}: no key was given")
    if not witnesses:
        missing.append(
            "witness: none was given; whether this is an old copy, or signed anew, was not checked"
        )
    return VerificationResult(tuple(findings), tuple(missing), tuple(checked))


def head_fault(
    envelope: Mapping[str, Any], ledger: Ledger, keys: Keyring | None, *, whole: bool
) -> str | None:
    """Why a head or a witness does not hold against a ledger.

    Args:
        envelope: As plain data.
        ledger: That it should be of.
        keys: That are trusted; without, its signature is not looked at.
        whole: Whether it is the ledger's own head, not an earlier one that the ledger continues.

    Returns:
        In words; None if it holds.
    """
    try:
        head = read_head(envelope) if keys is None else open_head(envelope, keys)
    except VerificationError as error:
        return str(error)
    return head.fault_against(ledger.entries, whole=whole)


def _fault(envelope: Mapping[str, Any], ledger: Ledger, keys: Keyring | None, *, whole: bool) -> str | None:
    """Dates too: whoever only appends is not stopped by a clock that was wrong once."""
    fault = head_fault(envelope, ledger, keys, whole=whole)
    return fault if fault is not None else read_head(envelope).date_fault(ledger.entries)


def open_head(envelope: Mapping[str, Any], keys: Keyring) -> Head:
    """Verify a head's signature, by a key that was valid when it was made.

    Args:
        envelope: As plain data.
        keys: That are trusted.

    Returns:
        The head.

    Raises:
        VerificationError: If none signed it, or none that was valid.
    """
    trusted = {key.keyid: key for key in keys.of("evidence")}
    statement = open_statement(envelope, [key.key for key in trusted.values()], HEAD_PREDICATE)
    head = head_of(statement)
    faults = [trusted[keyid].fault_at(head.issued_at) for keyid in statement.keyids]
    if all(fault is not None for fault in faults):
        raise VerificationError(
            "the head was signed by a key that was not valid then",
            got="; ".join(filter(None, faults)),
            remedy="ask for the current keyring",
        )
    return head
