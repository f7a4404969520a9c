"""The observer of the definition, who knows everybody who stays and guesses a row, against every public digest.

They rebuild what the workspace wrote, with the candidate row in it, and compare digests: where files are functions of
rows alone, the true row matches and one that is off by 1e-6 does not. A nonce inside each file takes that away.
"""

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from expunge import nonces
from expunge.datasets.partitions import (
    partition_files,
    read_dataset,
    remove_subjects,
    rows_of,
    salted,
    write_partitions,
)
from expunge.state import WORKSPACE_FILE, open_state
from tasks.adapters import access
from tasks.dataset import require_dataset
from tasks.ingest import import_dump
from tasks.removal import remove
from tests.conftest import clinic_rows, make_clinic
from tests.workspaces import ANN, BOB, PEOPLE, erase, make

COUNT = 8


@pytest.fixture
def root(tmp_path, monkeypatch):
    root = make(tmp_path)
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(root))
    return root


def manifest_md5(folder: Path) -> str:
    """What DVC names a folder by."""
    listed = [
        {"md5": hashlib.md5(path.read_bytes()).hexdigest(), "relpath": path.name}
        for path in sorted(folder.iterdir())
    ]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"


def guesses(root: Path, known: pd.DataFrame, candidate: pd.DataFrame, tmp: Path, left=()) -> set[str]:
    """Digests of the version with the candidate in it, rebuilt in each way in which the product writes it."""
    key = open_state(root).placement.key
    frame = pd.concat([known, candidate], ignore_index=True)
    write_partitions(frame, tmp / "at once", key, COUNT)
    write_partitions(pd.concat([frame, *left], ignore_index=True), tmp / "then without", key, COUNT)
    for gone in left:
        remove_subjects(tmp / "then without", set(gone["subject_id"]))
    return {manifest_md5(folder) for folder in tmp.iterdir()}


def off_by_little(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(age=[rows["age"].iloc[0] + 1e-6, *rows["age"].iloc[1:]])


def removed(root: Path, person: str) -> tuple[pd.DataFrame, str]:
    """Rows of a person who is removed, and the version before, as its certificate names it."""
    state = open_state(root)
    rows, _ = rows_of(state.workspace.dataset_dir, [person])
    erase(root, person)
    return rows, state.batches.every()[-1].data["before"]["md5"]


def test_without_nonces_the_true_row_alone_would_match(tmp_path, monkeypatch):
    """The attack is one: with a nonce that everybody knows it tells the truth from what is off by 1e-6."""
    monkeypatch.setattr(nonces, "draw", lambda: "0" * 32)
    root = make(tmp_path)
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(root))
    rows, before = removed(root, ANN)
    known = read_dataset(root / "data" / "dataset")
    assert before in guesses(root, known, rows, tmp_path / "true")
    assert before not in guesses(root, known, off_by_little(rows), tmp_path / "off")
    more, before = removed(root, BOB)
    known = read_dataset(root / "data" / "dataset")
    assert before in guesses(root, known, more, tmp_path / "true, later", [rows])
    assert before not in guesses(root, known, off_by_little(more), tmp_path / "off, later", [rows])


def test_no_version_confirms_a_guessed_row(root, tmp_path):
    rows, before = removed(root, ANN)
    known = read_dataset(root / "data" / "dataset")
    assert before not in guesses(root, known, rows, tmp_path / "true")
    assert manifest_md5(root / "data" / "dataset") == access.repository(open_state(root)).current().md5
    more, before = removed(root, BOB)
    known = read_dataset(root / "data" / "dataset")
    assert before not in guesses(root, known, more, tmp_path / "later", [rows])


def nonces_of(folder: Path) -> list[str]:
    return [pq.read_metadata(path).metadata[b"nonce"].decode() for path in partition_files(folder)]


def test_a_removal_draws_for_what_it_rewrites_and_repeating_it_draws_nothing(root):
    folder = root / "data" / "dataset"
    files = [path.name for path in partition_files(folder)]
    before = dict(zip(files, nonces_of(folder), strict=True))
    assert len(set(before.values())) == COUNT
    assert all(re.fullmatch("[0-9a-f]{32}", nonce) for nonce in before.values())
    _, touched = rows_of(folder, [ANN])
    assert remove_subjects(folder, [ANN])
    after = dict(zip(files, nonces_of(folder), strict=True))
    assert {name for name in files if before[name] != after[name]} == set(touched)
    assert not set(after[name] for name in touched) & set(before.values())
    digest = manifest_md5(folder)
    assert remove_subjects(folder, [ANN]) == 0
    assert manifest_md5(folder) == digest


def test_two_writes_of_the_same_rows_have_other_digests_and_read_alike(root, tmp_path):
    frame, key = read_dataset(root / "data" / "dataset"), open_state(root).placement.key
    for name in ("one", "two"):
        write_partitions(frame, tmp_path / name, key, COUNT)
    one, two = (partition_files(tmp_path / name) for name in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two]
    assert not {path.read_bytes() for path in one} & {path.read_bytes() for path in two}
    pd.testing.assert_frame_equal(read_dataset(tmp_path / "one"), read_dataset(tmp_path / "two"))


def test_people_who_come_later_lie_in_salted_files_too(root, tmp_path):
    before = nonces_of(root / "data" / "dataset")
    import_dump(open_state(root), str(make_clinic(tmp_path / "more", people=PEOPLE + 2)))
    after = nonces_of(root / "data" / "dataset")
    assert len(clinic_rows(PEOPLE + 2)) > len(clinic_rows(PEOPLE))
    assert before != after
    assert len(set(after)) == COUNT


def test_git_holds_no_size_of_what_people_lie_in(root):
    erase(root, ANN)
    history = subprocess.run(
        ["git", "log", "-p", "--", "data/dataset.dvc"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    assert history.count("+- md5:") == 2
    assert "size:" not in history
    assert access.repository(open_state(root)).is_tracked_clean()


def test_nonces_are_in_no_other_file(root):
    erase(root, ANN, purge=False)  # what a purge destroys is still there, and may not lie elsewhere either
    state = open_state(root)
    repo = access.repository(state)
    own = {
        store / md5[:2] / md5[2:]
        for store in repo.stores.values()
        for version in repo.history()
        for md5 in repo.manifest(version).values()
    } | set(partition_files(root / "data" / "dataset"))
    drawn = {pq.read_metadata(path).metadata[b"nonce"] for path in own}
    assert len(drawn) == COUNT + 1
    objects = subprocess.run(
        ["git", "cat-file", "--batch-all-objects", "--batch"], cwd=root, capture_output=True, check=True
    ).stdout
    texts = [objects, *(path.read_bytes() for path in root.rglob("*") if path.is_file() and path not in own)]
    assert not [
        nonce for nonce in drawn for text in texts if nonce in text or bytes.fromhex(nonce.decode()) in text
    ]


def test_a_batch_says_whether_the_files_it_takes_people_from_are_salted(root):
    state = open_state(root)
    assert state.salted
    erase(root, ANN)
    assert state.batches.every()[-1].data["salted"] is True
    path = partition_files(root / "data" / "dataset")[0]
    pd.read_parquet(path).to_parquet(path, index=False)  # by hand, as any tool would
    assert not salted([path])
    access.repository(state).track_dataset("By hand")
    erase(root, BOB)
    assert state.batches.every()[-1].data["salted"] is False


def test_a_workspace_of_an_earlier_release_goes_on_and_says_so(root):
    """Its history holds unsalted digests, whatever is written from now on."""
    place = root / ".expunge" / WORKSPACE_FILE
    content = json.loads(place.read_text())
    assert content.pop("salted") is True
    place.write_text(json.dumps(content))
    state = open_state(root)
    assert not state.salted
    ticket = state.tickets.submit(ANN).ticket
    batch = state.batches.open_batch([ticket.ticket_id])
    remove.fn(batch.batch_id)
    batch = state.batches.get(batch.batch_id)
    assert batch.data["salted"] is False
    require_dataset(state, batch, on_disk=True)
