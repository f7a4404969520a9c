"""MLflow: registered model versions, their evidence, and destruction of superseded weights.

Deleting a version and its run, then `mlflow gc`, leaves the weights and destroys the evidence; gc also wants the
server's own database. What works everywhere: keep run and version, delete the *logged model's* artifacts through its
artifact store, make sure that none is listed any more, then delete the logged model.
"""

import logging
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import InputError, ServiceUnavailableError, WorkspaceError
from expunge.evidence.model_files import MODEL_FILE, WEIGHTS_FILE
from tasks.adapters.artifact_folders import folder_of
from tasks.adapters.mlflow_artifacts import (
    artifact_bytes,
    destroy_artifacts,
    experiment_locations,
    pages,
    require_seen,
    translated,
)
from tasks.adapters.mlflow_places import require_sound
from tasks.adapters.mlflow_runs import VersionSpec, log_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALIAS = "champion"
BATCH_TAG = "expunge.batch"
_MODEL_TAG = "expunge.logged_model"  # MLflow does not return a version's model id again
PURGED_TAG = "weights.purged_at"
QUARANTINE_TAG = "quarantined.until"
ROLLED_BACK_TAG = "rolled_back"
EVIDENCE_TAG = "evidence"  # names of the files of the run
UNDONE = " (rolled back)"
_DATASET_TAGS = ("dataset_md5", "dataset_before", "dataset_after")
_EXPERIMENT = "expunge"
_ABSENT = (
    "RESOURCE_DOES_NOT_EXIST",
    "INVALID_PARAMETER_VALUE",
)  # MLflow's answers where there is no such thing


@dataclass(frozen=True)
class Version:
    """A registered version.

    Args:
        version: Its number.
        run_id: Of its source run.
        logged_model_id: Of its weights.
        tags: Of the version.
    """

    version: int
    run_id: str
    logged_model_id: str
    tags: Mapping[str, str]


class Registry:
    """One registered model in an MLflow tracking store or server.

    Args:
        tracking_uri: ``sqlite:///...`` or ``http(s)://...``.
        artifacts: Artifact folder, for a store without a server.
        name: Of the registered model.
        trusted: Whether the operator vouches for the folder behind a server that nobody here can look into.
    """

    def __init__(self, tracking_uri: str, artifacts: Path, name: str, *, trusted: bool = False) -> None:
        """Connect lazily; MLflow is imported at first use."""
        self.name = name
        self._trusted = trusted
        self._uri = tracking_uri
        self._artifacts = artifacts
        self._client: MlflowClient | None = None

    @property
    def client(self) -> "MlflowClient":
        """The MLflow client.

        Raises:
            ServiceUnavailableError: If the server does not answer.
        """
        if self._client is None:
            os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
            os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # `--json` prints one document
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
            for noisy in ("mlflow", "alembic", "mlflow.store.db"):
                logging.getLogger(noisy).setLevel(logging.ERROR)
            warnings.filterwarnings("ignore", module="mlflow")
            import mlflow

            for noisy in ("mlflow", "alembic"):
                logging.getLogger(noisy).setLevel(logging.ERROR)
            if self._uri.startswith("sqlite:///"):
                file = Path(self._uri.removeprefix("sqlite:///"))
                file.parent.mkdir(parents=True, exist_ok=True)
                require_sound(file)
            named = os.environ.get("MLFLOW_TRACKING_URI")
            mlflow.set_tracking_uri(self._uri)
            mlflow.set_registry_uri(self._uri)
            # MLflow writes it to the environment, where the next workspace of this process would read it
            os.environ.pop("MLFLOW_TRACKING_URI", None)
            if named is not None:
                os.environ["MLFLOW_TRACKING_URI"] = named
            client = mlflow.MlflowClient(self._uri, self._uri)
            try:
                if client.get_experiment_by_name(_EXPERIMENT) is None:
                    local = None
                    if not self._uri.startswith("http"):
                        self._artifacts.mkdir(parents=True, exist_ok=True)
                        local = self._artifacts.resolve().as_uri()
                    client.create_experiment(_EXPERIMENT, artifact_location=local)
            except mlflow.MlflowException as error:
                raise ServiceUnavailableError(
                    "MLflow cannot be reached",
                    expected=self._uri.split("@")[-1],
                    got=" ".join(str(error).split())[:200],
                    remedy="start it, or correct MLFLOW_TRACKING_URI",
                ) from error
            self._client = client
        return self._client

    @property
    def experiment_id(self) -> str:
        """Of the experiment that has the runs of all versions."""
        found: Any = self.client.get_experiment_by_name(_EXPERIMENT)  # made with the client
        return str(found.experiment_id)

    @translated
    def require_artifacts_seen(self) -> bool:
        """Refuse a store of artifacts that no purge could vouch for; nothing is changed.

        Returns:
            Whether all of them lie in folders that were looked into; False where the operator's word stands for one.

        Raises:
            WorkspaceError: If artifacts are in an object store, or behind a server whose folder is not known; or if the
                weights that serve are not where they should be.
        """
        champion, locations = self.champion(), experiment_locations(self.client)
        if champion is not None:
            weights = self.client.get_logged_model(champion.logged_model_id).artifact_location
            self._require_own(weights)
            require_seen(weights, trusted=self._trusted)
            locations.append(weights)
        return None not in [folder_of(location, trusted=self._trusted) for location in locations]

    @translated
    def register(self, spec: VersionSpec) -> Version:
        """Register a model with its evidence; registering the same batch again finds the first version.

        Args:
            spec: What.

        Returns:
            The version.
        """
        found = self.find(spec.batch)
        if found is not None:
            return found
        client = self.client
        self._drop_half_made(spec.batch)
        tags = {**spec.tags, BATCH_TAG: spec.batch, EVIDENCE_TAG: ",".join(spec.names)}
        run_id, logged_model_id = log_run(client, self.experiment_id, spec, tags)
        if not any(
            model.name == self.name for model in client.search_registered_models(f"name = '{self.name}'")
        ):
            client.create_registered_model(self.name)
        version = client.create_model_version(
            self.name,
            source=f"models:/{logged_model_id}",
            run_id=run_id,
            tags={**tags, _MODEL_TAG: logged_model_id},
            model_id=logged_model_id,
        )
        return _version(version)

    def _drop_half_made(self, batch: str) -> None:
        """A run that a crash left without a version is not evidence of anything: its weights go, and it is marked."""
        for run in self.client.search_runs([self.experiment_id], f"tags.`{BATCH_TAG}` = '{batch}'"):
            if self.client.search_model_versions(f"run_id = '{run.info.run_id}'"):
                continue  # of another workspace on this server, whose first training has the same key
            for model in self.client.search_logged_models(
                [self.experiment_id], filter_string=f"source_run_id = '{run.info.run_id}'"
            ):
                self._require_own(model.artifact_location)
                destroy_artifacts(model.artifact_location, trusted=self._trusted)
                self.client.delete_logged_model(model.model_id)
            self.client.set_tag(run.info.run_id, BATCH_TAG, f"{batch} (abandoned)")
            self.client.set_terminated(run.info.run_id, "KILLED")

    @translated
    def attach(self, version: Version, name: str, content: Mapping[str, Any]) -> None:
        """Add a document to a version's run; repeating it does no harm.

        Args:
            version: Whose.
            name: Of the file.
            content: Plain data.
        """
        self.client.log_dict(version.run_id, dict(content), name)

    @translated
    def find(self, batch: str) -> Version | None:
        """The version that a batch registered.

        Args:
            batch: Key of the registration.

        Returns:
            The version, if there is one.
        """
        return next((found for found in self.versions() if found.tags.get(BATCH_TAG) == batch), None)

    @translated
    def versions(self) -> list[Version]:
        """Every version.

        Returns:
            Versions, the first one first.
        """
        found = self.client.search_model_versions(f"name = '{self.name}'")
        return sorted((_version(version) for version in found), key=lambda version: version.version)

    @translated
    def datasets_of_others(self) -> dict[str, set[str]]:
        """Which dataset versions other registered models of the same store were trained on.

        Returns:
            DVC digests, by name of the model.
        """
        found: dict[str, set[str]] = {}
        for version in pages(self.client.search_model_versions):
            if version.name != self.name:
                named = {version.tags[tag] for tag in _DATASET_TAGS if tag in version.tags}
                found.setdefault(version.name, set()).update(named)
        return found

    @translated
    def next_version(self) -> int:
        """Number that the next registration will get; the caller holds the lineage's lease.

        Returns:
            One more than the highest.
        """
        return 1 + max((found.version for found in self.versions()), default=0)

    @translated
    def get(self, number: int) -> Version:
        """A version by number.

        Args:
            number: Of the version.

        Returns:
            The version.

        Raises:
            InputError: If there is none.
        """
        import mlflow

        try:
            version = self.client.get_model_version(self.name, str(number))
        except mlflow.MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
            raise InputError("no such model version", got=f"{self.name} {number}") from error
        return _version(version)

    @translated
    def champion(self) -> Version | None:
        """The version that serves.

        Returns:
            The version behind the alias, if there is one.
        """
        import mlflow

        try:
            version = self.client.get_model_version_by_alias(self.name, ALIAS)
        except mlflow.MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
            return None
        return _version(version)

    @translated
    def promote(self, number: int) -> None:
        """Move the alias: the one pointer flip.

        Args:
            number: Of the version that is to serve.
        """
        self.client.set_registered_model_alias(self.name, ALIAS, str(number))

    @translated
    def roll_back(self, number: int, target: int, at: str) -> None:
        """Let an earlier version serve, and mark the one that served; repeating it does no harm.

        Its batch registers another version later, so the batch is not found by this one any more.

        Args:
            number: Of the version that served.
            target: Of the version that is to serve.
            at: When, for the tag.
        """
        self.promote(target)
        version = self.get(number)
        if ROLLED_BACK_TAG in version.tags:
            return
        batch = f"{version.tags[BATCH_TAG].removesuffix(UNDONE)}{UNDONE}"
        self.client.set_tag(version.run_id, BATCH_TAG, batch)
        self.client.set_tag(version.run_id, ROLLED_BACK_TAG, at)
        self.tag(number, BATCH_TAG, batch)
        self.tag(number, ROLLED_BACK_TAG, at)  # last: it says that all is done

    @translated
    def tag(self, number: int, name: str, value: str) -> None:
        """Tag a version.

        Args:
            number: Of the version.
            name: Of the tag.
            value: Without personal data.
        """
        self.client.set_model_version_tag(self.name, str(number), name, value)

    @translated
    def mark(self, version: Version, name: str, value: str) -> None:
        """Tag a version and its run.

        Args:
            version: Which.
            name: Of the tag.
            value: Without personal data.
        """
        self.client.set_tag(version.run_id, name, value)
        self.tag(version.version, name, value)  # the version last: what is looked for

    @translated
    def metrics(self, version: Version) -> dict[str, float]:
        """Metrics of a version's run.

        Args:
            version: Whose.

        Returns:
            Values by name.
        """
        return dict(self.client.get_run(version.run_id).data.metrics)

    def published_accuracy(self, number: int) -> float:
        """Test accuracy of a version as it was published with it; nothing is measured again.

        Args:
            number: Of the version.

        Returns:
            In [0, 1].

        Raises:
            InputError: If somebody has taken it out of the version's run.
        """
        found = self.metrics(self.get(number)).get("accuracy")
        if found is None or not 0 <= found <= 1:
            raise InputError(
                f"the test accuracy of version {number} is not known, and nothing is compared with a guess",
                expected="the metric `accuracy` of its MLflow run, between 0 and 1, as it was published",
                got="none" if found is None else repr(found),
                remedy="log it to that run again",
            )
        return float(found)

    @translated
    def download(self, version: Version, destination: Path) -> Path:
        """Fetch a version's saved model.

        Args:
            version: Whose.
            destination: A folder; emptied first.

        Returns:
            Folder of the saved model.

        Raises:
            InputError: If its weights were purged, or are in quarantine and it does not serve.
            WorkspaceError: If nothing lies where they should be.
        """
        if QUARANTINE_TAG in version.tags and PURGED_TAG not in version.tags:
            champion = self.champion()
            if champion is None or champion.version != version.version:
                raise InputError(
                    f"the weights of version {version.version} are in quarantine",
                    expected="a version that was not superseded by an erasure",
                    got=f"one that is kept until {version.tags[QUARANTINE_TAG]}, out of use",
                    remedy="use the current version",
                )
        if PURGED_TAG in version.tags:
            raise InputError(
                f"the weights of version {version.version} were purged",
                expected="a version that still has weights",
                got=version.tags[PURGED_TAG],
                remedy="use the current version: purged ones cannot come back",
            )
        shutil.rmtree(destination, ignore_errors=True)
        destination.mkdir(parents=True)
        import mlflow

        uri = self.client.get_logged_model(version.logged_model_id).artifact_location
        if not artifact_bytes(uri):
            raise WorkspaceError(
                f"the weights of version {version.version} are not there",
                expected="the files of a saved model where MLflow has them",
                got="none",
                remedy="restore them from a backup into MLflow's artifacts",
            )
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(destination)))
        files = [*folder.rglob(MODEL_FILE), *folder.rglob(WEIGHTS_FILE)]
        return files[0].parent if files else folder

    def _embedded(self) -> bool:
        """Whether MLflow is a database beside its artifacts, as in a workspace without a server."""
        file = self._uri.removeprefix("sqlite:///")
        return file != self._uri and Path(file).resolve().parent == self._artifacts.resolve().parent

    def _require_own(self, location: str) -> None:
        """Refuse to destroy what lies outside of the workspace's own artifacts: it may be another workspace's.

        Raises:
            WorkspaceError: If it does; nothing is changed then.
        """
        folder = folder_of(location, trusted=self._trusted) if self._embedded() else None
        if folder is not None and not folder.resolve().is_relative_to(self._artifacts.resolve()):
            raise WorkspaceError(
                "MLflow has weights outside of this workspace, and no purge destroys what may be another one's",
                expected=f"a folder below {self._artifacts}",
                got=str(folder),
                remedy="run `expunge workspace relocate` if the workspace was moved; else move the weights back",
            )

    @translated
    def require_weights(self, number: int) -> None:
        """Refuse a version whose weights are not where MLflow has them: what is absent was not purged.

        Args:
            number: Of a version that is not purged.

        Raises:
            WorkspaceError: If nothing lies there; nothing is changed then.
        """
        location = self.client.get_logged_model(self.get(number).logged_model_id).artifact_location
        self._require_own(location)
        folder = folder_of(location, trusted=self._trusted)
        # A folder that is there and empty was emptied by somebody: then this is known.
        if artifact_bytes(location) or (folder is not None and folder.is_dir()):
            return
        raise WorkspaceError(
            f"the weights of version {number} are not there, and what is absent was not purged",
            expected="files where MLflow has them",
            got=f"no folder {folder}" if folder is not None else "none listed",
            remedy="restore them from a backup; or, if somebody deleted them, say so by an empty folder in their place",
        )

    @translated
    def unnamed_weights(self) -> list[Path]:
        """Weights in the workspace's own artifacts that belong to no version with weights, of whatever model.

        Returns:
            Folders of saved models; none where MLflow is not the workspace's own.
        """
        if not self._embedded() or not self._artifacts.is_dir():
            return []
        import mlflow

        named: list[Path] = []
        for version in pages(self.client.search_model_versions):
            if PURGED_TAG in version.tags:
                continue
            try:
                found = self.client.get_logged_model(version.tags.get(_MODEL_TAG) or version.model_id)
            except mlflow.MlflowException as error:
                if error.error_code not in _ABSENT:
                    raise
                continue
            if (folder := folder_of(found.artifact_location, trusted=self._trusted)) is not None:
                named.append(folder.resolve())
        there = sorted(
            path.parent
            for path in self._artifacts.rglob(WEIGHTS_FILE)
            if path.with_name(MODEL_FILE).is_file()
        )
        return [one for one in there if not any(one.resolve().is_relative_to(folder) for folder in named)]

    @translated
    def weights_size(self, number: int) -> int | None:
        """How many bytes the weights of a version take.

        Args:
            number: Of the version.

        Returns:
            Bytes; None where a purge was interrupted that had destroyed them.
        """
        import mlflow

        try:
            location = self.client.get_logged_model(self.get(number).logged_model_id).artifact_location
        except mlflow.MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
            return None
        return artifact_bytes(location)

    @translated
    def purge_weights(self, number: int) -> None:
        """Destroy a version's weights; run and version stay as evidence; repeating it does no harm.

        Args:
            number: Of the version.

        Raises:
            ResidueError: If files are still there.
        """
        version = self.get(number)
        if PURGED_TAG in version.tags:
            return
        import mlflow

        try:
            location = self.client.get_logged_model(version.logged_model_id).artifact_location
            self._require_own(location)
            destroy_artifacts(location, trusted=self._trusted)
            # after the bytes: an interrupted purge finds it again
            self.client.delete_logged_model(version.logged_model_id)
        except mlflow.MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
            # destroyed by a purge that was interrupted before it could tag
        self.tag(number, PURGED_TAG, datetime.now(UTC).isoformat(timespec="seconds"))


def _version(found: Any) -> Version:
    """Ours, of MLflow's."""
    return Version(int(found.version), str(found.run_id), found.tags[_MODEL_TAG], dict(found.tags))
