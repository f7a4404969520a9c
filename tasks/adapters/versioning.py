"""DVC: dataset versions, their stores, the pipeline; alone calls ``dvc.repo``, which is not a stable interface."""

import contextlib
import functools
import io
import json
import logging
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from expunge.errors import STAGE_ERROR, ExpungeError, PolicyError, ResidueError, storage_full_text
from expunge.permissions import SITE_CACHE, private_site_cache
from tasks.adapters import git
from tasks.adapters.dvc_sizes import leave_out_sizes

DATASET = "data/dataset"
DATASET_FILE = "data/dataset.dvc"
_REMOTE = "storage"
_MANIFEST = re.compile(r"\b[0-9a-f]{32}\.dir\b")


@dataclass(frozen=True)
class DatasetVersion:
    """One version of the dataset.

    Args:
        md5: DVC's digest of the folder.
        git_revision: The commit that names it.
    """

    md5: str
    git_revision: str


def object_path(store: Path, md5: str) -> Path:
    """Where DVC keeps an object in a store.

    Args:
        store: Folder of objects.
        md5: Of the object.

    Returns:
        Its path, whether it is there or not.
    """
    return store / md5[:2] / md5[2:]


class Repository:
    """A workspace's git + DVC repository.

    Args:
        root: Its top folder.
        state: The git-ignored folder for DVC's own site cache.
    """

    def __init__(self, root: Path, state: Path) -> None:
        """Keep both, and quieten DVC."""
        self.root = root
        self.state = state
        os.environ.update(DVC_NO_ANALYTICS="1", DVC_SITE_CACHE_DIR=str(state / SITE_CACHE))

    @contextlib.contextmanager
    def _repo(self) -> Iterator[Any]:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        private_site_cache(self.state)
        logging.getLogger("dvc").setLevel(logging.ERROR)  # after the import, which sets its own
        quiet = io.StringIO()
        try:
            with (
                Repo(str(self.root)) as repo,
                contextlib.redirect_stderr(quiet),
                contextlib.redirect_stdout(quiet),
            ):
                yield repo
        except (DvcException, sqlite3.Error) as error:  # its own cache is in SQLite
            raise storage_full_text(str(error)) or ExpungeError(
                "DVC failed", got=" ".join(str(error).split())[:300], remedy="see `dvc doctor`"
            ) from error

    def init(self, remote: Path) -> None:
        """Make the repository, with a default remote; repeating it changes nothing.

        Args:
            remote: Folder of the local default remote.
        """
        from dvc.repo import Repo

        private_site_cache(self.state)
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
        leave_out_sizes(self.root / DATASET_FILE)
        with self._repo() as repo:
            repo.push(targets=[str(self.root / DATASET_FILE)])
        git.commit(self.root, [DATASET_FILE, "data/.gitignore"], message)
        return self.current()

    def current(self) -> DatasetVersion:
        """The version that is checked out.

        Returns:
            Its digest and commit.
        """
        md5 = self.md5_of((self.root / DATASET_FILE).read_text(encoding="utf-8"))
        return DatasetVersion(md5, git.git(self.root, "log", "-1", "--format=%H", "--", DATASET_FILE))

    def is_tracked_clean(self) -> bool:
        """Whether the dataset on disk is the version that is checked out.

        Returns:
            True if nothing differs.
        """
        with self._repo() as repo:
            return not repo.status(targets=[str(self.root / DATASET_FILE)])

    def checkout(self) -> None:
        """Bring the dataset on disk to the version that its pointer names, from the cache."""
        with self._repo() as repo:
            repo.checkout(targets=[str(self.root / DATASET_FILE)], force=True)

    @staticmethod
    def md5_of(text: str) -> str:
        """The version that a pointer names.

        Args:
            text: Of data/dataset.dvc.

        Returns:
            DVC's digest of the folder.
        """
        return str(yaml.safe_load(text)["outs"][0]["md5"])

    def history(self) -> list[str]:
        """Digests of every version in git's history.

        Returns:
            Newest first, each once.
        """
        found = [self.md5_of(text) for text in git.file_history(self.root, DATASET_FILE)]
        return list(dict.fromkeys(found))

    def manifest(self, md5: str) -> dict[str, str]:
        """Partitions of a version.

        Args:
            md5: Digest of the folder, ending in ``.dir``.

        Returns:
            Object digests by file name; empty where the manifest itself is gone.
        """
        for store in self.stores.values():
            path = object_path(store, md5)
            if path.is_file():
                return {
                    entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text(encoding="utf-8"))
                }
        return {}

    @functools.cached_property
    def cache(self) -> Path:
        """Folder of the local cache's objects; DVC may be told to keep it outside the workspace."""
        with self._repo() as repo:
            return Path(repo.cache.local.path)

    @property
    def own_cache(self) -> bool:
        """Whether the cache lies in the workspace; elsewhere it may be other repositories' too."""
        return self.cache.resolve().is_relative_to(self.root.resolve())

    def cached(self) -> list[str]:
        """Versions in the workspace's own cache, committed or not.

        Returns:
            Digests of folders.
        """
        paths = sorted(self.cache.glob("??/*.dir")) if self.own_cache else []
        return [path.parent.name + path.name for path in paths]

    @functools.cached_property
    def stores(self) -> dict[str, Path]:
        """Folders of DVC objects: the local cache and every remote, each of which must be a folder.

        Raises:
            ExpungeError: If a remote is something else.
            ResidueError: If a remote's folder is not there.
        """
        stores = {"cache": self.cache}
        with self._repo() as repo:
            default = repo.cloud.get_remote().name
            for name in dict.fromkeys([default, *sorted(repo.config["remote"])]):
                remote = repo.cloud.get_remote(name)
                if remote.fs.protocol != "local":
                    raise ExpungeError(
                        "this remote cannot be purged yet",
                        expected="a DVC remote that is a folder",
                        got=f"{remote.fs.protocol} ({name})",
                        remedy="use a folder (a mounted share works)",
                    )
                folder = Path(remote.path) / "files" / "md5"
                # Nothing may have been pushed to another remote yet; a share that is not mounted is no empty one.
                if name != default and not Path(remote.path).is_dir():
                    raise ResidueError(
                        "a remote is not there",
                        expected="the folder of every DVC remote",
                        got=f"none of remote {name}",
                        remedy="mount it, or remove it from DVC's configuration",
                    )
                if folder not in stores.values():
                    stores[f"remote {name}"] = folder
        return stores

    def require_stored(self, md5: str) -> None:
        """Make sure that cache and default remote hold all of a version: one that is not mounted is not an empty one.

        Args:
            md5: Digest of the folder.

        Raises:
            ResidueError: If they do not.
        """
        absent, parts = [], {md5, *self.manifest(md5).values()}
        for where, store in list(self.stores.items())[:2]:
            if not object_path(store, md5).is_file():
                absent.append(f"none in {where}")
            elif lost := sum(not object_path(store, one).is_file() for one in parts):
                absent.append(f"{lost} of its {len(parts) - 1} objects are not in {where}")
        if absent:
            raise ResidueError(
                "the current version is not everywhere it should be",
                expected="it in cache and remote",
                got=" and ".join(absent),
                remedy="mount what is not there; `dvc fetch` fills the cache, `dvc push` the remote",
            )

    def needed(self) -> set[str]:
        """Objects that may not be destroyed: of the current version, and of whatever else DVC tracks.

        Returns:
            Their digests.
        """
        current = self.current().md5
        return {current, *self.manifest(current).values(), *self.in_use()}

    def in_use(self) -> dict[str, str]:
        """Objects of everything else that DVC tracks, in the workspace and at the head of any branch.

        Returns:
            Path of the output that needs it, by digest.

        Raises:
            ResidueError: If an output's manifest is lost: what it needs cannot be told.
        """
        outs: dict[str, str] = {}
        with self._repo() as repo:
            for _ in repo.brancher(all_branches=True):
                for out in repo.index.outs:
                    path, found = out.fs.relpath(out.fs_path, repo.root_dir), out.hash_info
                    if out.use_cache and found and found.name == "md5" and path != DATASET:
                        outs.setdefault(found.value, path)
        needed = dict(outs)
        for md5, path in outs.items():
            if not md5.endswith(".dir"):
                continue
            if not (entries := self.manifest(md5)):
                raise ResidueError(
                    "a tracked folder's manifest is lost: which objects it needs cannot be told",
                    got=path,
                    remedy=f"run `dvc fetch {path}`, or stop tracking it",
                )
            for obj in entries.values():
                needed.setdefault(obj, path)
        return needed

    def foreign(self) -> dict[str, dict[str, str]]:
        """Objects that manifests of other repositories list, in the remotes, or in a cache elsewhere.

        Returns:
            By store, the foreign manifest that lists an object, by the object's digest.
        """
        texts = git.file_history(self.root, "*.dvc") + git.file_history(self.root, "*dvc.lock")
        own = {md5 for text in texts for md5 in _MANIFEST.findall(text)}
        own |= set(self.cached())
        found: dict[str, dict[str, str]] = {}
        for where, store in self.stores.items():
            for path in sorted(store.glob("??/*.dir")):
                md5 = path.parent.name + path.name
                if md5 not in own:
                    listed = found.setdefault(where, {})
                    for entry in json.loads(path.read_text(encoding="utf-8")):
                        listed.setdefault(entry["md5"], f"the dataset {md5} of another repository")
        return found

    def run_caches(self) -> dict[str, Path]:
        """Where DVC keeps outputs of earlier stages: beside the cache, and beside each remote's objects.

        Returns:
            Folders that are there, by store.
        """
        folders = {where: store.parents[1] / "runs" for where, store in self.stores.items()}
        return {where: folder for where, folder in folders.items() if folder.is_dir()}

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

    def default_remote(self) -> tuple[str, Path]:
        """The remote that versions are pushed to.

        Returns:
            Its name and folder.

        Raises:
            ExpungeError: If it is no folder.
        """
        with self._repo() as repo:
            remote = repo.cloud.get_remote()
            if remote.fs.protocol == "local":
                return str(remote.name), Path(remote.path)
        raise ExpungeError(
            "the default remote is no folder",
            expected="a folder",
            got=remote.fs.protocol,
            remedy="see `dvc remote list`",
        )

    def reproduce(self) -> None:
        """Run the stages of dvc.yaml that are out of date; their output streams to standard error.

        Raises:
            ExpungeError: If a stage fails.
        """
        # Without these flags a stage with metrics only is stored in the run-cache, and restored from it.
        self.dvc("repro", "--quiet", "--no-commit", "--no-run-cache")
        leave_out_sizes(self.root / "dvc.lock")

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
        leave_out_sizes(self.root / "dvc.lock")
        return git.commit(self.root, ["dvc.lock"], message)

    def dvc(self, *arguments: str) -> None:
        """Run a command of DVC.

        Args:
            arguments: Of its command line.

        Raises:
            ExpungeError: If it fails, by what a stage said of itself where one did.
        """
        # Stages call `expunge`: the one of this environment, wherever it is.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        with tempfile.TemporaryDirectory(dir=self.state) as folder:
            said = Path(folder) / "stage.json"  # a stage's own refusal: said once, by us
            environment = {"PATH": path, "EXPUNGE_WORKSPACE": str(self.root), STAGE_ERROR: str(said)}
            done = subprocess.run(
                [sys.executable, "-m", "dvc", *arguments],
                cwd=self.root,
                env={**git.clean_environment(), **environment},
                stdout=sys.__stderr__,  # of the process: a notebook replaces sys.stderr by what is no file
                check=False,
            )
            if done.returncode:
                raise _failure(arguments[0], self.root, said)


def _failure(command: str, root: Path, said: Path) -> ExpungeError:
    """Why DVC failed: by what its stage said of itself, or by what params.yaml lacks, which DVC keeps to itself."""
    if said.is_file():
        content = json.loads(said.read_text(encoding="utf-8"))
        error = ExpungeError(str(content["error"]))
        error.exit_code = int(content["exit_code"])
        return error
    try:
        params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        params = None
    lacking = [name for name in ("model", "training") if isinstance(params, dict) and name not in params]
    if lacking:
        return PolicyError(
            "params.yaml is not complete",
            expected="model and training, on which the stages of dvc.yaml depend",
            got=f"no {' and no '.join(lacking)}",
            remedy="write them; `training: {}` takes the defaults",
        )
    return ExpungeError(
        f"dvc {command} failed", remedy=f"see its message above, or run `dvc {command}` for it"
    )
