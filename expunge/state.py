"""An opened workspace: its settings, keys and stores in one place."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from expunge.database import Database, open_database
from expunge.datasets.contract import DatasetContract, read_contract
from expunge.datasets.placement import Placement
from expunge.errors import BatchWaitsError, WorkspaceError
from expunge.evidence.coverage_store import CoverageStore
from expunge.evidence.keys import SigningKeys
from expunge.evidence.store import LedgerStore
from expunge.permissions import tighten
from expunge.pseudonyms import Pseudonymiser, load_key, load_keyring
from expunge.settings import Params, Policy, Workspace, load_params, load_policy
from expunge.tickets.batches import BatchStore
from expunge.tickets.dataset_head import DatasetHead
from expunge.tickets.deadlines import Deadlines
from expunge.tickets.epochs import KeyEpochs
from expunge.tickets.holds import Holds
from expunge.tickets.purge_journal import PurgeJournal
from expunge.tickets.purge_waits import reason_to_wait
from expunge.tickets.store import TicketStore
from expunge.tickets.suppression import Suppression

PSEUDONYM_KEY = "pseudonym-1.key"
PARTITION_KEY = "partition.key"
PLACEMENT_FILE = "placement.json"
WORKSPACE_FILE = "workspace.json"


@dataclass(frozen=True)
class State:
    """Everything that work in a workspace starts from.

    Args:
        workspace: Where.
        lineage: Name of the registered model, and of its ledger.
        policy: policy.yaml.
        params: params.yaml.
        contract: Of the dataset.
        database: Opened.
        pseudonymiser: For subjects.
        tickets: Ticket store.
        deadlines: Of the tickets.
        batches: Batch store.
        purges: Journal of purges.
        holds: What legal holds stop.
        ledger: Ledger store.
        suppressed: Who was removed and may not come back.
        epochs: Of the pseudonym keys.
        coverage: The coverage map.
        head: The newest dataset version.
        salted: Whether files that saw people have carried nonces since the workspace was made: what an earlier release
            wrote did not, and its digests stay in git and the ledger.
    """

    workspace: Workspace
    lineage: str
    policy: Policy
    params: Params
    contract: DatasetContract
    database: Database
    pseudonymiser: Pseudonymiser
    tickets: TicketStore
    deadlines: Deadlines
    batches: BatchStore
    purges: PurgeJournal
    holds: Holds
    ledger: LedgerStore
    suppressed: Suppression
    epochs: KeyEpochs
    coverage: CoverageStore
    head: DatasetHead
    salted: bool

    @property
    def signing(self) -> SigningKeys:
        """Keys that sign evidence and model files."""
        return SigningKeys(self.workspace.keys_dir)

    @property
    def placement(self) -> Placement:
        """Which partitions of the dataset can hold a person."""
        return Placement(
            load_key(self.workspace.keys_dir / PARTITION_KEY),
            self.workspace.state / PLACEMENT_FILE,
            self.contract.identity,
        )

    def waiting(self) -> dict[str, str]:
        """Batches that cannot go on as things are; no failure.

        Returns:
            Why, by batch id, oldest batch first: a hold, an approval that is missing, or a quarantine.
        """
        held, unfinished, now = self.holds.waiting(), self.batches.unfinished(), datetime.now(UTC)
        found = {
            batch.batch_id: held.get(batch.batch_id) or reason_to_wait(batch, self.policy, now, unfinished)
            for batch in unfinished
        }
        return {batch_id: why for batch_id, why in found.items() if why}

    def require_free(self, batch_id: str) -> None:
        """Refuse a batch that cannot go on, before a stage of it begins.

        Args:
            batch_id: Of the batch.

        Raises:
            BatchWaitsError: If it waits.
        """
        why = self.waiting().get(batch_id)
        if why is not None:
            raise BatchWaitsError(why)


def open_state(path: Path | None = None) -> State:
    """Open a workspace.

    Args:
        path: Its top folder; found as :meth:`Workspace.find` does.

    Returns:
        The state.

    Raises:
        WorkspaceError: If there is no workspace, or a part is missing or damaged.
        PolicyError: If policy.yaml or params.yaml is not valid.
        ServiceUnavailableError: If the database cannot be reached.
    """
    workspace = Workspace.find(path)
    tighten(workspace)
    try:
        content = json.loads((workspace.state / WORKSPACE_FILE).read_text(encoding="utf-8"))
        lineage = str(content["lineage"])
    except (ValueError, KeyError) as error:
        raise WorkspaceError(
            f"{WORKSPACE_FILE} is damaged", expected="the file that `expunge init` wrote", remedy="restore it"
        ) from error
    policy, params, contract = (
        load_policy(workspace),
        load_params(workspace),
        read_contract(workspace.contract_path),
    )
    database = open_database(workspace.database_url)
    epochs = KeyEpochs(database, workspace.keys_dir)
    epochs.require()  # first: it destroys what must not be loaded any more
    pseudonymiser = load_keyring(workspace.keys_dir, contract.identity)
    return State(
        workspace=workspace,
        lineage=lineage,
        policy=policy,
        params=params,
        contract=contract,
        database=database,
        pseudonymiser=pseudonymiser,
        tickets=TicketStore(database, pseudonymiser, policy.laws),
        deadlines=Deadlines(database, policy.laws),
        batches=BatchStore(database),
        purges=PurgeJournal(database),
        holds=Holds(database),
        ledger=LedgerStore(database, SigningKeys(workspace.keys_dir)),
        suppressed=Suppression(database, pseudonymiser),
        epochs=epochs,
        coverage=CoverageStore(database),
        head=DatasetHead(database),
        salted=content.get("salted") is True,
    )
