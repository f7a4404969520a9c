"""DVC's stores of objects: which of them no version needs any more, and their destruction.

DVC has no permanent removal of one file from all history (treeverse/dvc issue 4903); `dvc gc -w` leaves the remote,
from which the next pull brings the data back. So superseded objects are found in every historical manifest, and
deleted from cache and remotes here, if nothing else needs them.
"""

import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import yaml

from expunge.errors import ResidueError
from expunge.tickets.purge_journal import Item
from tasks.adapters import git
from tasks.adapters.versioning import Repository, object_path

OBJECT = "data object"
SHARED = "shared object"  # stays in its remote, because another repository needs it
_SUPERSEDED = "holds rows of removed people, or their partition's earlier contents"
RUN = "run-cache"
_EXPERIMENTS = ".dvc/tmp/exps"
EXPERIMENT = "experiment"


def superseded(
    repository: Repository,
    partitions: Iterable[str],
    *,
    accept_missing: Collection[str] = (),
    shared_remotes: bool = False,
    spare: Collection[str] = (),
) -> list[Item]:
    """Objects of these partitions in any historical version that the current one does not use, and DVC's leftovers.

    Args:
        repository: Whose.
        partitions: File names whose earlier contents must go.
        accept_missing: Digests of versions whose manifest is known to be lost: nothing of them is listed.
        shared_remotes: Whether other repositories may keep their data in the remotes, or in a cache elsewhere.
        spare: Digests of versions whose objects are another purge's business.

    Returns:
        What lies there, in the order it is to be destroyed: objects before what names them.

    Raises:
        ResidueError: If a manifest is lost, or a store lacks the current version: a list that may be incomplete must
            not be taken for all there is. Or if another repository needs an object, and remotes are not shared.
    """
    old = _earlier(repository, set(partitions), accept_missing, shared_remotes)
    old -= {md5 for version in spare for md5 in repository.manifest(version).values()}
    in_use, foreign = repository.in_use(), repository.foreign()
    found = []
    for where, store in repository.stores.items():
        for md5 in sorted(old):
            path = object_path(store, md5)
            if not path.is_file():
                continue
            own, other = in_use.get(md5), foreign.get(where, {}).get(md5)
            kind = SHARED if other and not own else OBJECT
            why = f"{_SUPERSEDED}; kept: needed by {own or other}" if own or other else _SUPERSEDED
            found.append(Item(kind, md5, where, path.stat().st_size, why, bool(own or other)))
    others = [item for item in found if item.kind == SHARED]
    if others and not shared_remotes:
        raise ResidueError(
            "another repository keeps data in a store, and needs what a purge would destroy",
            expected="remotes and a cache of this repository alone",
            got=f"{len(others)} objects in {others[0].where} {others[0].why.rpartition('kept: ')[2]}",
            remedy="set `purge.shared_remotes: true` in policy.yaml to leave those objects to it, and remove the "
            "people there too; nothing was destroyed",
        )
    return [*found, *_leftovers(repository, shared_remotes)]


def _earlier(
    repository: Repository, names: set[str], accept_missing: Collection[str], shared: bool
) -> set[str]:
    """Digests of all earlier contents of some partitions, and of what the run-cache holds."""
    history, current = repository.history(), repository.current().md5
    repository.require_stored(current)
    needed = set(repository.manifest(current).values())
    old: set[str] = set()
    lost = []
    for md5 in dict.fromkeys([*history, *repository.cached()]):
        entries = repository.manifest(md5)
        old |= {obj for name, obj in entries.items() if name in names}
        if not entries and md5 not in accept_missing:
            lost.append(md5)
    if lost:
        raise ResidueError(
            "manifests of earlier versions are lost: what to destroy cannot be listed",
            got=", ".join(lost),
            remedy="restore them to the remote, or accept each by its digest",
        )
    return (old | set(_run_cache_objects(repository, set(history), shared))) - needed


def _leftovers(repository: Repository, shared: bool) -> Iterator[Item]:
    """Unfinished copies, the run-cache and what experiments left."""
    root = repository.root
    own = [store for store in repository.stores.values() if store.is_relative_to(root)]
    for path in sorted(path for store in own for path in store.rglob(".*.tmp")):
        yield file_item(root, path, "unfinished copy", "a copy of rows that was never completed")
    for where, folder in repository.run_caches().items():
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            kept = shared and not _ours(repository, where)
            why = "names outputs of earlier stages" + ("; kept: whose, cannot be told" if kept else "")
            yield Item(RUN, path.relative_to(folder).as_posix(), where, path.stat().st_size, why, kept)
    if (root / _EXPERIMENTS).is_dir():
        yield file_item(root, root / _EXPERIMENTS, "experiments", "copies of earlier workspaces")
    for name in git.git(root, "for-each-ref", "--format=%(refname)", "refs/exps").splitlines():
        yield Item(EXPERIMENT, name, "git", None, "names earlier versions of the data")


def file_item(root: Path, path: Path, kind: str, why: str) -> Item:
    """A file or folder of the workspace that goes.

    Args:
        root: The workspace's top folder.
        path: Below it.
        kind: What it is.
        why: It goes.

    Returns:
        With the size of all its files.
    """
    files = [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]
    size = sum(found.lstat().st_size for found in files)
    return Item(kind, path.relative_to(root).as_posix(), "workspace", size, why)


def _ours(repository: Repository, where: str) -> bool:
    """Whether a store is this workspace's alone, whatever policy says of the remotes."""
    return where == "cache" and repository.own_cache


def _run_cache_objects(repository: Repository, tracked: Collection[str], shared: bool) -> Iterator[str]:
    """What run-cache entries hold: outputs of stages, weights too, whatever `cache: false` says."""
    for where, folder in repository.run_caches().items():
        if shared and not _ours(repository, where):
            continue
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            try:
                outs = yaml.safe_load(path.read_text(encoding="utf-8"))["outs"]
                named = [str(out.get("md5", "")) for out in outs or []]
            except (yaml.YAMLError, UnicodeDecodeError, LookupError, TypeError, AttributeError) as error:
                raise ResidueError(
                    "an entry of the run-cache cannot be read: the objects that it names cannot be listed",
                    expected="one that DVC wrote",
                    got=f"runs/{path.relative_to(folder).as_posix()} in {where}",
                    remedy="remove that file, then run again; nothing was destroyed",
                ) from error
            for md5 in named:
                if md5 and md5 not in tracked:
                    yield md5
                    yield from repository.manifest(md5).values() if md5.endswith(".dir") else ()


def left_to_others(repository: Repository, kept: Iterable[Item]) -> list[Path]:
    """Objects that stay in a shared remote, because another repository needs them.

    Args:
        repository: Whose.
        kept: What purges had to keep.

    Returns:
        Their paths.
    """
    return [object_path(repository.stores[item.where], item.what) for item in kept if item.kind == SHARED]


def destroy_object(repository: Repository, item: Item, needed: Collection[str]) -> None:
    """Delete one object from its store; one that is gone already does no harm.

    Args:
        repository: Whose.
        item: From :func:`superseded`.
        needed: Digests in use as things are: a plan may be old.

    Raises:
        ResidueError: If it is in use again.
    """
    if item.what in needed:
        raise ResidueError(
            "objects of the current version cannot be purged",
            got=item.what,
            remedy="remove the people from the data again",
        )
    path = object_path(repository.stores[item.where], item.what)
    if path.is_file():
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)  # DVC write-protects its cache
        path.unlink()


def destroy_run(repository: Repository, item: Item) -> None:
    """Delete an entry of the run-cache; one that is gone already does no harm.

    Args:
        repository: Whose.
        item: From :func:`superseded`.
    """
    (repository.stores[item.where].parents[1] / "runs" / item.what).unlink(missing_ok=True)


def destroy_experiment(repository: Repository, item: Item) -> None:
    """Delete the git reference of an experiment; one that is gone already does no harm.

    Args:
        repository: Whose.
        item: From :func:`superseded`.
    """
    git.git(repository.root, "update-ref", "-d", item.what)
