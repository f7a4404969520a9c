"""Kept curvature: built from the retain set after a release, for the next request alone."""

import torch

from expunge.datasets.partitions import read_dataset
from expunge.datasets.preprocessing import encode
from expunge.devices import device_in_use
from expunge.errors import WorkspaceError
from expunge.evidence.model_files import model_digest
from expunge.models.kept import keeps, kept_path, rebuild_kept
from expunge.models.serving import load_model
from expunge.scratch import scratch
from expunge.state import open_state
from tasks.adapters import access
from tasks.coverage import record_curvature
from tasks.step import Timer, log, step


@step
def keep_curvature(batch_id: str = "") -> bool:
    """Build the champion's curvature from the current dataset; what was kept before is destroyed.

    Args:
        batch_id: The batch that is charged with the time; none after a training.

    Returns:
        Whether anything is kept; only linearised models have it.

    Raises:
        WorkspaceError: If there is no champion.
    """
    state, timer = open_state(), Timer()
    workspace, registry = state.workspace, access.registry(state)
    champion = registry.champion()
    if champion is None:
        raise WorkspaceError("there is no model yet", remedy="run `expunge train`")
    with scratch(workspace.scratch_dir) as place:
        folder = registry.download(champion, place)
        digest, model = model_digest(folder), load_model(folder, workspace.root)
    path = kept_path(workspace.curvature_dir, digest)
    if keeps(model.spec):
        record_curvature(state, champion, path)
    if path.is_file():  # repeating does no harm
        return True
    frame = read_dataset(workspace.dataset_dir)
    encoded = encode(frame[frame["split"] == "train"], model.preprocessing)
    with device_in_use() as device:
        kept = rebuild_kept(
            workspace.curvature_dir,
            digest,
            model.spec,
            model.weights,
            torch.from_numpy(encoded.features),
            torch.from_numpy(encoded.labels),
            workspace.root,
            device,
        )
    if batch_id:
        batch = state.batches.get(batch_id)
        state.batches.record(batch_id, seconds=timer.seconds(batch.data, "curvature"))
    log("curvature kept for the next request" if kept else "no curvature is kept for this model")
    return kept
