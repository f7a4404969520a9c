"""Where the workspace's own MLflow database says that artifacts lie: in whole paths, and a copy has the original's.

Read and rewritten with SQLite alone: the question must be answered before MLflow is asked for anything.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from expunge.errors import WorkspaceError

_EXPERIMENT = "expunge"
_BELOW_ROOT = Path(".expunge") / "mlflow" / "artifacts"


def own_database(state_dir: Path, tracking_uri: str) -> Path | None:
    """The MLflow database inside the workspace.

    Args:
        state_dir: The workspace's ``.expunge``.
        tracking_uri: Of its MLflow.

    Returns:
        The file, there or not; None where MLflow is elsewhere.
    """
    path = state_dir / "mlflow" / "mlflow.db"
    named = tracking_uri.removeprefix("sqlite:///")
    return path if named != tracking_uri and Path(named).resolve() == path.resolve() else None


def stated_root(database: Path) -> Path | None:
    """The top folder of the workspace for which MLflow's database was made.

    Args:
        database: MLflow's, in the workspace.

    Returns:
        Its top folder; None where nothing is registered yet, or artifacts lie in a folder of one's own.

    Raises:
        WorkspaceError: If the database cannot be read.
    """
    if not database.is_file():
        return None
    try:
        with closing(sqlite3.connect(database)) as connection:
            rows = connection.execute(
                "SELECT artifact_location FROM experiments WHERE name = ?", (_EXPERIMENT,)
            ).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise damaged(database, error) from error
    except sqlite3.DatabaseError as error:
        raise damaged(database, error) from error
    parts = urlsplit(str(rows[0][0])) if rows else None
    if parts is None or parts.scheme not in ("", "file"):
        return None
    folder = Path(unquote(parts.path))
    root = folder.parents[2] if len(folder.parents) > 2 else folder
    return root if folder == root / _BELOW_ROOT else None


def rewrite(database: Path, old: Path, new: Path) -> int:
    """Let every path of MLflow's database that leads into the artifacts of one place lead into those of another.

    Args:
        database: MLflow's, in the workspace.
        old: Top folder of the workspace until now.
        new: Top folder of the workspace.

    Returns:
        Number of values that were changed: all of them, or none.

    Raises:
        WorkspaceError: If the database cannot be read.
    """
    if not database.is_file() or old == new:
        return 0
    # As MLflow writes them: as addresses, and as plain paths.
    pairs = [
        ((old / _BELOW_ROOT).as_uri(), (new / _BELOW_ROOT).as_uri()),
        (f"file://{quote(str(old / _BELOW_ROOT))}", (new / _BELOW_ROOT).as_uri()),
        (str(old / _BELOW_ROOT), str(new / _BELOW_ROOT)),
    ]
    changed = 0
    try:
        with closing(sqlite3.connect(database, timeout=10)) as connection, connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                for _, column, kind, *_ in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
                    if not kind.upper().startswith(("VARCHAR", "TEXT")):
                        continue
                    for before, after in dict(pairs).items():
                        # The whole path or one below it: `/a/b` is no beginning of `/a/bc`.
                        done = connection.execute(
                            f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) '
                            f'WHERE "{column}" = ? OR substr("{column}", 1, ?) = ?',
                            (after, len(before) + 1, before, len(before) + 1, f"{before}/"),
                        )
                        changed += done.rowcount
    except sqlite3.DatabaseError as error:
        raise damaged(database, error) from error
    return changed


def require_sound(database: Path) -> None:
    """Refuse a SQLite file that cannot be read, before a library is asked that answers with its own trace.

    Args:
        database: The file, there or not.

    Raises:
        WorkspaceError: If it is no database, or its table of contents is damaged.
    """
    if not database.is_file():
        return
    try:
        with closing(sqlite3.connect(database, timeout=10)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        return  # in use, or not ours to read: whoever opens it says so
    except sqlite3.DatabaseError as error:
        raise damaged(database, error) from error


def damaged(database: Path, error: Exception) -> WorkspaceError:
    """What a database that cannot be read means.

    Args:
        database: The file.
        error: Of SQLite.

    Returns:
        The error to raise.
    """
    return WorkspaceError(
        "a database of the workspace cannot be read",
        expected=f"{database.name} as MLflow or Expunge wrote it",
        got=" ".join(str(error).split())[:200],
        remedy="restore the file from a backup",
    )
