"""Making a workspace: a git + DVC repository with a dataset, its contract, policy, parameters and keys."""

import json
import shutil
import stat
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expunge.database import open_database
from expunge.datasets.catalogue import load
from expunge.datasets.contract import write_contract
from expunge.datasets.partitions import write_partitions
from expunge.datasets.placement import Placement
from expunge.errors import ExpungeError, PolicyError, WorkspaceError
from expunge.evidence.annex import create_auditor_keys
from expunge.evidence.keys import SigningKeys
from expunge.permissions import private_folder
from expunge.pseudonyms import create_key
from expunge.settings import Workspace, load_params, load_policy, template
from expunge.state import PARTITION_KEY, PLACEMENT_FILE, PSEUDONYM_KEY, WORKSPACE_FILE, open_state
from tasks.adapters import git, guard
from tasks.adapters.versioning import Repository
from tasks.coverage import record_dataset
from tasks.place import identity

_IGNORED = ("/.expunge/", "/build/", "__pycache__/")
_TEMPLATES = ("policy.yaml", "params.yaml", "dvc.yaml")
_STARTED = "init.json"
_WRITTEN = (
    *(".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore", "data/contract.yaml", "data/.gitignore"),
    *("data/dataset.dvc", *_TEMPLATES),
)


def create(root: Path, dataset: str, source: Path | None) -> dict[str, Any]:
    """Make a workspace, wholly or not at all.

    Args:
        root: An absent or empty folder, or a git repository without a workspace.
        dataset: Of the catalogue, or one's own folder.
        source: The dataset's files, for those that are not bundled.

    Returns:
        What was made: rows, people, partitions, dataset version.

    Raises:
        WorkspaceError: If the folder is in use.
        DatasetError: If the dataset is not as promised.
    """
    root = root.resolve()
    workspace, existed = Workspace(root), root.exists()
    if (workspace.state / WORKSPACE_FILE).exists():
        raise WorkspaceError("this is a workspace already", got=str(root), remedy="choose another PATH")
    if existed and not root.is_dir():
        raise WorkspaceError("PATH is not a folder", got=str(root), remedy="choose another PATH")
    if existed:
        _require_room(workspace)
    if existed and any(root.iterdir()) and not (root / ".git").exists():
        raise WorkspaceError(
            "the folder is in use",
            expected="an absent or empty folder, or a git repository",
            got=str(root),
            remedy="choose another PATH",
        )
    if workspace.dataset_dir.exists() or workspace.contract_path.exists():
        raise WorkspaceError(
            "the folder holds a dataset already", got="data/dataset", remedy="choose another PATH"
        )
    _require_writable(root)
    loaded = load(
        dataset, source
    )  # everything that can be wrong with the data is found before a file is made
    before = git.head(root) if (root / ".git").exists() else ""
    kept = {name: (root / name).read_bytes() if (root / name).is_file() else None for name in _WRITTEN}
    made = [path for path in (workspace.state, workspace.dataset_dir, root / ".dvc") if not path.exists()]
    started = {"fresh": not (root / ".git").exists(), "head": before}
    mode = stat.S_IMODE(root.stat().st_mode) if existed else None
    private_folder(root)  # before anything is in it
    try:
        private_folder(workspace.state)
        (workspace.state / _STARTED).write_text(json.dumps(started), encoding="utf-8")
        create_key(workspace.keys_dir / PSEUDONYM_KEY)
        create_auditor_keys(workspace.keys_dir)
        SigningKeys(workspace.keys_dir).create(datetime.now(UTC))
        open_database(workspace.database_url).dispose()
        key = create_key(workspace.keys_dir / PARTITION_KEY)
        files = write_partitions(loaded.frame, workspace.dataset_dir, key)
        write_contract(loaded.contract, workspace.contract_path)
        _write_settings(root)
        repository = Repository(root, workspace.state)
        repository.init(workspace.remote_dir)
        tracked = [
            ".gitignore",
            ".dvc/config",
            ".dvc/.gitignore",
            ".dvcignore",
            "data/contract.yaml",
            *_TEMPLATES,
        ]
        git.commit(root, [path for path in tracked if (root / path).exists()], "Make an Expunge workspace")
        version = repository.track_dataset(f"Add dataset {loaded.contract.name}")
        # looked through now, so that the first request need not
        places = Placement(key, workspace.state / PLACEMENT_FILE, loaded.contract.identity)
        places.partitions_of(workspace.dataset_dir, ())
        content = {
            "version": 1,
            **identity(root),
            "lineage": f"expunge-{loaded.contract.name}",
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "salted": True,
        }
        (workspace.state / WORKSPACE_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")
        record_dataset(open_state(root), version.md5)
        guard.install(root)
        (workspace.state / _STARTED).unlink()
    except BaseException:
        for path in made if existed else [root]:
            shutil.rmtree(path, ignore_errors=True)
        if existed:
            _put_back(root, kept, before, fresh=not before and started["fresh"] is True)
        if mode is not None:
            root.chmod(mode)
        raise
    return {
        "workspace": str(root),
        "dataset": loaded.contract.name,
        "read": list(loaded.read),
        "warnings": list(loaded.warnings),
        "rows": len(loaded.frame),
        "subjects": int(loaded.frame["subject_id"].nunique()),
        "spellings": loaded.spellings,
        "normalise": None if loaded.contract.identity.rules is None else list(loaded.contract.identity.rules),
        "partitions": len(files),
        "dataset_md5": version.md5,
        "git_revision": version.git_revision,
        "others_shut_out": mode is not None and bool(mode & 0o077),
    }


def _require_writable(root: Path) -> None:
    """Refuse a place where no folder can be made, before anything else is done."""
    place = next(path for path in (root, *root.parents) if path.exists())
    try:
        Path(tempfile.mkdtemp(dir=place)).rmdir()
    except OSError as error:
        raise WorkspaceError(
            "the folder cannot be written",
            expected="a place where you may make folders",
            got=f"{place}: {error.strerror}",
            remedy="choose another PATH, or have its owner let you write there",
        ) from error


def _require_room(workspace: Workspace) -> None:
    """Refuse a folder whose own files are in the way of a workspace's, or where an earlier init was killed."""
    root = workspace.root
    started = workspace.state / _STARTED
    if workspace.state.exists():
        try:
            found = json.loads(started.read_text(encoding="utf-8"))
            fresh, head = bool(found["fresh"]), str(found["head"])
        except (OSError, ValueError, KeyError, TypeError):
            fresh, head = False, ""
        back = f"`git reset {head[:12]}`, " if head else ""
        raise WorkspaceError(
            "an earlier `expunge init` was stopped here before it was done",
            got=str(root),
            remedy=f"if none is running, remove the folder {root} and run again"
            if fresh
            else f"if none is running: {back}remove .expunge, data/dataset, data/dataset.dvc and data/contract.yaml, "
            "and run again",
        )
    theirs = []
    for name, read in (("policy.yaml", load_policy), ("params.yaml", load_params)):
        try:
            if (root / name).exists():
                read(workspace)
        except PolicyError:
            theirs.append(name)
    own = root / "dvc.yaml"
    if own.exists() and own.read_bytes() != template("dvc.yaml").encode():
        theirs.append("dvc.yaml")
    if theirs:
        raise WorkspaceError(
            "the repository has files of its own where a workspace keeps its settings",
            expected=f"no {' and no '.join(theirs)}, or those of a workspace",
            got=f"others in {root}",
            remedy=f"make it in a folder of its own: `expunge init {root.parent / (root.name + '-expunge')}`",
        )
    if (root / ".git").exists() and guard.in_the_way(root):
        raise WorkspaceError(
            "two git hooks post-checkout are in the way of the guard",
            remedy="make one of post-checkout and post-checkout.before-expunge in the folder of git's hooks",
        )


def _put_back(root: Path, kept: dict[str, bytes | None], before: str, *, fresh: bool) -> None:
    """A repository as it was before an init that failed: its newest commit, its index, its files."""
    if fresh:
        shutil.rmtree(root / ".git", ignore_errors=True)
    for name, content in kept.items():
        if content is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        else:
            (root / name).unlink(missing_ok=True)
    data = root / "data"
    if data.is_dir() and not any(data.iterdir()):
        data.rmdir()
    if fresh or not (root / ".git").exists():
        return
    try:
        if before:
            git.git(root, "reset", "--quiet", "--soft", before)
            git.git(root, "reset", "--quiet", "--", *_WRITTEN)
        else:
            if git.head(root):
                git.git(root, "update-ref", "-d", "HEAD")
            git.git(root, "rm", "--quiet", "--cached", "--ignore-unmatch", "--", *_WRITTEN)
    except ExpungeError:  # git itself is out of order: what failed first is what the reader must know
        return


def _write_settings(root: Path) -> None:
    for name in _TEMPLATES:
        if not (root / name).exists():
            (root / name).write_text(template(name), encoding="utf-8")
    path = root / ".gitignore"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    lines += [line for line in _IGNORED if line not in lines]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
