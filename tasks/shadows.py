"""Shadow models as mapped Prefect tasks: the flow's task runner decides where they are trained.

Parameters and results are a folder and an index; the records lie in a scratch folder that every worker must
reach (one machine, or a shared file system), only as long as the tasks run.
"""

from pathlib import Path
from typing import Any

import torch
from prefect import task, unmapped
from prefect.cache_policies import NO_CACHE
from torch import Tensor

from expunge.attacks.shadows import ShadowCache, ShadowPlan, train_shadow
from expunge.errors import WorkspaceError
from expunge.files import replace_file
from expunge.models.parts import Parts, Source
from expunge.models.spec import ModelSpec
from expunge.models.zoo import parts_of
from expunge.scratch import scratch

_JOB = "job.pt"


def train_shadows_in_flow(
    plan: ShadowPlan,
    features: Tensor,
    labels: Tensor,
    cache: ShadowCache,
    scratch_dir: Path,
    *,
    search: Source = None,
) -> Tensor:
    """Train what is left of a plan, one task a model; to be called in a flow.

    Args:
        plan: The plan.
        features: All encoded records, shape (n, in_features).
        labels: Shape (n,).
        cache: Where models are kept; every worker must reach its folder.
        scratch_dir: Where the records lie meanwhile.
        search: Folder of one's own model, or parts saved with a model.

    Returns:
        Weights of every model, shape (k, d), the same as of :func:`expunge.attacks.shadows.train_shadows`.

    Raises:
        WorkspaceError: If a worker put its model where it cannot be read from here.
        NotConvergedError: If training fails.
    """
    cache.folder.mkdir(parents=True, exist_ok=True)
    left = [index for index in range(plan.count) if cache.read(plan, index) is None]
    with scratch(scratch_dir) as folder:
        job = {
            "spec": plan.spec.to_json(),
            "seeds": list(plan.seeds),
            "members": torch.from_numpy(plan.members),
            "features": features,
            "labels": labels,
            "outputs": [str(cache.path(plan, index).resolve()) for index in range(plan.count)],
            "parts": parts_of(plan.spec, search).to_plain(),
        }
        torch.save(job, folder / _JOB)
        train_shadow_model.map(unmapped(str((folder / _JOB).resolve())), left).result()
    models = [cache.read(plan, index) for index in range(plan.count)]
    if any(model is None for model in models):
        raise WorkspaceError(
            "shadow models are missing",
            expected=f"{len(left)} new files in {cache.folder.name}",
            remedy="let all workers reach the workspace's folder",
        )
    return torch.stack([model for model in models if model is not None])


def _train_shadow_model(job: str, index: int) -> int:
    """Train one shadow model of a job and put it where the job says.

    Args:
        job: File of the job.
        index: Of the model.

    Returns:
        The index: a digest of weights without noise would confirm a guessed record.
    """
    content = torch.load(job, weights_only=True)
    spec = ModelSpec.from_json(content["spec"])
    plan = ShadowPlan(spec, content["members"].numpy(), tuple(content["seeds"]))
    parts = Parts.from_plain(content["parts"])
    weights = train_shadow(plan, index, content["features"], content["labels"], search=parts)
    data = ShadowCache.encode(weights)
    replace_file(Path(content["outputs"][index]), data, mode=0o600)
    return index


train_shadow_model = task(name="train_shadow_model", persist_result=False, cache_policy=NO_CACHE, retries=0)(
    _train_shadow_model
)


def dask_runner(address: str | None = None, *, workers: int = 2) -> Any:
    """A task runner for a flow that trains shadow models on Dask.

    Args:
        address: Of a cluster's scheduler; None to run a cluster of processes on this machine, as long as the flow runs.
        workers: Processes of that cluster, each with one thread.

    Returns:
        The task runner.

    Raises:
        WorkspaceError: If prefect-dask is not installed.
    """
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise WorkspaceError(
            "Dask cannot be used", expected="the package prefect-dask", remedy="install requirements.lock"
        ) from error
    if address is not None:
        return DaskTaskRunner(address=address)
    local = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=local)
