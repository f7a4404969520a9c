"""DVC: dataset versions, the pipeline downstream of them, and targeted purge.

``dvc.repo`` is not a stable interface: this is the only place that calls it. DVC has no permanent removal of one
file from all history (treeverse/dvc issue 4903); `dvc gc -w` leaves the remote, from which the next pull brings the
data back. So superseded objects are found in every historical manifest and deleted from cache and remote here.
"""

import contextlib
import io
import json
import logging
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from expunge.errors import ExpungeError, ResidueError
from tasks.adapters import git

DATASET = "data/dataset"
DATASET_FILE = "data/dataset.dvc"
_REMOTE = "storage"


@dataclass(frozen=True)
class DatasetVersion:
    """One version of the dataset.

    Args:
        md5: DVC's digest of the folder.
        git_revision: The commit that names it.
    """

    md5: str
    git_revision: str


@dataclass(frozen=True)
class SupersededObject:
    """Bytes that no current version needs.

    Args:
        md5: Of the object.
        partition: File name it had.
        where: cache, remote or run-cache.
        path: Where the bytes lie.
        size: In bytes.
    """

    md5: str
    partition: str
    where: str
    path: str
    size: int


class Repository:
    """A workspace's git + DVC repository.

    Args:
        root: Its top folder.
        state: The git-ignored folder for DVC's own site cache.
    """

    def __init__(self, root: Path, state: Path) -> None:
        """Keep both, and quieten DVC."""
        self.root = root
        os.environ.update(DVC_NO_ANALYTICS="1", DVC_SITE_CACHE_DIR=str(state / "dvc-site-cache"))

    @contextlib.contextmanager
    def _repo(self) -> Iterator[Any]:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        logging.getLogger("dvc").setLevel(logging.ERROR)  # after the import, which sets its own
        quiet = io.StringIO()
        try:
            with (
                Repo(str(self.root)) as repo,
                contextlib.redirect_stderr(quiet),
                contextlib.redirect_stdout(quiet),
            ):
                yield repo
        except DvcException as error:
            raise ExpungeError(
                "DVC failed", got=" ".join(str(error).split())[:300], remedy="see `dvc doctor`"
            ) from error

    def init(self, remote: Path) -> None:
        """Make the repository, with a default remote; repeating it changes nothing.

        Args:
            remote: Folder of the local default remote.
        """
        from dvc.repo import Repo

        logging.getLogger("dvc").setLevel(logging.ERROR)
        if not (self.root / ".git").exists():
            git.git(self.root, "init", "--quiet")
        if not (self.root / ".dvc").exists():
            Repo.init(str(self.root)).close()
        remote.mkdir(parents=True, exist_ok=True)
        url = os.path.relpath(remote, self.root / ".dvc")
        (self.root / ".dvc" / "config").write_text(
            f"[core]\n    analytics = false\n    check_update = false\n    remote = {_REMOTE}\n"
            f"['remote \"{_REMOTE}\"']\n    url = {url}\n",
            encoding="utf-8",
        )

    def track_dataset(self, message: str) -> DatasetVersion:
        """Make the dataset as it lies there the current version: add, push, commit; repeating it changes nothing.

        Args:
            message: Of the commit, without personal data.

        Returns:
            The version.
        """
        with self._repo() as repo:
            repo.add(str(self.root / DATASET))
        with self._repo() as repo:
            repo.push(targets=[str(self.root / DATASET_FILE)])
        git.commit(self.root, [DATASET_FILE, "data/.gitignore"], message)
        return self.current()

    def current(self) -> DatasetVersion:
        """The version that is checked out.

        Returns:
            Its digest and commit.
        """
        return DatasetVersion(
            self._md5((self.root / DATASET_FILE).read_text(encoding="utf-8")), git.head(self.root)
        )

    def is_tracked_clean(self) -> bool:
        """Whether the dataset on disk is the version that is checked out.

        Returns:
            True if nothing differs.
        """
        with self._repo() as repo:
            return not repo.status(targets=[str(self.root / DATASET_FILE)])

    @staticmethod
    def _md5(text: str) -> str:
        return str(yaml.safe_load(text)["outs"][0]["md5"])

    def history(self) -> list[str]:
        """Digests of every version in git's history.

        Returns:
            Newest first, each once.
        """
        found = [self._md5(text) for text in git.file_history(self.root, DATASET_FILE)]
        return list(dict.fromkeys(found))

    def manifest(self, md5: str) -> dict[str, str]:
        """Partitions of a version.

        Args:
            md5: Digest of the folder, ending in ``.dir``.

        Returns:
            Object digests by file name; empty where the manifest itself is gone.
        """
        for store in self._stores().values():
            path = store / md5[:2] / md5[2:]
            if path.is_file():
                return {
                    entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text(encoding="utf-8"))
                }
        return {}

    def _stores(self) -> dict[str, Path]:
        """Folders of DVC objects: the local cache, and the remote where it is a folder."""
        stores = {"cache": self.root / ".dvc" / "cache" / "files" / "md5"}
        with self._repo() as repo:
            remote = repo.cloud.get_remote()
            if remote.fs.protocol != "local":
                raise ExpungeError(
                    "this remote cannot be purged yet",
                    expected="a DVC remote that is a folder",
                    got=str(remote.fs.protocol),
                    remedy="use a folder (a mounted share works)",
                )
            stores["remote"] = Path(remote.path) / "files" / "md5"
        return stores

    def superseded(self, partitions: Iterable[str]) -> list[SupersededObject]:
        """Objects of these partitions in any historical version that the current one does not use.

        Args:
            partitions: File names whose earlier contents must go.

        Returns:
            What lies there, in cache and remote, and run-cache entries.
        """
        names = set(partitions)
        needed = set(self.manifest(self.current().md5).values())
        old: dict[str, str] = {}
        for md5 in self.history():
            old |= {
                obj: name for name, obj in self.manifest(md5).items() if name in names and obj not in needed
            }
        found = []
        for where, store in self._stores().items():
            for obj, name in sorted(old.items()):
                path = store / obj[:2] / obj[2:]
                if path.is_file():
                    found.append(SupersededObject(obj, name, where, str(path), path.stat().st_size))
        runs = self.root / ".dvc" / "cache" / "runs"
        for path in sorted(runs.rglob("*")) if runs.is_dir() else []:
            if path.is_file():
                found.append(SupersededObject("", "", "run-cache", str(path), path.stat().st_size))
        return found

    def purge(self, objects: Iterable[SupersededObject]) -> int:
        """Delete superseded objects, and make sure that they are gone.

        Args:
            objects: From :meth:`superseded`.

        Returns:
            Bytes destroyed.

        Raises:
            ResidueError: If one is still there: a partial failure is a failure.
        """
        destroyed, left = 0, 0
        for item in objects:
            path = Path(item.path)
            if path.is_file():
                path.chmod(stat.S_IRUSR | stat.S_IWUSR)  # DVC write-protects its cache
                path.unlink()
                destroyed += item.size
            left += path.exists()
        for leftover in ("tmp/exps", "tmp/rwlock"):
            shutil.rmtree(self.root / ".dvc" / leftover, ignore_errors=True)
        if left:
            raise ResidueError(
                "superseded objects are still there", expected="none", got=str(left), remedy="run again"
            )
        return destroyed

    def reproduce(self) -> None:
        """Run the stages of dvc.yaml that are out of date; their output streams to standard error.

        Raises:
            ExpungeError: If a stage fails.
        """
        self._dvc("repro", "--quiet")

    def commit_stages(self, message: str) -> str:
        """Accept the outputs that lie there as those of their stages, and commit dvc.lock.

        Args:
            message: Of the commit.

        Returns:
            The commit.
        """
        self._dvc("commit", "--force", "--quiet", "prepare", "train", "evaluate")
        return git.commit(self.root, ["dvc.lock"], message)

    def _dvc(self, *arguments: str) -> None:
        # Stages call `expunge`: the one of this environment, wherever it is.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.root,
            env={**os.environ, "PATH": path, "EXPUNGE_WORKSPACE": str(self.root)},
            stdout=sys.stderr,
            check=False,
        )
        if done.returncode:
            raise ExpungeError(f"dvc {arguments[0]} failed", remedy="see its message above")
