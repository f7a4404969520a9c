"""What a consistent ledger tells against a certificate, and against itself: rollbacks, redraws, purges, dates."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from expunge.evidence.canonical import digest
from expunge.evidence.certificate import parse_certificate
from expunge.evidence.checked_ledger import CheckedLedger
from expunge.evidence.keys import SigningKeys
from expunge.evidence.ledger import account_of, check_ledger
from expunge.evidence.ledger_file import Ledger, sign_head
from expunge.evidence.verify import verify_certificate
from expunge.evidence.verify_ledger import verify_ledger
from tests.evidence.forging import chained, golden_certificate, golden_entries

CONTENT, ENTRIES = golden_certificate(), golden_entries()
RELEASE, MOVE, PURGE = ENTRIES[5:]  # those of the certificate
DIRTY = {"scan": {"clean": False, "hits": [{"where": "git", "kind": "row"}]}}
DAY = timedelta(days=1)


def altered(entry, **changes):
    return entry.model_copy(update=changes)


def with_sums(entries):
    """Chained anew, with accumulated figures that follow."""
    made = []
    for entry in entries:
        account = account_of([*made, entry])
        sums = {
            "step": account.step,
            "accumulated_error": account.accumulated_error,
            "uniform_error": account.uniform_error,
        }
        made.append(altered(entry, **sums))
    return chained(made)


def found(entries, content=CONTENT):
    return verify_certificate(parse_certificate(content), ledger=with_sums(entries)).findings


def moved(old, new, **changes):
    return altered(MOVE, details={"alias": "champion", "from_version": old, "to_version": new}, **changes)


def again(draws, **changes):
    """Another release of the batch, as it is charged for so many draws."""
    m, name = RELEASE.m * math.sqrt(draws), "c-" + "2" * 16
    figures = {"draws": draws, "composed_m": m, "epsilon": RELEASE.epsilon * draws, "certificate_id": name}
    return altered(RELEASE, model_digest="sha256:" + "2" * 64, **{**figures, **changes})


def dated(entry, change):
    return altered(entry, issued_at=(datetime.fromisoformat(entry.issued_at) + change).isoformat())


def test_the_golden_ledger_has_none_of_these_faults():
    assert [entry.kind for entry in (RELEASE, MOVE, PURGE)] == ["release", "alias", "purge"]
    assert found(ENTRIES) == ()


UNDONE = "undone: version 3 was rolled back; the version before it served again"
ROLLED_BACK = {
    "by the alias": [moved(3, 2)],
    "by the alias, of no certificate": [moved(3, 2, certificate_id=None)],
    "by the alias, to before the parent": [moved(3, 1, certificate_id=None)],
    "and released again": [moved(3, 2), again(2), moved(2, 4, certificate_id="c-" + "2" * 16)],
    "by a release again that hides the move": [again(2)],
    "and retrained": [
        altered(RELEASE, kind="retraining", mechanism="retrain", guarantee="exact", certificate_id="c-" + "3" * 16,
                **dict.fromkeys(("error_bound", "sigma", "m", "composed_m", "epsilon", "gaussian_delta", "delta"), 0.0))
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ROLLED_BACK)
def test_a_release_that_was_rolled_back_is_undone(name):
    told = found([*ENTRIES[:7], *ROLLED_BACK[name]])
    assert told == (UNDONE,)


def test_a_release_again_is_not_undone_by_the_one_before_it():
    first = "c-" + "2" * 16
    undone = [again(1), moved(2, 3, certificate_id=first), moved(3, 2, certificate_id=first)]
    entries = with_sums([*ENTRIES[:5], *undone, RELEASE, moved(2, 4), PURGE])
    assert CheckedLedger.of(entries).undone == {first}


@pytest.mark.parametrize("between", [(), ("retraining",)])
def test_each_further_release_of_a_batch_is_charged_a_draw_more(between):
    other = altered(RELEASE, kind="retraining", batch="b-other", certificate_id="c-" + "4" * 16, guarantee="exact",
                    **dict.fromkeys(("error_bound", "sigma", "m", "composed_m", "epsilon", "gaussian_delta", "delta"),
                                    0.0))  # fmt: skip
    before = [*ENTRIES[:7], *([other] if between else [])]
    at = len(before)
    assert check_ledger(with_sums([*before, again(2), again(3)])) == []
    (told,) = check_ledger(with_sums([*before, again(1)]))
    assert told.startswith(
        f"entry {at}: 1 noise draws for batch {RELEASE.batch}, and an earlier release of it"
    )
    assert len(check_ledger(with_sums([*before, again(2), again(2)]))) == 1
    assert check_ledger(with_sums([*before, again(1, batch="b-another")])) == []


@pytest.mark.parametrize(("version", "parent"), [(9, 8), (9, 2), (None, 2)])
def test_versions_are_those_that_the_alias_moved_between(version, parent):
    content = {**CONTENT, "model": {**CONTENT["model"], "version": version, "parent_version": parent}}
    entries = [*ENTRIES[:5], altered(RELEASE, certificate_digest=digest(content)), *ENTRIES[6:]]
    (told,) = found(entries, content)
    assert told.startswith("the alias went from version 2 to 3 for this certificate (entry 6)")


PURGES = {
    "not clean": ([*ENTRIES[:7], altered(PURGE, details=DIRTY)], "was not clean"),
    "called clean, with hits": (
        [*ENTRIES[:7], altered(PURGE, details={"scan": {**DIRTY["scan"], "clean": True}})], "was not clean"),
    "not clean the second time": ([*ENTRIES, altered(PURGE, details=DIRTY)], "the purge entry 8 states a residue scan"),
    "not searched": ([*ENTRIES[:7], altered(PURGE, details={})], "states no residue scan"),
    "before its release": ([*ENTRIES[:5], altered(PURGE, issued_at=RELEASE.issued_at), RELEASE, MOVE],
                           "comes before the release that it follows"),
    "of another certificate": ([*ENTRIES[:7], altered(PURGE, certificate_id="c-other")], "names another certificate"),
}  # fmt: skip


@pytest.mark.parametrize("name", PURGES)
def test_a_purge_that_proves_nothing_is_found(name):
    entries, told = PURGES[name]
    (finding,) = found(entries)
    assert told in finding


def test_a_purge_before_its_certificate_is_found_beyond_what_clocks_differ():
    # The clock was ahead at the release: half an hour proves no lie, and two days are nobody's clock.
    assert found([*ENTRIES[:7], dated(PURGE, -timedelta(minutes=30))]) == ()
    told = found([*ENTRIES[:7], dated(PURGE, -2 * DAY)])
    assert any("is dated before the certificate" in line for line in told), told
    assert any("entry 7: dated" in line for line in told), told


def test_a_purge_may_name_no_certificate():
    assert found([*ENTRIES[:7], altered(PURGE, certificate_id=None)]) == ()


def test_dates_that_fall_by_more_than_a_day_are_found():
    assert check_ledger(chained([*ENTRIES[:6], dated(MOVE, -DAY), PURGE])) == []  # clocks are set back
    (told,) = check_ledger(chained([*ENTRIES[:6], dated(MOVE, -2 * DAY), PURGE]))
    assert told.startswith("entry 6: dated 2026-11-26")
    creeping = [dated(ENTRIES[1], -n * DAY * 0.75) for n in range(1, 3)]
    assert check_ledger(chained([ENTRIES[0], *creeping]))[-1].startswith("entry 2: dated")


def test_a_release_that_was_resumed_keeps_its_date_over_another_batchs_purge():
    late = dated(ENTRIES[4], 5 * DAY)
    now = datetime.now(UTC)
    back = datetime.fromisoformat(late.issued_at) - now + DAY  # so that none is in the future
    entries = [dated(entry, -back) for entry in (*ENTRIES[:4], late, RELEASE)]
    assert check_ledger(chained(entries)) == []


@pytest.mark.parametrize(("text", "told"), [
    ("3026-01-01T00:00:00+00:00", "in the future"), ("yesterday", "malformed"), ("2026-11-28T20:45:32", "no time zone"),
])  # fmt: skip
def test_a_date_that_cannot_be_is_found(text, told):
    (finding,) = check_ledger(chained([*ENTRIES[:7], altered(PURGE, issued_at=text)]))
    assert finding.startswith("entry 7: ")
    assert told in finding


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    made = SigningKeys(tmp_path_factory.mktemp("keys"))
    made.create(datetime(2026, 1, 1, tzinfo=UTC))
    return made


def test_a_head_is_signed_after_its_last_entry_and_not_in_the_future(keys):
    last, now = datetime.fromisoformat(PURGE.issued_at), datetime.now(UTC)

    def findings(at):
        head = sign_head(keys.signer(), ENTRIES, at)
        whole = verify_ledger(Ledger(PURGE.lineage, tuple(ENTRIES), head), keys=keys.keyring())
        good = sign_head(keys.signer(), ENTRIES, last)
        ledger = Ledger(PURGE.lineage, tuple(ENTRIES), good)
        witness = verify_ledger(ledger, keys=keys.keyring(), witnesses=[head])
        told = [finding.split(": ", 1) for finding in (*whole.findings, *witness.findings)]
        assert [where for where, _ in told] in ([], ["head", "witness 1"])
        return {what for _, what in told}

    for at in (last, last - DAY, now):
        assert findings(at) == set()
    (early,) = findings(last - 2 * DAY)
    assert "before its last entry" in early
    (future,) = findings(now + 2 * DAY)
    assert future.endswith("in the future")


EXACT_BUT = {"kind": "retraining", "guarantee": "exact", "certificate_id": "c-" + "5" * 16} | dict.fromkeys(
    ("error_bound", "sigma", "m", "composed_m", "epsilon", "gaussian_delta", "delta"), 0.0
)


@pytest.mark.parametrize(("changes", "told"), [
    ({"records_removed": -5}, "-5 records removed"),
    ({"guarantee": "exact"}, "a noised release is not exact"),
    (EXACT_BUT | {"sigma": 7.0}, "no noise and no error bound"),
    (EXACT_BUT | {"error_bound": 3.0}, "no noise and no error bound"),
    (EXACT_BUT | {"gaussian_delta": 0.5}, "no noise and no error bound"),
    (EXACT_BUT | {"epsilon": 0.5}, "an exact training states epsilon"),
    (EXACT_BUT | {"guarantee": "convex"}, "a retraining of the class convex"),
])  # fmt: skip
def test_an_entry_that_contradicts_itself_is_found(changes, told):
    (finding,) = check_ledger(with_sums([*ENTRIES[:5], altered(RELEASE, **changes)]))
    assert finding.startswith("entry 5: ")
    assert told in finding


def test_a_retraining_keeps_the_draws_that_were_spent_before_it():
    assert check_ledger(with_sums([*ENTRIES[:5], altered(RELEASE, **EXACT_BUT, draws=3)])) == []
