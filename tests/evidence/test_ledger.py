"""Every tampering with a ledger is found, and named: generated over all entries and fields, not hand-picked."""

import base64
import copy
import itertools
import json
import time
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from expunge.database import open_database
from expunge.errors import InputError, VerificationError, WorkspaceError
from expunge.evidence.canonical import canonical_bytes
from expunge.evidence.keyring import Keyring
from expunge.evidence.keys import SigningKeys
from expunge.evidence.ledger import GENESIS, LedgerEntry, left_of, parse_entries, serving_version
from expunge.evidence.ledger_file import Ledger, parse_ledger, parse_witness, read_head, sign_head
from expunge.evidence.result import VerificationResult
from expunge.evidence.store import LedgerStore
from expunge.evidence.verify_ledger import verify_ledger
from expunge.evidence.witness import read_witness, write_witness
from expunge.privacy.accountant import LedgerLimits
from expunge.privacy.gaussian import gaussian_m

LINEAGE, WITNESSED = "expunge-test", 6  # entries that the witness saw
SIGMA, EPSILON, DELTA = 0.01, 0.05, 1e-6
M = gaussian_m(EPSILON, DELTA)
NOISED = {
    **{"mechanism": "convex", "guarantee": "convex", "error_bound": M * SIGMA, "sigma": SIGMA, "m": M},
    **{"draws": 1, "composed_m": M, "epsilon": EPSILON * (1 + 1e-9), "gaussian_delta": DELTA},
    **{"delta": 1.1e-6, "records_removed": 3, "certificate_digest": "sha256:" + "a" * 64},
    **{"model_digest": "sha256:" + "b" * 64, "dataset_md5": "c" * 32 + ".dir"},
}
EXACT = {**NOISED, "mechanism": "retrain", "guarantee": "exact"} | dict.fromkeys(
    ("error_bound", "sigma", "m", "draws", "composed_m", "epsilon", "gaussian_delta", "delta"), 0
)
SCAN = {"clean": True, "hits": [], "searched": [{"store": "git", "files": 3}], "notes": ["a note"]}
PLANS = (NOISED, NOISED, EXACT, NOISED)  # four batches; the second is rolled back and unlearned again


def fill(store: LedgerStore) -> None:
    def append(kind: str, number: int | None = None, **content: Any) -> None:
        at = f"2026-01-{store.read(LINEAGE).entries.__len__() + 1:02d}T00:00:00+00:00"
        about = {} if number is None else {"batch": f"b-{number}", "certificate_id": f"c-{number:016x}"}
        store.append(LINEAGE, kind=kind, issued_at=at, **about, **content)

    def move(old: int | None, new: int, number: int | None = None) -> None:
        details = {"alias": "champion", "from_version": old, "to_version": new}
        append("alias", number, details=details)

    append("opening", mechanism="train", details={"model_version": 1})
    move(None, 1)
    serving = 1
    for number, plan in enumerate(PLANS, 1):
        append("retraining" if plan is EXACT else "release", number, **plan)
        move(serving, number + 1, number)
        if number == 2:
            move(3, 2, 2)  # rolled back; batch 3 stands for the same people, unlearned again
            serving = 2
            continue
        append("purge", number, details={"purged_version": serving, "scan": SCAN})
        serving = number + 1


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    made = SigningKeys(tmp_path_factory.mktemp("keys"))
    made.create(datetime.now(UTC))
    return made


@pytest.fixture(scope="module")
def stored(tmp_path_factory, keys):
    store = LedgerStore(open_database(f"sqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.db"), keys)
    fill(store)
    return store


@pytest.fixture(scope="module")
def content(stored) -> dict[str, Any]:
    return stored.read(LINEAGE).to_json()


@pytest.fixture(scope="module")
def witness(stored) -> dict[str, Any]:
    return stored.read(LINEAGE, WITNESSED - 1).head


def verified(content: Any, keys: Keyring | None, *witnesses: Any) -> VerificationResult:
    """What `expunge ledger verify FILE` does; a file that is no ledger is found too."""
    try:
        return verify_ledger(parse_ledger(json.loads(json.dumps(content))), keys=keys, witnesses=witnesses)
    except VerificationError as error:
        return VerificationResult((str(error),))


def rechained(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a forger does who knows how the chain is made."""
    previous, made = GENESIS, []
    for entry in entries:
        made.append({**entry, "previous": previous})
        previous = LedgerEntry.model_validate(made[-1]).digest()
    return made


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every field, and every one inside it."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(inner, (*path, key))


def other_values(value: Any) -> list[Any]:
    """What a field may be changed to; the last few of another type."""
    if isinstance(value, bool):
        return [not value, None, str(value)]
    if isinstance(value, int | float):
        return [value + 1, value / 2 if value else 1e-9, -1 - value, str(value), None, bool(value)]
    if isinstance(value, str):
        return [value + " ", value[:-1], "", None, [value]]
    if isinstance(value, dict):
        return [{**value, "x": 1}, None, [value]]
    if isinstance(value, list):
        return [[*value, 1], None, {"x": value}]
    return ["x", 0, False, {}]


def put(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    made = copy.deepcopy(content)
    target = made
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return made


def without(content: Any, path: tuple[Any, ...]) -> Any:
    made = copy.deepcopy(content)
    target = made
    for key in path[:-1]:
        target = target[key]
    del target[path[-1]]
    return made


def edits(entry: dict[str, Any], each: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in paths(entry):
        value = entry
        for key in path:
            value = value[key]
        for other in other_values(value)[:each]:
            yield f"{path} = {other!r}", put(entry, path, other)
        yield f"without {path}", without(entry, path)


def test_the_ledger_itself_holds(content, keys, witness):
    outcome = verified(content, keys.keyring(), witness)
    assert outcome.findings == ()
    assert outcome.missing == ()
    assert len(outcome.checked) == 3
    kinds = [entry["kind"] for entry in content["entries"]]
    assert set(kinds) == {"opening", "alias", "release", "purge", "retraining"}
    assert all(entry["version"] == (2 if entry["kind"] == "alias" else 1) for entry in content["entries"])
    assert serving_version(parse_entries(content["entries"])) == 5


def test_what_was_not_checked_is_told(content, keys):
    missing = verified(content, None).missing
    assert [line.split(":")[0] for line in missing] == ["signature of the head", "witness"]
    assert [line.split(":")[0] for line in verified(content["entries"], None).missing] == [
        "signed head",
        "witness",
    ]
    assert verified(content["entries"], None).consistent


def test_every_edit_of_every_field_of_every_entry_is_found(content, keys):
    ring, count = keys.keyring(), 0
    for index, entry in enumerate(content["entries"]):
        for name, changed in edits(entry):
            if canonical_bytes(changed) == canonical_bytes(entry):
                continue  # 1.0 for 1: the same number, in evidence the same bytes
            entries = [*content["entries"][:index], changed, *content["entries"][index + 1 :]]
            outcome = verified({**content, "entries": entries}, ring)
            assert not outcome.consistent, (index, name)
            told = " ".join(outcome.findings)
            assert (
                f"entry {index}:" in told or f"entry {index + 1}: does not chain" in told or "head:" in told
            )
            count += 1
    assert count > 2000


def test_whoever_chains_anew_is_found_by_the_head_and_the_witness(content, keys, witness):
    """A forger who repairs the chain is found by the head; one with the key itself by the witness."""
    ring, count, given = keys.keyring(), 0, parse(content["entries"])
    for index, entry in enumerate(content["entries"]):
        seen = []
        for name, changed in edits(entry, each=2):
            try:
                changed = LedgerEntry.model_validate({**changed, "previous": entry["previous"]})
            except ValueError:
                continue
            if changed == given[index] or changed in seen:
                continue
            seen.append(changed)
            forged = rechained(
                [*content["entries"][:index], changed.to_json(), *content["entries"][index + 1 :]]
            )
            assert not verified({**content, "entries": forged}, ring).consistent, (index, name)
            assert not verified({**content, "entries": forged}, None).consistent, (index, name)
            if index < WITNESSED:
                head = sign_head(keys.signer(), parse(forged), datetime.now(UTC))
                found = verified({**content, "entries": forged, "head": head}, ring, witness)
                assert not found.consistent, (index, name)
            count += 1
    assert count > 400


def parse(entries: list[dict[str, Any]]) -> list[LedgerEntry]:
    return [LedgerEntry.model_validate(entry) for entry in entries]


def arrangements(entries: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Entries cut off, taken out, doubled, and any two exchanged."""
    size = len(entries)
    for n in range(size):
        yield f"truncated to {n}", entries[:n]
        yield f"without {n}", entries[:n] + entries[n + 1 :]
        yield f"begins at {n + 1}", entries[n + 1 :]
        for at in range(size + 1):
            yield f"{n} again at {at}", [*entries[:at], entries[n], *entries[at:]]
    for one, other in itertools.combinations(range(size), 2):
        made = list(entries)
        made[one], made[other] = made[other], made[one]
        yield f"{one} and {other} exchanged", made


def test_every_rearrangement_is_found_with_the_key_and_without(content, keys):
    for (name, entries), ring in itertools.product(arrangements(content["entries"]), (keys.keyring(), None)):
        assert not verified({**content, "entries": entries}, ring).consistent, name
        if entries != content["entries"][: len(entries)]:
            assert not verified(entries, None).consistent, name  # as a bare list, by the chain alone


def test_an_old_copy_with_its_own_head_is_found_by_a_later_witness(stored, keys, witness):
    ring = keys.keyring()
    for last in range(len(stored.entries(LINEAGE))):
        old = stored.read(LINEAGE, last).to_json()
        assert verified(old, ring).consistent  # that is why a witness is kept
        outcome = verified(old, ring, witness)
        assert outcome.consistent == (last + 1 >= WITNESSED), last
        if not outcome.consistent:
            assert "cut off, or an old copy" in outcome.findings[0]


def test_a_head_of_another_moment_ledger_or_key_does_not_hold(stored, content, keys, tmp_path):
    ring = keys.keyring()
    for last in range(len(content["entries"]) - 1):
        swapped = {**content, "head": stored.read(LINEAGE, last).head}
        assert "some are not signed" in verified(swapped, ring).findings[0]
    others = SigningKeys(tmp_path / "others")
    others.create(datetime.now(UTC))
    foreign = sign_head(others.signer(), parse(content["entries"]), datetime.now(UTC))
    assert "no signature by a trusted key" in verified({**content, "head": foreign}, ring).findings[0]
    assert "no signature by a trusted key" in verified(content, others.keyring()).findings[0]
    assert "no signature by a trusted key" in verified(content, ring, foreign).findings[0]
    assert "though a key was given" in verified({**content, "head": None}, ring).findings[0]
    assert "though a key was given" in verified(content["entries"], ring).findings[0]
    renamed = rechained([{**entry, "lineage": "expunge-other"} for entry in content["entries"]])
    head = sign_head(keys.signer(), parse(renamed), datetime.now(UTC))
    assert verified(
        {**content, "entries": renamed, "head": head, "lineage": "expunge-other"}, ring
    ).consistent
    assert not verified({**content, "head": head}, ring).consistent
    assert "calls itself" in verified({**content, "lineage": "expunge-other"}, ring).findings[0]
    mixed = rechained([*content["entries"][:-1], {**content["entries"][-1], "lineage": "expunge-other"}])
    assert "of lineage expunge-other in a ledger of" in verified(mixed, None).findings[0]


def test_a_key_that_was_not_valid_then_does_not_count(content, keys, witness):
    ring = keys.keyring()
    at = read_head(content["head"]).issued_at
    for change in ({"valid_until": at - timedelta(seconds=1)}, {"valid_from": at + timedelta(seconds=1)}):
        changed = ring.model_copy(update={"keys": [key.model_copy(update=change) for key in ring.keys]})
        assert "not valid then" in verified(content, changed).findings[0]
    early = read_head(witness).issued_at - timedelta(seconds=1)
    ended = ring.model_copy(
        update={"keys": [key.model_copy(update={"valid_until": early}) for key in ring.keys]}
    )
    assert any(line.startswith("witness 1") for line in verified(content, ended, witness).findings)
    models = ring.model_copy(update={"keys": [k.model_copy(update={"use": "model"}) for k in ring.keys]})
    assert not verified(content, models).consistent  # a key for model files signs no ledger


def test_every_edit_of_the_head_is_found(content, keys, witness):
    ring = keys.keyring()
    for path in paths(content["head"]):
        value = content["head"]
        for key in path:
            value = value[key]
        changes = [put(content["head"], path, other) for other in other_values(value)]
        for changed in [*changes, without(content["head"], path)]:
            if canonical_bytes(changed) == canonical_bytes(content["head"]):
                continue
            assert not verified({**content, "head": changed}, ring).consistent, path
            assert not verified(content, ring, changed).consistent, path
    payload = json.loads(base64.b64decode(content["head"]["payload"]))
    for path in paths(payload):
        value = payload
        for key in path:
            value = value[key]
        for other in other_values(value):
            text = base64.b64encode(canonical_bytes(put(payload, path, other))).decode()
            changed = {**content["head"], "payload": text}
            if text != content["head"]["payload"]:
                assert not verified({**content, "head": changed}, ring).consistent, path


@pytest.mark.parametrize(
    "bad",
    [None, 3, {}, {"type": "https://expunge.dev/ledger"}, [None], [[]], [{"version": 1}], {"entries": []}],
)
def test_what_is_no_ledger_is_refused(bad):
    with pytest.raises(VerificationError, match="malformed"):
        parse_ledger(bad)


def test_a_move_of_the_alias_is_an_entry_of_version_2(content):
    alias = next(entry for entry in content["entries"] if entry["kind"] == "alias")
    bad = [
        {**alias, "version": 1},
        {**alias, "version": True},
        {**alias, "kind": "purge"},
        {**alias, "details": {}},
        {**alias, "details": {**alias["details"], "to_version": 0}},
        {**alias, "details": {**alias["details"], "to_version": "2"}},
        {**alias, "details": {**alias["details"], "by": "x"}},
    ]
    for entry in bad:
        with pytest.raises(VerificationError, match="malformed"):
            parse_entries([entry])


def test_a_move_from_where_the_alias_is_not_is_a_finding(content, stored):
    entries = copy.deepcopy(content["entries"])
    last = max(n for n, entry in enumerate(entries) if entry["kind"] == "alias")
    entries[last]["details"]["from_version"] = 2
    (finding,) = verified(rechained(entries), None).findings
    assert finding == f"entry {last}: the alias leaves version 2 where 4 serves"
    with pytest.raises(VerificationError, match="another version serves"):
        stored.append(
            LINEAGE,
            kind="alias",
            issued_at="2026-02-01T00:00:00+00:00",
            details={"alias": "champion", "from_version": 2, "to_version": 6},
        )
    assert stored.read(LINEAGE).to_json() == content


def test_what_is_left_does_not_depend_on_alias_and_purge_entries(content):
    limits = LedgerLimits(accumulated_error=0.01, composed_epsilon=1.0, releases=100)
    entries = parse_entries(content["entries"])
    releases = [entry for entry in entries if entry.kind not in ("alias", "purge")]
    assert left_of(entries, limits) == left_of(releases, limits)
    assert left_of(entries, limits).composed_epsilon < 1.0


def test_appending_again_finds_the_entry_and_two_moves_of_a_batch_are_two(stored, content):
    for entry in content["entries"]:
        same = {name: entry[name] for name in ("kind", "batch", "certificate_id", "details", "issued_at")}
        found = stored.append(LINEAGE, **same).to_json()
        assert found == entry
    assert stored.read(LINEAGE).to_json() == content


def test_nothing_is_written_without_a_key(tmp_path):
    store = LedgerStore(open_database(f"sqlite:///{tmp_path}/l.db"), SigningKeys(tmp_path / "none"))
    with pytest.raises(WorkspaceError, match="expunge keys init"):
        store.append(LINEAGE, kind="opening", issued_at="2026-01-01T00:00:00+00:00")
    assert store.read(LINEAGE) == Ledger(LINEAGE, (), None)


def test_a_rotated_key_signs_on_and_the_old_heads_hold(tmp_path):
    keys = SigningKeys(tmp_path / "keys")
    keys.create(datetime.now(UTC))
    first = keys.keyring()
    store = LedgerStore(open_database(f"sqlite:///{tmp_path}/l.db"), keys)
    store.append(LINEAGE, kind="opening", issued_at="2026-01-01T00:00:00+00:00")
    old = store.read(LINEAGE).head
    keys.rotate("evidence", datetime.now(UTC), timedelta(0))
    store.append(LINEAGE, kind="purge", batch="b-1", issued_at="2026-01-02T00:00:00+00:00")
    new = store.read(LINEAGE).to_json()
    assert verified(new, keys.keyring(), old).consistent
    assert not verified(new, first).consistent
    assert verified(new, first.with_endorsed(keys.keyring()), old).consistent


def test_a_witness_is_replaced_only_by_one_that_continues_it(stored, content, keys, tmp_path):
    path, ring = tmp_path / "witness.json", keys.keyring()
    for last in (2, 5, len(content["entries"]) - 1):
        write_witness(path, stored.read(LINEAGE, last), ring)
        assert read_head(read_witness(path)).entries == last + 1
    before = path.read_text()
    with pytest.raises(VerificationError, match="does not continue the witness that is there"):
        write_witness(path, stored.read(LINEAGE, 3), ring)
    forged = rechained([{**e, "issued_at": "2025-01-01T00:00:00+00:00"} for e in content["entries"]])
    head = sign_head(keys.signer(), parse(forged), datetime.now(UTC))
    with pytest.raises(VerificationError, match="rewritten"):
        write_witness(path, Ledger(LINEAGE, tuple(parse(forged)), head), ring)
    with pytest.raises(VerificationError, match="no signed head"):
        write_witness(path, Ledger(LINEAGE, tuple(parse(content["entries"]))), ring)
    with pytest.raises(VerificationError, match="does not hold"):
        write_witness(path, Ledger(LINEAGE, tuple(parse(forged)), content["head"]), ring)
    assert path.read_text() == before
    for text in ("", "[]", "{}", '{"type": "https://expunge.dev/ledger"}', "[" * 100000):
        path.write_text(text)
        with pytest.raises(InputError, match="witness cannot be read"):
            write_witness(path, stored.read(LINEAGE), ring)
        assert path.read_text() == text
    assert [file.name for file in tmp_path.iterdir()] == ["witness.json"]


def test_an_exported_ledger_is_a_witness_too(stored, keys):
    old = stored.read(LINEAGE, 4)
    assert parse_witness(old.to_json()) == old.head


def test_ten_thousand_entries_are_verified_in_seconds_and_little_memory(keys, record_property):
    def entry(n: int, previous: str, **more: Any) -> LedgerEntry:
        about = {"batch": f"b-{n}", "certificate_id": f"c-{n:016x}"} if n else {}
        at = "2026-01-01T00:00:00+00:00"
        return LedgerEntry(lineage=LINEAGE, sequence=n, previous=previous, issued_at=at, **about, **more)

    entries = [entry(0, GENESIS, kind="opening")]
    for n in range(1, 10_000):
        digest = entries[-1].digest()
        plan = EXACT if n % 100 == 0 else NOISED
        step = n % 100
        sums = {
            "step": step,
            "accumulated_error": step * M * SIGMA,
            "uniform_error": M * SIGMA if step else 0,
        }
        kind = "release" if step else "retraining"
        entries.append(entry(n, digest, kind=kind, **{**plan, **sums}))
    head = sign_head(keys.signer(), entries, datetime.now(UTC))
    text = json.dumps(Ledger(LINEAGE, tuple(entries), head).to_json())
    del entries
    began = time.perf_counter()
    ledger = parse_ledger(json.loads(text))
    outcome = verify_ledger(ledger, keys=keys.keyring(), witnesses=[head])
    seconds = time.perf_counter() - began
    assert outcome.findings == ()
    record_property("seconds", round(seconds, 2))
    assert seconds < 30
    tracemalloc.start()
    few = Ledger(LINEAGE, ledger.entries[:2000])
    before, _ = tracemalloc.get_traced_memory()
    assert verify_ledger(few).consistent
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    record_property("KiB", round((peak - before) / 2**10))
    assert peak - before < 2**20  # verification keeps nothing by entry: what is read is all that there is
