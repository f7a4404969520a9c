"""The MLflow run of a version: the saved model, its datasets before and after, its metrics, and the evidence."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

_LOADER = "expunge.models.serving"
AFTER, BEFORE = "training", "before removal"  # contexts of a run's datasets


@dataclass(frozen=True)
class DatasetRef:
    """One version of the dataset.

    Args:
        md5: DVC digest of its folder.
        git_revision: Commit that names it.
    """

    md5: str
    git_revision: str


@dataclass(frozen=True)
class VersionSpec:
    """What is registered.

    Args:
        model_dir: Folder of a saved model.
        example: A synthetic input.
        output: What the model says to it, for the signature.
        batch: Key of the registration: registering it again finds the first.
        run_name: Without personal data.
        tags: Of run and version.
        metrics: Of the model.
        params: Of the model.
        after: The dataset that the model is of.
        before: The dataset before the removal, if there was one.
        artifacts: Local files by name in the run.
        documents: Plain data by name in the run.
    """

    model_dir: Path
    example: "pd.DataFrame"
    output: "pd.DataFrame"
    batch: str
    run_name: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    params: Mapping[str, Any]
    after: DatasetRef
    before: DatasetRef | None = None
    artifacts: Mapping[str, Path] = field(default_factory=dict)
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of the run's files."""
        return sorted([*self.artifacts, *self.documents])


def log_run(
    client: "MlflowClient", experiment_id: str, spec: VersionSpec, tags: Mapping[str, str]
) -> tuple[str, str]:
    """Log a version's run.

    Args:
        client: Of the tracking store, which is MLflow's current one.
        experiment_id: Where.
        spec: What.
        tags: Of the run.

    Returns:
        Ids of the run and of the logged model.
    """
    import mlflow
    from mlflow.models import infer_signature

    with mlflow.start_run(experiment_id=experiment_id, run_name=spec.run_name, tags=dict(tags)) as run:
        mlflow.log_params(dict(spec.params))
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module=_LOADER,
            data_path=str(spec.model_dir),
            signature=infer_signature(spec.example, spec.output),
            input_example=spec.example,
            pip_requirements=["expunge"],
        )
        for context, dataset in _datasets(spec):
            mlflow.log_input(dataset, context=context)
        mlflow.log_metrics(dict(spec.metrics), model_id=logged.model_id)
        for name, path in spec.artifacts.items():
            _log_as(client, run.info.run_id, path, name)
        for name, content in spec.documents.items():
            client.log_dict(run.info.run_id, dict(content), name)
    return run.info.run_id, logged.model_id


def _log_as(client: "MlflowClient", run_id: str, path: Path, name: str) -> None:
    """Log a file under another name than its own."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / name
        shutil.copyfile(path, copy)
        client.log_artifact(run_id, str(copy))


def _datasets(spec: VersionSpec) -> Iterator[tuple[str, Any]]:
    """Datasets that name their DVC version and hold no row, each with its context."""
    from mlflow.data.meta_dataset import MetaDataset

    from tasks.adapters.dvc_source import DvcDatasetSource

    for context, ref in ((BEFORE, spec.before), (AFTER, spec.after)):
        if ref is not None:
            source = DvcDatasetSource(md5=ref.md5, git_revision=ref.git_revision)
            yield (
                context,
                MetaDataset(  # type: ignore[abstract]
                    source=source, name="data/dataset", digest=ref.md5.removesuffix(".dir")[:32]
                ),
            )
