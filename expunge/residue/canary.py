"""A made-up person, planted in every kind of file that is searched: a search that cannot fail proves nothing."""

import os
import sqlite3
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from expunge.errors import ResidueError
from expunge.residue.embedded import embeddings
from expunge.residue.fingerprints import row_fingerprints
from expunge.residue.formats import scan_file
from expunge.residue.search import Scanner
from expunge.residue.target import Target

_COLUMNS = ("record_id", "label", "value")


def try_canary() -> None:
    """Plant the person and search for them.

    Raises:
        ResidueError: If they are not found in each place.
    """
    key, person = os.urandom(32), f"canary-{os.urandom(8).hex()}"
    frame = pd.DataFrame({"record_id": [0], "subject_id": [person], "label": ["x"], "value": [0.5]})
    numbers = np.random.default_rng(int.from_bytes(key)).normal(size=(1, 8))
    target = Target(
        subjects=frozenset({person}),
        fingerprints=frozenset(row_fingerprints(frame, _COLUMNS, key)),
        columns=_COLUMNS,
        key=key,
        embedded=embeddings(frame, [(_COLUMNS, numbers)], key),
    )
    plants: dict[str, tuple[Callable[[Path], object], set[tuple[str, str]]]] = {
        "parquet": (frame.to_parquet, {("", "subject-id"), ("", "row")}),
        "parquet, another column": (
            lambda path: frame[["subject_id"]].set_axis(["who"], axis=1).to_parquet(path),
            {("", "subject-id")},
        ),
        "table of text": (lambda path: frame.to_csv(path, index=False), {("", "subject-id"), ("", "row")}),
        "table of text, spelled otherwise": (
            lambda path: path.write_text(f"subject_id,x\n {person.upper()} ,1\n"),
            {("", "subject-id")},
        ),
        "text, spelled otherwise": (
            lambda path: path.write_text(f"x {person.upper()} y"),
            {("", "subject-id")},
        ),
        "text": (lambda path: path.write_text(f"x {person} y"), {("", "subject-id")}),
        "sqlite": (
            lambda path: _plant_in_sqlite(path, person),
            {("", "subject-id"), (" table canary", "subject-id")},
        ),
        "archive": (lambda path: _plant_in_archive(path, f"x {person} y"), {(" member 0", "subject-id")}),
        "numbers": (
            lambda path: path.write_bytes(b"odd" + numbers.astype("float32").tobytes() + b"end"),
            {("", "row")},
        ),
    }
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, (plant, expected) in plants.items():
            path, scanner = Path(folder) / "object-without-suffix", Scanner(target)
            plant(path)
            scan_file(scanner, "", path)
            found = {(hit["where"], hit["kind"]) for hit in scanner.hits}
            found |= {(where, "row") for where, _ in scanner.owners}
            if found != expected:
                missed.append(kind)
            path.unlink()
    if missed:
        raise ResidueError(
            "the residue scan did not find its canary",
            expected="it in every kind of file",
            got=f"none in {', '.join(missed)}",
            remedy="report this",
        )


def _plant_in_sqlite(path: Path, person: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE canary (a TEXT, note TEXT, z TEXT)")
        connection.execute("INSERT INTO canary VALUES ('x', ?, 'y')", (person,))
    connection.close()


def _plant_in_archive(path: Path, text: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", text)
