"""Earlier versions of the dataset: whether one is still whole, what lies in it, and taking it out."""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from expunge.errors import WorkspaceError
from tasks.adapters import git
from tasks.adapters.versioning import DATASET, DATASET_FILE, Repository, object_path

_BLOCK = 1 << 22


def pointer_at(root: Path, revision: str) -> str:
    """What git holds of the dataset at a revision.

    Args:
        root: The workspace's top folder.
        revision: Any name of a commit.

    Returns:
        Text of data/dataset.dvc.

    Raises:
        WorkspaceError: If there is no such revision, or it has no dataset.
    """
    try:
        if revision.startswith("-"):
            raise WorkspaceError("an option is no revision")
        commit = git.git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        return git.git(root, "show", f"{commit}:{DATASET_FILE}") + "\n"
    except WorkspaceError as error:
        raise WorkspaceError(
            "no dataset version of that name",
            expected=f"a commit, branch or tag with {DATASET_FILE}",
            got=revision,
            remedy="see `git log -- data/dataset.dvc`",
        ) from error


def lacking(repository: Repository, md5: str) -> str:
    """What of a version lies in no store any more.

    Args:
        repository: The workspace's.
        md5: Digest of the folder.

    Returns:
        In words; empty where the version is whole.
    """
    cache = repository.root / ".dvc" / "cache" / "files" / "md5"
    # Asking for the remotes takes a second, and most versions lie in the cache.
    return _lacking([cache], md5) and _lacking([*repository.stores.values()], md5)


def _lacking(stores: list[Path], md5: str) -> str:
    manifest = _find(stores, md5)
    if manifest is None:
        return "its manifest is gone"
    objects = {entry["md5"] for entry in json.loads(manifest.read_text(encoding="utf-8"))}
    gone = sum(_find(stores, one) is None for one in objects)
    return f"{gone} of {len(objects)} objects are gone" if gone else ""


def _find(stores: list[Path], md5: str) -> Path | None:
    paths = (object_path(store, md5) for store in stores)
    return next((path for path in paths if path.is_file()), None)


def objects_of(repository: Repository, md5: str) -> Iterator[Path]:
    """The files of a version that is whole, wherever they lie.

    Args:
        repository: The workspace's.
        md5: Digest of the folder.

    Yields:
        Paths in cache or remote.
    """
    for one in sorted(set(repository.manifest(md5).values())):
        path = _find([*repository.stores.values()], one)
        if path is not None:
            yield path


def objects_named(repository: Repository, md5: str, names: Sequence[str]) -> list[Path] | None:
    """Some partitions of a version, wherever they lie.

    Args:
        repository: The workspace's.
        md5: Digest of the version's folder.
        names: Of the partitions.

    Returns:
        Files in cache or remote; None where one of them, or the version's manifest, is gone.
    """
    # Asking for the remotes takes a second, and most versions lie in the cache.
    cache = repository.root / ".dvc" / "cache" / "files" / "md5"
    for stores in ([cache], None):
        places = stores or [*repository.stores.values()]
        if (manifest := _find(places, md5)) is None:
            continue
        entries = json.loads(manifest.read_text(encoding="utf-8"))
        known = {
            entry["relpath"]: _find(places, entry["md5"]) for entry in entries if entry["relpath"] in names
        }
        found = [path for name in names if (path := known.get(name)) is not None]
        if len(found) == len(names):
            return found
    return None


def set_pointer(root: Path, text: str) -> None:
    """Put a version's pointer into working tree and index; the files are another matter.

    Args:
        root: The workspace's top folder.
        text: Of data/dataset.dvc.
    """
    staging = root / f"{DATASET_FILE}.tmp"
    staging.write_text(text, encoding="utf-8")
    os.replace(staging, root / DATASET_FILE)
    git.git(root, "add", "--", DATASET_FILE)


def take_out(repository: Repository, text: str, md5: str) -> None:
    """Make a version that is whole the one that lies there; called again it goes on.

    Args:
        repository: The workspace's.
        text: Its pointer.
        md5: Digest of its folder.

    Raises:
        WorkspaceError: If the folder holds what no version has, and what would be lost.
    """
    if not repository.is_tracked_clean():
        _require_nothing_unsaved(repository)
    cache = repository.stores["cache"]
    for one in (md5, *repository.manifest(md5).values()):
        place, source = object_path(cache, one), _find([*repository.stores.values()], one)
        if not place.is_file() and source is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            staging = place.with_name(f".{place.name}.tmp")
            shutil.copyfile(source, staging)
            staging.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)  # as DVC protects its own
            os.replace(staging, place)
    set_pointer(repository.root, text)
    repository.checkout()


def _require_nothing_unsaved(repository: Repository) -> None:
    stores = [*repository.stores.values()]
    unsaved = 0
    for path in (repository.root / DATASET).rglob("*"):
        if path.is_file():
            digest = hashlib.md5(usedforsecurity=False)  # DVC's name of the object
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
            unsaved += _find(stores, digest.hexdigest()) is None
    if unsaved:
        raise WorkspaceError(
            "the dataset folder holds files that no version has, and that would be lost",
            expected="nothing that is not stored",
            got=f"{unsaved} files",
            remedy="keep them with `dvc add data/dataset`, or remove them; nothing was changed",
        )
