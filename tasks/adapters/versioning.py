"""DVC: dataset versions, the pipeline downstream of them, and targeted purge.

``dvc.repo`` is not a stable interface: this is the only place that calls it. DVC has no permanent removal of one
file from all history (treeverse/dvc issue 4903); `dvc gc -w` leaves the remote, from which the next pull brings the
data back. So superseded objects are found in every historical manifest and deleted from cache and remote here.
"""

import contextlib
import functools
import io
import json
import logging
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
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
        config = self.root / ".dvc" / "config"
        if "remote =" in config.read_text(encoding="utf-8"):
            return  # made before, or somebody's own remote: theirs to keep
        url = os.path.relpath(remote, self.root / ".dvc")
        config.write_text(
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
        # A writer that was killed leaves its temporary file: it must not become part of the version.
        for leftover in (self.root / DATASET).glob(".*.tmp"):
            leftover.unlink()
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
        md5 = self._md5((self.root / DATASET_FILE).read_text(encoding="utf-8"))
        return DatasetVersion(md5, git.git(self.root, "log", "-1", "--format=%H", "--", DATASET_FILE))

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
        for store in self._stores.values():
            path = store / md5[:2] / md5[2:]
            if path.is_file():
                return {
                    entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text(encoding="utf-8"))
                }
        return {}

    @functools.cached_property
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

    def superseded(
        self, partitions: Iterable[str], *, accept_missing: Collection[str] = ()
    ) -> list[SupersededObject]:
        """Objects of these partitions in any historical version that the current one does not use.

        Args:
            partitions: File names whose earlier contents must go.
            accept_missing: Digests of versions whose manifest is known to be lost: nothing of them is listed.

        Returns:
            What lies there, in cache and remote; run-cache entries with what they hold; unfinished copies.

        Raises:
            ResidueError: If a manifest is lost, or the remote lacks the current version: a list
                that may be incomplete must not be taken for all there is.
        """
        names, stores, history = set(partitions), self._stores, self.history()
        current = self.current().md5
        if absent := [
            where for where, store in stores.items() if not (store / current[:2] / current[2:]).is_file()
        ]:
            raise ResidueError(
                "the current version is not everywhere it should be",
                expected="it in cache and remote",
                got=f"none in {' and '.join(absent)}",
                remedy="mount the remote, or run `dvc push`",
            )
        needed = set(self.manifest(current).values())
        uncommitted = [path.parent.name + path.name for path in sorted(stores["cache"].glob("??/*.dir"))]
        old: dict[str, str] = {}
        lost = []
        for md5 in dict.fromkeys([*history, *uncommitted]):
            entries = self.manifest(md5)
            old |= {obj: name for name, obj in entries.items() if name in names and obj not in needed}
            if not entries and md5 not in accept_missing:
                lost.append(md5)
        if lost:
            raise ResidueError(
                "manifests of earlier versions are lost: what to destroy cannot be listed",
                got=", ".join(lost),
                remedy="restore them to the remote, or accept each by its digest",
            )
        old |= {
            md5: "" for md5 in self._run_cache_objects(set(history)) if md5 not in needed and md5 not in old
        }
        found = []
        for where, store in stores.items():
            for obj, name in sorted(old.items()):
                path = store / obj[:2] / obj[2:]
                if path.is_file():
                    found.append(SupersededObject(obj, name, where, str(path), path.stat().st_size))
        own = [store for store in stores.values() if store.is_relative_to(self.root)]
        for path in sorted(path for store in own for path in store.rglob(".*.tmp")):
            found.append(SupersededObject("", "", "unfinished", str(path), path.stat().st_size))
        for path in self._runs():
            found.append(SupersededObject("", "", "run-cache", str(path), path.stat().st_size))
        return found

    def _runs(self) -> list[Path]:
        return sorted(path for path in (self.root / ".dvc" / "cache" / "runs").rglob("*") if path.is_file())

    def _run_cache_objects(self, tracked: Collection[str]) -> Iterator[str]:
        """What run-cache entries hold: outputs of stages, weights too, whatever `cache: false` says."""
        for path in self._runs():
            entry = yaml.safe_load(path.read_text(encoding="utf-8"))
            for out in entry.get("outs", []) if isinstance(entry, dict) else []:
                if (md5 := str(out.get("md5", ""))) and md5 not in tracked:
                    yield md5
                    yield from self.manifest(md5).values() if md5.endswith(".dir") else ()

    def purge(self, objects: Iterable[SupersededObject]) -> int:
        """Delete superseded objects, and make sure that they are gone.

        Args:
            objects: From :meth:`superseded`.

        Returns:
            Bytes destroyed.

        Raises:
            ResidueError: If one is still there (a partial failure is a failure), or is in use again.
        """
        objects = list(objects)
        current = self.current().md5
        needed = {current, *self.manifest(current).values()}
        if in_use := needed & {item.md5 for item in objects}:
            raise ResidueError(
                "objects of the current version cannot be purged", got=f"{len(in_use)} of them"
            )
        destroyed, left = 0, 0
        for item in objects:
            path = Path(item.path)
            if path.is_file():
                path.chmod(stat.S_IRUSR | stat.S_IWUSR)  # DVC write-protects its cache
                path.unlink()
                destroyed += item.size
            left += path.exists()
        runs, experiments = self.root / ".dvc" / "cache" / "runs", self.root / ".dvc" / "tmp" / "exps"
        if not self._runs():
            shutil.rmtree(runs, ignore_errors=True)
        shutil.rmtree(experiments, ignore_errors=True)
        left += experiments.exists()
        if left:
            raise ResidueError(
                "superseded objects are still there", expected="none", got=str(left), remedy="run again"
            )
        return destroyed

    def remotes(self) -> dict[str, Path | None]:
        """Every remote that is configured, the default one or not.

        Returns:
            Folders by name; None for one that is something else.
        """
        found: dict[str, Path | None] = {}
        with self._repo() as repo:
            for name in sorted(repo.config["remote"]):
                remote = repo.cloud.get_remote(name)
                found[name] = Path(remote.path) if remote.fs.protocol == "local" else None
        return found

    def reproduce(self) -> None:
        """Run the stages of dvc.yaml that are out of date; their output streams to standard error.

        Raises:
            ExpungeError: If a stage fails.
        """
        # Without these flags a stage with metrics only is stored in the run-cache, and restored from it.
        self._dvc("repro", "--quiet", "--no-commit", "--no-run-cache")

    def commit_stages(self, message: str) -> str:
        """Accept the outputs that lie there as those of their stages, and commit dvc.lock.

        Args:
            message: Of the commit.

        Returns:
            The commit.
        """
        from dvc.repo import lock_repo

        # Not `dvc commit`: it stores the outputs, weights too, in the run-cache in spite of `cache: false`.
        with self._repo() as repo, lock_repo(repo):
            for stage in repo.stage.load_all(str(self.root / "dvc.yaml")):
                stage.save(run_cache=False)
                stage.commit()
                stage.dump(update_pipeline=False)
        return git.commit(self.root, ["dvc.lock"], message)

    def _dvc(self, *arguments: str) -> None:
        # Stages call `expunge`: the one of this environment, wherever it is.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.root,
            env={**git.clean_environment(), "PATH": path, "EXPUNGE_WORKSPACE": str(self.root)},
            stdout=sys.__stderr__,  # of the process: a notebook replaces sys.stderr by what is no file
            check=False,
        )
        if done.returncode:
            raise ExpungeError(f"dvc {arguments[0]} failed", remedy="see its message above")
