"""Which partitions can hold a person: those that the workspace's key names, and those that may not keep to it.

A removal that trusted the key alone would leave a person whose row somebody put elsewhere by hand. So a partition is
opened for anyone until its rows are known to lie where the key puts them; that is looked up once for every state of
a file, and remembered by size, inode and times.
"""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.compute as pc

from expunge.datasets.partitions import partition_files, partition_index, partition_name, subject_column
from expunge.subjects import AS_THEY_ARE, Identity


@dataclass(frozen=True)
class Placement:
    """The workspace's key of places, and which partitions are known to keep to it.

    Args:
        key: Secret of the workspace.
        known: File that remembers them; it may be deleted at any time.
        identity: Which spellings of an id are one person: a place is that of the person.
    """

    key: bytes = field(repr=False)
    known: Path
    identity: Identity = AS_THEY_ARE

    def partitions_of(self, directory: Path, subject_ids: Collection[str]) -> list[Path]:
        """Every partition that can hold one of these people.

        Args:
            directory: The dataset.
            subject_ids: Whom to look for.

        Returns:
            Files, sorted by name: all of them where their names are not those of the key.

        Raises:
            DatasetError: If there is no partition.
        """
        files = partition_files(directory)
        places = {partition_name(self.key, index): index for index in range(len(files))}
        if {path.name for path in files} != set(places):
            return files
        wanted = {
            partition_name(self.key, partition_index(self.key, self.identity.canonical(subject), len(files)))
            for subject in subject_ids
        }
        kept = self._kept(files, places)
        return [path for path in files if path.name in wanted or path.name not in kept]

    def _kept(self, files: list[Path], places: dict[str, int]) -> set[str]:
        """Names of the partitions all of whose rows lie where the key puts them."""
        before = self._load(len(files))
        after: dict[str, list[int]] = {}
        for path in files:
            seen = _identity(path)  # before its rows are read: a change meanwhile makes another
            if before.get(path.name) == seen or self._keeps(path, places[path.name], len(files)):
                after[path.name] = seen
        if after != before:
            self._save(len(files), after)
        return set(after)

    @contextmanager
    def losing_rows(self, paths: Sequence[Path]) -> Iterator[None]:
        """What is known of partitions stays known when some of their rows leave.

        Args:
            paths: The partitions, rewritten meanwhile without some of their rows.

        Yields:
            Nothing.
        """
        before = {path: _identity(path) for path in paths}
        yield
        if paths:
            count = len(partition_files(paths[0].parent))
            known = self._load(count)
            kept = {path.name: _identity(path) for path in paths if known.get(path.name) == before[path]}
            self._save(count, known | kept)

    def _load(self, count: int) -> dict[str, list[int]]:
        try:
            content = json.loads(self.known.read_text(encoding="utf-8"))
            same = content["count"] == count and content.get("rules") == self._rules()
            return dict(content["files"]) if same else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}  # then every partition is looked at again

    def _save(self, count: int, files: dict[str, list[int]]) -> None:
        staging = self.known.with_name(f".{self.known.name}.{os.getpid()}.tmp")
        content = {"count": count, "rules": self._rules(), "files": files}
        staging.write_text(json.dumps(content), encoding="utf-8")
        staging.rename(self.known)

    def _rules(self) -> list[str] | None:
        """What places go by besides the key: of a contract without rules it is nothing, as it always was."""
        return None if self.identity.strict else sorted(self.identity.rules or ())

    def _keeps(self, path: Path, index: int, count: int) -> bool:
        return all(
            subject is not None
            and partition_index(self.key, self.identity.canonical(subject), count) == index
            for subject in _people(path)
        )


def _people(path: Path) -> Iterable[str | None]:
    for column in subject_column(path):
        yield from pc.unique(column).to_pylist()


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
