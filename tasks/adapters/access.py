"""From an opened workspace to the outside tools that serve it."""

from expunge.state import State
from tasks.adapters.registry import Registry
from tasks.adapters.versioning import Repository


def repository(state: State) -> Repository:
    """The workspace's git + DVC repository.

    Args:
        state: The workspace.

    Returns:
        The adapter.
    """
    return Repository(state.workspace.root, state.workspace.state)


def registry(state: State) -> Registry:
    """The workspace's registered model.

    Args:
        state: The workspace.

    Returns:
        The adapter.
    """
    return Registry(
        state.workspace.tracking_uri,
        state.workspace.mlflow_artifacts,
        state.lineage,
        trusted=state.policy.purge.artifact_server == "trusted",
    )
