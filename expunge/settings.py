"""The workspace, and the two files that govern it: policy.yaml and params.yaml."""

import os
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from expunge.errors import PolicyError, WorkspaceError
from expunge.organisation import OrganisationPolicy
from expunge.regimes import LAWS, NAME, Regime

GuaranteeClass = Literal["exact", "unconditional", "convex", "conditional"]
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Workspace:
    """Where everything of one lineage lies: a git + DVC repository with a git-ignored ``.expunge`` folder.

    Args:
        root: The repository's top folder.

    Example:
        >>> Workspace(Path("w")).dataset_dir.as_posix()
        'w/data/dataset'
    """

    root: Path

    @classmethod
    def find(cls, path: Path | None = None) -> "Workspace":
        """Find the workspace: ``path``, else ``EXPUNGE_WORKSPACE``, else the nearest one upwards from here.

        Args:
            path: A workspace's top folder.

        Returns:
            The workspace.

        Raises:
            WorkspaceError: If there is none.
        """
        named = path or (
            Path(os.environ["EXPUNGE_WORKSPACE"]) if os.environ.get("EXPUNGE_WORKSPACE") else None
        )
        start = (named or Path.cwd()).resolve()
        for candidate in [start] if named else [start, *start.parents]:
            if (candidate / ".expunge" / "workspace.json").is_file():
                return cls(candidate)
            if all((candidate / name).exists() for name in ("data/contract.yaml", "policy.yaml", ".dvc")):
                raise WorkspaceError(
                    "this is a git clone of a workspace, without its tickets, keys, models and evidence",
                    expected="the workspace itself",
                    got=str(candidate),
                    remedy="work there; `dvc pull` brings the data here once `expunge data share FOLDER` was run there",
                )
        raise WorkspaceError(
            "no workspace here",
            expected="a folder made by `expunge init`",
            got=str(named) if named else "no .expunge/workspace.json in this folder or above it",
            remedy="run `expunge init PATH`, or name one with --workspace",
        )

    @property
    def state(self) -> Path:
        """Git-ignored state: databases, keys, evidence."""
        return self.root / ".expunge"

    @property
    def data_dir(self) -> Path:
        """The tracked data's parent folder."""
        return self.root / "data"

    @property
    def dataset_dir(self) -> Path:
        """Parquet partitions, tracked by DVC."""
        return self.data_dir / "dataset"

    @property
    def contract_path(self) -> Path:
        """The dataset's contract."""
        return self.data_dir / "contract.yaml"

    @property
    def policy_path(self) -> Path:
        """policy.yaml."""
        return self.root / "policy.yaml"

    @property
    def params_path(self) -> Path:
        """params.yaml."""
        return self.root / "params.yaml"

    @property
    def build_dir(self) -> Path:
        """Outputs of the dvc.yaml stages, git-ignored."""
        return self.root / "build"

    @property
    def keys_dir(self) -> Path:
        """Pseudonym, auditor and signing keys."""
        return self.state / "keys"

    @property
    def releases_dir(self) -> Path:
        """Noised weights on their way to the registry, one folder a batch."""
        return self.state / "releases"

    @property
    def scratch_dir(self) -> Path:
        """Scratch folders of running processes."""
        return self.state / "scratch"

    @property
    def evidence_dir(self) -> Path:
        """Certificates and sealed annexes."""
        return self.state / "evidence"

    @property
    def curvature_dir(self) -> Path:
        """Kept curvature of the model that serves: it saw records, and serves one request."""
        return self.state / "curvature"

    @property
    def effort_dir(self) -> Path:
        """What trainings took: it saw their records, and is the operator's alone."""
        return self.state / "effort"

    @property
    def remote_dir(self) -> Path:
        """The embedded default DVC remote."""
        return self.state / "dvc-remote"

    @property
    def prefect_home(self) -> Path:
        """Prefect's home for the embedded server."""
        return self.state / "prefect"

    @property
    def mlflow_artifacts(self) -> Path:
        """The embedded default artifact store."""
        return self.state / "mlflow" / "artifacts"

    @property
    def database_url(self) -> str:
        """Tickets, batches and ledger: ``EXPUNGE_DATABASE_URL``, else SQLite in the workspace."""
        return os.environ.get("EXPUNGE_DATABASE_URL") or f"sqlite:///{self.state / 'tickets.db'}"

    @property
    def tracking_uri(self) -> str:
        """MLflow: ``MLFLOW_TRACKING_URI``, else ``MLFLOW_BACKEND_STORE_URI``, else SQLite in the workspace."""
        named = os.environ.get("MLFLOW_TRACKING_URI") or os.environ.get("MLFLOW_BACKEND_STORE_URI")
        return named or f"sqlite:///{self.state / 'mlflow' / 'mlflow.db'}"

    @property
    def stack_dir(self) -> Path:
        """Supervised services: process table and URLs."""
        return self.state / "stack"

    @property
    def accounts_dir(self) -> Path:
        """Accounts of the stack's MLflow server: passwords, and the database that checks them."""
        return self.state / "accounts"

    @property
    def logs_dir(self) -> Path:
        """One log file a supervised process."""
        return self.state / "logs"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Admit(_Strict):
    """Which certificates may close a ticket."""

    classes: tuple[GuaranteeClass, ...] = ("exact", "unconditional", "convex")
    epsilon: float = Field(1.0, gt=0)
    delta: float = Field(1e-5, gt=0, lt=1)


class ReleasePolicy(_Strict):
    """What every noised release is calibrated to."""

    sigma: float = Field(0.01, gt=0, allow_inf_nan=False)
    epsilon: float = Field(0.05, gt=0, allow_inf_nan=False)
    delta: float = Field(1e-6, gt=0, lt=1)


class LissaPolicy(_Strict):
    """The paper's stochastic solver."""

    chains: int = Field(10, ge=1)
    steps: int = Field(1000, ge=1)
    batch: int = Field(128, ge=1)


class NewtonPolicy(_Strict):
    """Constants of the paper's Newton step; ``None`` where nobody assumed one."""

    damping: float = Field(12.0, ge=0)
    steps: int = Field(1, ge=1, le=100)
    solver: Literal["exact", "conjugate-gradients", "lissa"] = "conjugate-gradients"
    lissa: LissaPolicy = LissaPolicy()
    hessian_lipschitz: float | None = Field(None, ge=0)
    gradient_bound: float | None = Field(None, ge=0)
    relative_residual: float = Field(1e-6, gt=0, lt=1)


class UnconditionalPolicy(_Strict):
    """What output perturbation and noisy fine-tuning are calibrated to; sigma follows from it."""

    epsilon: float = Field(0.5, gt=0, allow_inf_nan=False)
    delta: float = Field(1e-6, gt=0, lt=1)
    norm_bound: float = Field(1.0, gt=0, allow_inf_nan=False)
    recovery_epochs: int | None = Field(None, ge=1)


class NoisyFinetunePolicy(_Strict):
    """The noisy steps of noisy fine-tuning."""

    form: Literal["gradient-clipping", "model-clipping"] = "gradient-clipping"
    steps: int = Field(100, ge=1)
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(0.01, gt=0, allow_inf_nan=False)
    decay: float = Field(3.0, ge=0, allow_inf_nan=False)
    clip: float = Field(0.1, gt=0, allow_inf_nan=False)


class LedgerPolicy(_Strict):
    """Sequential limits of a lineage."""

    accumulated_error: float = Field(0.01, gt=0)
    composed_epsilon: float = Field(1.0, gt=0)
    releases: int = Field(100, ge=1)


class GatesPolicy(_Strict):
    """Validation gates."""

    max_accuracy_drop: float = Field(0.02, ge=0, le=1)


class PopulationPolicy(_Strict):
    """The attack that every release passes before it is certified: forgotten people against never-trained ones."""

    enabled: bool = True
    margin: float = Field(0.1, ge=0, lt=0.5)
    max_rows: int = Field(20000, ge=100)


class RetainedPolicy(_Strict):
    """The same attack on people who stay; without a limit it is told to the auditor only."""

    max_auc: float | None = Field(None, gt=0.5, lt=1)


class ShadowsPolicy(_Strict):
    """Models trained on other halves of the retain set, which tell how hard each row is."""

    count: int = Field(0, ge=0, le=1000)

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if 0 < self.count < 4:
            raise ValueError("0 turns shadow models off; fewer than 4 tell no deviation")
        return self


class DifferencePolicy(_Strict):
    """What the difference between two versions tells: the fewer people explain it, the more about each."""

    minimum_people: int = Field(1, ge=1)


class ContradictionPolicy(_Strict):
    """When an attack says that a certificate cannot be true."""

    confidence: float = Field(0.9999, gt=0.5, lt=1)


class GuardsPolicy(_Strict):
    """Data that were made to slow unlearning down, or to poison the model, go to exact retraining."""

    max_rows_per_person: int | None = Field(None, ge=1)
    max_gradient_factor: float | None = Field(20.0, gt=1)
    max_cost_ratio: float | None = Field(3.0, gt=0)


class AttacksPolicy(_Strict):
    """Attacks on every release, and what follows from them."""

    false_alarm: float = Field(1e-3, gt=0, lt=0.5)
    population: PopulationPolicy = PopulationPolicy()
    served: bool = True
    retained: RetainedPolicy = RetainedPolicy()
    shadows: ShadowsPolicy = ShadowsPolicy()
    difference: DifferencePolicy = DifferencePolicy()
    contradiction: ContradictionPolicy = ContradictionPolicy()
    guards: GuardsPolicy = GuardsPolicy()

    @model_validator(mode="after")
    def _shadows_need_population(self) -> Self:
        if self.shadows.count and not self.population.enabled:
            raise ValueError("shadow models refine the population attack, which is not enabled")
        return self


class BatchPolicy(_Strict):
    """When a batch starts: a model difference that few people explain tells more about each of them."""

    minimum_size: int = Field(1, ge=1)
    maximum_wait_days: int = Field(7, ge=0)
    deadline_margin_days: int = Field(7, ge=0)


class PurgePolicy(_Strict):
    """What may be destroyed, and whether a person has to agree."""

    approval: Literal["automatic", "required"] = "automatic"
    shared_remotes: bool = False
    artifact_server: Literal["seen", "trusted"] = "seen"


class RetentionPolicy(_Strict):
    """How long superseded models are kept, out of use, and whether one may serve again before its purge."""

    quarantine_days: int = Field(0, ge=0)
    rollback: bool = False


class BackupPolicy(_Strict):
    """A backup outside the workspace, and how long after a purge it may still have the bytes."""

    name: str = Field(min_length=1)
    holds: Literal["dataset", "model", "database"]
    expires_days: int = Field(30, ge=0, le=36500)


class CoveragePolicy(_Strict):
    """What happens while nothing was said of a declared artefact that saw the people."""

    unresolved: Literal["refuse", "state"] = "refuse"


class EvidencePolicy(_Strict):
    """Who beside us can say what was there: an authority's time, the newest head of the ledger in others' hands."""

    timestamp_url: str | None = Field(None, pattern="^https?://")
    witness: str | None = None


class AlarmsPolicy(_Strict):
    """Whom to tell when a deadline is near."""

    webhook: str | None = Field(None, pattern="^https?://")


class SuppressionPolicy(_Strict):
    """How long it is remembered, by pseudonym, who was removed."""

    retention_days: int | None = Field(None, ge=0)


class RegimePolicy(_Strict):
    """A law's period to answer, and its one extension."""

    months: int = Field(0, ge=0, le=12)
    days: int = Field(0, ge=0, le=366)
    extension_months: int = Field(0, ge=0, le=12)
    extension_days: int = Field(0, ge=0, le=366)

    @model_validator(mode="after")
    def _some_time(self) -> Self:
        if self.months + self.days == 0:
            raise ValueError("a period of months or days is needed")
        return self


_OPERATIONAL = {
    "batch",
    "retention",
    "alarms",
    "suppression",
    "evidence",
    "backups",
    "regimes",
    "organisation",
}


class Policy(_Strict):
    """policy.yaml: what may close a ticket, fixed before any request is seen."""

    version: Literal[1] = 1
    admit: Admit = Admit()
    release: ReleasePolicy = ReleasePolicy()
    newton: NewtonPolicy = NewtonPolicy()
    unconditional: UnconditionalPolicy = UnconditionalPolicy()
    noisy_finetune: NoisyFinetunePolicy = NoisyFinetunePolicy()
    ledger: LedgerPolicy = LedgerPolicy()
    gates: GatesPolicy = GatesPolicy()
    attacks: AttacksPolicy = AttacksPolicy()
    batch: BatchPolicy = BatchPolicy()
    purge: PurgePolicy = PurgePolicy()
    retention: RetentionPolicy = RetentionPolicy()
    coverage: CoveragePolicy = CoveragePolicy()
    alarms: AlarmsPolicy = AlarmsPolicy()
    suppression: SuppressionPolicy = SuppressionPolicy()
    evidence: EvidencePolicy = EvidencePolicy()
    backups: tuple[BackupPolicy, ...] = ()
    regimes: dict[str, RegimePolicy] = {}
    organisation: OrganisationPolicy = OrganisationPolicy()

    @field_validator("regimes")
    @classmethod
    def _own_names(cls, value: dict[str, RegimePolicy]) -> dict[str, RegimePolicy]:
        for name in value:
            if name in LAWS:
                raise ValueError(
                    f"{name} is known already, and stays what its law says: use a name of your own"
                )
            if not NAME.fullmatch(name):
                raise ValueError("a name has 1 to 10 of a-z, 0-9 and -, and begins with a letter")
        return value

    @property
    def laws(self) -> dict[str, Regime]:
        """The known laws, and the operator's own."""
        return {**LAWS, **{name: Regime(**one.model_dump()) for name, one in self.regimes.items()}}

    def guarantee_content(self) -> dict[str, Any]:
        """What a certificate's guarantee, its gates and its statements depend on.

        Not when a batch starts, what waits for whom, who is told, and where evidence is copied to: that may change
        under a batch. A section that is added belongs to it until somebody says that it is not.

        Returns:
            Plain data; of ``purge`` only whether somebody vouches for artifacts that nobody looked into.
        """
        content = self.model_dump(mode="json", exclude=_OPERATIONAL)
        return {**content, "purge": {"artifact_server": self.purge.artifact_server}}


class ModelParams(_Strict):
    """Which network, whether its linearisation is trained, and who says that own parts of it are public."""

    name: str = "linearized-mlp"
    linearize: bool = True
    hyperparameters: dict[str, Any] = {}
    public: bool = False
    source: str | None = Field(None, pattern=r"^\S(.*\S)?$", max_length=200)
    declared_on: str | None = None  # text: DVC, which reads params.yaml too, keeps no dates

    @field_validator("declared_on", mode="before")
    @classmethod
    def _a_date(cls, value: Any) -> Any:
        if value is None:
            return value
        try:
            return date.fromisoformat(value).isoformat()
        except (TypeError, ValueError) as error:
            raise ValueError('write the date in quotes: "YYYY-MM-DD"') from error

    @model_validator(mode="after")
    def _declared(self) -> Self:
        if self.public and (self.source is None or self.declared_on is None):
            raise ValueError(
                "public: true wants source (where the parts came from) and declared_on (YYYY-MM-DD)"
            )
        if not self.public and (self.source is not None or self.declared_on is not None):
            raise ValueError("source and declared_on belong to public: true")
        return self


class TrainingParams(_Strict):
    """Objective, tolerance and optimiser."""

    seed: int = Field(0, ge=0)
    l2: float = Field(1e-3, gt=0)
    gradient_tolerance: float = Field(5e-8, gt=0)
    rounding_allowance: float = Field(1e-9, ge=0)
    max_products: int = Field(20000, ge=1)
    kept_rank: int = Field(300, ge=0)
    kept_sample: int = Field(8000, ge=1)
    norm_bound: float = Field(20.0, gt=0)
    epochs: int = Field(40, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)


class Params(_Strict):
    """params.yaml: the model and its training."""

    version: Literal[1] = 1
    model: ModelParams = ModelParams()
    training: TrainingParams = TrainingParams()


def template(name: str) -> str:
    """Text of a file that `expunge init` puts into a workspace.

    Args:
        name: policy.yaml, params.yaml or dvc.yaml.

    Returns:
        The file's text.
    """
    return resources.files("expunge").joinpath("templates", name).read_text(encoding="utf-8")


def _load(path: Path, model: type[_Model]) -> _Model:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return model.model_validate({} if content is None else content)
    except FileNotFoundError as error:
        raise PolicyError(
            f"{path.name} is missing", expected=f"{path.name} in the workspace", remedy="restore it from git"
        ) from error
    except yaml.YAMLError as error:
        raise PolicyError(
            f"{path.name} is not YAML", got=" ".join(str(error).split()), remedy="correct the file"
        ) from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}" for fault in error.errors()
        )
        raise PolicyError(
            f"{path.name} is not valid", got=faults, remedy="correct the named values"
        ) from error


def load_policy(workspace: Workspace) -> Policy:
    """Read policy.yaml, reporting every fault.

    Args:
        workspace: Whose policy.

    Returns:
        The policy.

    Raises:
        PolicyError: If the file is missing, not YAML or not valid, or lets the witness lie in the workspace.
    """
    policy = _load(workspace.policy_path, Policy)
    witness = policy.evidence.witness
    if witness is not None and (
        not Path(witness).is_absolute() or Path(witness).resolve().is_relative_to(workspace.root.resolve())
    ):
        raise PolicyError(
            f"{workspace.policy_path.name} is not valid",
            expected="evidence.witness: an absolute path outside the workspace",
            got=witness,
            remedy="name a place that the operator of the workspace cannot change",
        )
    return policy


def load_params(workspace: Workspace) -> Params:
    """Read params.yaml, reporting every fault.

    Args:
        workspace: Whose parameters.

    Returns:
        The parameters.

    Raises:
        PolicyError: If the file is missing, not YAML or not valid.
    """
    return _load(workspace.params_path, Params)
