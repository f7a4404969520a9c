"""Other models that were trained on the same people: each keeps a ledger of its own, and nobody sums over them."""

from expunge.state import State
from tasks.adapters import access


def on_the_same_people(state: State) -> list[str]:
    """Other lineages that cover a version of this dataset, as far as it can be seen from here.

    Seen are ledgers in the same database and models in the same MLflow. A copy of the dataset in a workspace that
    shares neither is not.

    Args:
        state: The workspace.

    Returns:
        In words, one line each.
    """
    ours = {entry.dataset_md5 for entry in state.ledger.entries(state.lineage)} - {None}
    repository, registry = access.repository(state), access.registry(state)
    ours |= {*repository.history()}
    found = {
        name: "in the same database"
        for name in state.ledger.lineages()
        if name != state.lineage
        and not ours.isdisjoint(entry.dataset_md5 for entry in state.ledger.entries(name))
    }
    found |= {
        name: "in the same MLflow"
        for name, datasets in registry.datasets_of_others().items()
        if not ours.isdisjoint(datasets)
    }
    lines = [
        f"model {name} ({where}) was trained on the same dataset: its releases compose with these, and no ledger sums "
        "over both (two alike: m times the square root of 2)"
        for name, where in sorted(found.items())
    ]
    if state.policy.purge.shared_remotes:
        lines.append(
            "policy says that other repositories keep data in the DVC remotes (purge.shared_remotes): whether one "
            "trains on these people cannot be seen from here, and its releases would compose with these"
        )
    return lines
