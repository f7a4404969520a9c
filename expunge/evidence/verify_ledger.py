"""Verification of a ledger: its chain and arithmetic, its signed head, and witnesses of earlier heads.

The chain shows an edit, a reordering or a removal inside; the head a rewritten chain and entries that were cut off, to
whoever trusts the key; a witness an old copy that is passed off as the newest, and a ledger that the holder of the key
himself rewrote.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from expunge.errors import VerificationError
from expunge.evidence.keyring import Keyring, Standing, standing
from expunge.evidence.ledger import check_ledger
from expunge.evidence.ledger_file import Ledger, head_of, read_head
from expunge.evidence.result import VerificationResult, Voucher
from expunge.evidence.statements import HEAD_PREDICATE, open_statement

SIGNED_HEAD: Final = "the head is signed by a trusted key, and is of these entries"


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
        found = _look(ledger.head, ledger, keys, whole=True)
        if found.fault is not None:
            findings.append(f"head: {found.fault}")
        elif keys is None:
            missing.append("signature of the head: no key was given")
        else:
            missing += [f"head: {line}" for line in found.missing]
            checked.append(SIGNED_HEAD)
    missing += [
        f"fork: since entry {entry.sequence} this is the ledger of a copy; another one tells what the original did"
        for entry in entries
        if entry.kind == "fork"
    ]
    signed = SIGNED_HEAD in checked
    for number, witness in enumerate(witnesses, 1):
        found = _look(witness, ledger, keys, whole=False, covered=signed)
        if found.fault is not None:
            findings.append(f"witness {number}: {found.fault}")
        else:
            head = read_head(witness)
            checked.append(
                f"continues witness {number}, of {head.entries} entries at {head.issued_at.isoformat()}"
            )
            missing += [f"witness {number}: {line}" for line in found.missing]
            if keys is None:
                missing.append(f"signature of witness {number}: no key was given")
    if not witnesses:
        missing.append(
            "witness: none was given; whether this is an old copy, or signed anew, was not checked"
        )
    vouched: Voucher = "given keys" if signed else "nobody"
    return VerificationResult(tuple(findings), tuple(missing), tuple(checked), vouched)


def head_fault(
    envelope: Mapping[str, Any], ledger: Ledger, keys: Keyring | None, *, whole: bool, covered: bool = False
) -> str | None:
    """Why a head or a witness does not hold against a ledger.

    Args:
        envelope: As plain data.
        ledger: That it should be of.
        keys: That are trusted; without, its signature is not looked at.
        whole: Whether it is the ledger's own head, not an earlier one that the ledger continues.
        covered: Whether the ledger's own head counts: what an earlier one says follows from it, whoever signed that.

    Returns:
        In words; None if it holds.
    """
    return _held(envelope, ledger, keys, whole=whole, covered=covered).fault


def _held(
    envelope: Mapping[str, Any], ledger: Ledger, keys: Keyring | None, *, whole: bool, covered: bool
) -> Standing:
    try:
        found = Standing(None)
        if keys is None:
            head = read_head(envelope)
        else:
            trusted = [key.key for key in keys.of("evidence")]
            statement = open_statement(envelope, trusted, HEAD_PREDICATE)
            head = head_of(statement)
            found = standing(keys, statement.keyids, head.issued_at, covered=covered)
    except VerificationError as error:
        return Standing(str(error))
    if found.fault is not None:
        return Standing(f"signed by a key that was not valid then: {found.fault}")
    fault = head.fault_against(ledger.entries, whole=whole)
    return found if fault is None else Standing(fault)


def _look(
    envelope: Mapping[str, Any],
    ledger: Ledger,
    keys: Keyring | None,
    *,
    whole: bool,
    covered: bool = False,
) -> Standing:
    """Dates too: whoever only appends is not stopped by a clock that was wrong once."""
    found = _held(envelope, ledger, keys, whole=whole, covered=covered)
    if found.fault is not None:
        return found
    fault = read_head(envelope).date_fault(ledger.entries)
    return found if fault is None else Standing(fault)
