"""Making a workspace: a git + DVC repository with a dataset, its contract, policy, parameters and keys."""

import json
import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expunge.database import open_database
from expunge.datasets.catalogue import load
from expunge.datasets.contract import write_contract
from expunge.datasets.partitions import write_partitions
from expunge.datasets.placement import Placement
from expunge.errors import WorkspaceError
from expunge.evidence.annex import create_auditor_keys
from expunge.evidence.keys import SigningKeys
from expunge.permissions import private_folder
from expunge.pseudonyms import create_key
from expunge.settings import Workspace, template
from expunge.state import PARTITION_KEY, PLACEMENT_FILE, PSEUDONYM_KEY, WORKSPACE_FILE, open_state
from tasks.adapters import git, guard
from tasks.adapters.versioning import Repository
from tasks.coverage import record_dataset
from tasks.place import identity

_IGNORED = ("/.expunge/", "/build/", "__pycache__/")
_TEMPLATES = ("policy.yaml", "params.yaml", "dvc.yaml")


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
    loaded = load(
        dataset, source
    )  # everything that can be wrong with the data is found before a file is made
    made = [path for path in (workspace.state, workspace.dataset_dir, root / ".dvc") if not path.exists()]
    mode = stat.S_IMODE(root.stat().st_mode) if existed else None
    private_folder(root)  # before anything is in it
    try:
        private_folder(workspace.state)
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
        guard.install(root)
        content = {
            "version": 1,
            **identity(root),
            "lineage": f"expunge-{loaded.contract.name}",
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "salted": True,
        }
        (workspace.state / WORKSPACE_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")
        record_dataset(open_state(root), version.md5)
    except BaseException:
        for path in made if existed else [root]:
            shutil.rmtree(path, ignore_errors=True)
        if mode is not None:
            root.chmod(mode)
        raise
    return {
        "workspace": str(root),
        "dataset": loaded.contract.name,
        "rows": len(loaded.frame),
        "subjects": int(loaded.frame["subject_id"].nunique()),
        "spellings": loaded.spellings,
        "normalise": None if loaded.contract.identity.rules is None else list(loaded.contract.identity.rules),
        "partitions": len(files),
        "dataset_md5": version.md5,
        "git_revision": version.git_revision,
        "others_shut_out": mode is not None and bool(mode & 0o077),
    }


def _write_settings(root: Path) -> None:
    for name in _TEMPLATES:
        if not (root / name).exists():
            (root / name).write_text(template(name), encoding="utf-8")
    path = root / ".gitignore"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    lines += [line for line in _IGNORED if line not in lines]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
