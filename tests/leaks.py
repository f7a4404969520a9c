"""Whether a text is anywhere in files, databases or git objects, also where it is escaped, encoded or packed."""

import base64
import sqlite3
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

ERASED, HELD = "zoe.quandt+4711@example.org", "zoe.quandt+4712@example.org"
NOBODY, PLANTED = "nobody.quandt+4713@example.org", "planted.quandt+4714@example.org"
NAMES = {"person-00005-x": ERASED, "person-00006-x": HELD}


def refused_requests(client: Any, officer_token: str, ticket_id: str) -> list[int]:
    """Requests that hold ids wherever a request can; their statuses."""
    statuses = []
    for person in (ERASED, HELD, NOBODY):
        key = {"Idempotency-Key": f"key of {person}"}
        officer = {"Authorization": f"Bearer {officer_token}"}
        body = {"subject": NOBODY, "regime": "gdpr"}
        for method, path, headers, content in [
            ("GET", f"/v1/tickets/{person}", officer, None),
            ("GET", f"/{person}", officer, None),
            ("DELETE", f"/v1/tickets/{ticket_id}?subject={person}", officer, None),
            ("GET", f"/v1/tickets?due={person}&{person}=1", officer, None),
            ("GET", "/v1/tickets", {"Authorization": f"Bearer {person}"}, None),
            ("POST", "/v1/tickets", officer | {"Idempotency-Key": person * 12}, body),
            ("POST", "/v1/tickets", officer | key | {"X-Subject": person, "User-Agent": person}, body),
            ("POST", "/v1/tickets", officer | key, {"subject": person, "regime": person}),
            ("POST", "/v1/tickets", officer | key, {person: person}),
            ("POST", "/v1/tickets", officer | key, [person]),
            ("POST", "/v1/tickets", officer | key, person * 1000),
        ]:
            answer = client.request(method, path, headers=headers, json=content)
            assert person not in answer.text
            statuses.append(answer.status_code)
    return statuses


def disguises(name: str) -> set[bytes]:
    """A text as it may be written: plain, escaped for addresses, in UTF-16, hexadecimal, Base64."""
    plain = name.encode()
    found = {plain, quote(name, safe="").encode(), quote_plus(name).encode(), plain.hex().encode()}
    found |= {name.encode("utf-16-le"), name.encode("utf-16-be")}
    for shift in range(3):  # what is certain of it, wherever it begins in the encoded text
        encoded = base64.b64encode(b"\0" * shift + plain)
        found.add(encoded[4 if shift else 0 : -4])
    return found


def where(name: str, places: dict[str, bytes]) -> list[str]:
    """The places that hold a text in any disguise."""
    wanted = disguises(name)
    return sorted(place for place, content in places.items() if any(one in content for one in wanted))


def of_folder(folder: Path, skip: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Every byte of every file and its name; databases cell by cell too, archives member by member."""
    places: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.startswith(skip):
            continue
        content = path.read_bytes()
        places[name] = name.encode() + b"\n" + content
        if content.startswith(b"SQLite format 3\0"):  # a value may be cut in two by the edge of a page
            places[f"{name} cells"] = b"\n".join(_cells(path))
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                places |= {f"{name}!{member}": archive.read(member) for member in archive.namelist()}
    return places


def _cells(path: Path) -> Iterator[bytes]:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            try:
                rows = connection.execute(f'SELECT * FROM "{table}"').fetchall()
            except sqlite3.OperationalError:
                continue  # of a module that is not here; its bytes were read
            for row in rows:
                yield " ".join(v.decode("latin-1") if isinstance(v, bytes) else str(v) for v in row).encode(
                    "utf-8", "replace"
                )


def of_git(root: Path) -> dict[str, bytes]:
    """The history as git tells it, and every object, also those that no branch leads to."""
    asked = {
        "git log": ["log", "--all", "--format=fuller", "--stat"],
        "git objects": ["cat-file", "--batch-all-objects", "--batch", "--unordered"],
        "git refs": ["for-each-ref"],
    }
    return {
        place: subprocess.run(["git", *words], cwd=root, capture_output=True, check=True).stdout
        for place, words in asked.items()
    }
