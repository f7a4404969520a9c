"""MLflow dataset source for a DVC-tracked folder: names the version, holds no row."""

from typing import Any

from mlflow.data.dataset_source import DatasetSource

from expunge.errors import InputError


class DvcDatasetSource(DatasetSource):
    """One version of ``data/dataset``.

    Args:
        md5: DVC digest of the folder.
        git_revision: Commit that names it.
    """

    def __init__(self, md5: str, git_revision: str) -> None:
        """Keep both."""
        self.md5, self.git_revision = md5, git_revision

    @staticmethod
    def _get_source_type() -> str:
        return "dvc"

    def load(self, **kwargs: Any) -> Any:
        """Not offered: rows come through the workspace only, where removals hold.

        Raises:
            InputError: Always.
        """
        raise InputError("rows are not loaded through MLflow", remedy="use the workspace's data/dataset")

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return False

    @classmethod
    def _resolve(cls, raw_source: Any) -> "DvcDatasetSource":
        raise NotImplementedError

    def to_dict(self) -> dict[str, str]:
        """What MLflow stores and shows.

        Returns:
            Path, digest and commit.
        """
        return {"path": "data/dataset", "dvc_md5": self.md5, "git_revision": self.git_revision}

    @classmethod
    def from_dict(cls, source_dict: dict[str, str]) -> "DvcDatasetSource":
        """Read what :meth:`to_dict` wrote.

        Args:
            source_dict: The dict.

        Returns:
            The source.
        """
        return cls(source_dict["dvc_md5"], source_dict["git_revision"])
