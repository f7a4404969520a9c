"""Training: DVC reproduces the stages, MLflow registers the first version, the ledger opens."""

from expunge.datasets.partitions import read_dataset
from expunge.datasets.preprocessing import synthetic_example
from expunge.devices import chosen_device
from expunge.errors import WorkspaceError
from expunge.evidence.model_files import model_digest
from expunge.models.parts import Parts
from expunge.models.serving import load_model
from expunge.models.spec import require_declared
from expunge.stages import MODEL_FOLDER, metrics
from expunge.state import open_state
from tasks.adapters import access, git
from tasks.adapters.mlflow_runs import DatasetRef, VersionSpec
from tasks.adapters.model_pages import write_pages
from tasks.coverage import record_dataset, record_model
from tasks.ingest import finish_import
from tasks.ledger import append, record_move
from tasks.place import require_place
from tasks.policy import record_policy
from tasks.step import log, step

OPENING = "opening"


@step
def reproduce() -> None:
    """Run the out-of-date stages of dvc.yaml; their processes choose the same device."""
    chosen_device()  # refused before anything is changed
    state = open_state()
    require_place(state)
    registry = access.registry(state)
    registry.require_artifacts_seen()
    if registry.champion() is not None:
        raise WorkspaceError(
            "this lineage is trained already",
            expected="a workspace without a model",
            got="a champion version",
            remedy="`expunge run` unlearns; `expunge train --again` trains on the dataset as it is now; a model of "
            "another kind wants a new workspace",
        )
    require_declared(state.params.model.name, state.params.model)
    finish_import(state)
    access.repository(state).reproduce()


@step
def register_opening() -> int:
    """Register the trained model as version 1 and open the ledger.

    Returns:
        The version's number.
    """
    state = open_state()
    workspace, repo, registry = state.workspace, access.repository(state), access.registry(state)
    folder = workspace.build_dir / MODEL_FOLDER
    model = load_model(folder, workspace.root)
    own = model.search.code if isinstance(model.search, Parts) else ()
    tracked = [
        name for name in ("dvc.lock", "params.yaml", "policy.yaml", *own) if (workspace.root / name).is_file()
    ]
    revision = git.commit(workspace.root, tracked, "Train the first version")
    data = repo.current()
    record_dataset(state, data.md5)
    example = synthetic_example(model.preprocessing)
    measured = metrics(model, read_dataset(workspace.dataset_dir))
    digest = model_digest(folder)
    version = registry.register(
        VersionSpec(
            model_dir=folder,
            example=example,
            output=model.predict(example),
            batch=OPENING,
            run_name="train",
            tags={
                "dataset_md5": data.md5,
                "git_revision": revision,
                "model_digest": digest,
                "mechanism": "train",
            },
            metrics=measured,
            params={"model": model.spec.name, **state.params.training.model_dump()},
            after=DatasetRef(data.md5, data.git_revision),
        )
    )
    record_model(state, version)
    append(
        state,
        kind="opening",
        model_digest=digest,
        dataset_md5=data.md5,
        mechanism="train",
        details={"model_version": version.version, "git_revision": revision},
    )
    record_policy(state)
    record_move(state, None, version.version)
    write_pages(registry, current=version.version)  # first: a lineage that serves is not trained again
    registry.promote(version.version)
    log(f"registered version {version.version} of {state.lineage}")
    return version.version
