"""What a model is, apart from its weights: everything needed to train it again."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from expunge.errors import PolicyError
from expunge.settings import ModelParams, Params

# Whether the linearisation is trained; None: params.yaml says. A model that is affine in its parameters is its own
# linearisation, hence convex.
CATALOGUE: dict[str, bool | None] = {
    "linearized-mlp": True,
    "mlp": False,
    "softmax": True,
    "head": True,
    "all-cnn": None,
    "resnet-18": None,
    "vit": None,
}


def is_own(name: str) -> bool:
    """Whether a model is made by one's own code.

    Args:
        name: Of the catalogue, or ``module:factory``.

    Returns:
        True for the latter.
    """
    return ":" in name


@dataclass(frozen=True)
class ModelSpec:
    """A model's architecture and training procedure; nothing in it depends on a record.

    Args:
        name: One of the catalogue, or ``module:factory`` of one's own.
        linearize: Whether the linearisation at the initial weights is trained (strongly convex).
        hyperparameters: Passed to the factory.
        in_features: Width of an encoded record.
        classes: Number of classes.
        seed: Of initial weights and batch order; data-independent.
        l2: mu.
        gradient_tolerance: tau, for linearised models.
        rounding_allowance: e, for linearised models.
        max_products: Curvature products to spend at most, for linearised models.
        norm_bound: C, for deep models.
        epochs: For deep models.
        batch_size: For deep models.
        learning_rate: For deep models.
        kept_rank: Columns of the kept curvature's sketch, for linearised models; 0 keeps none.
        kept_sample: Records that the sketch looks at, at most.
    """

    name: str
    linearize: bool
    in_features: int
    classes: int
    seed: int
    l2: float
    gradient_tolerance: float
    rounding_allowance: float
    max_products: int
    norm_bound: float
    epochs: int
    batch_size: int
    learning_rate: float
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    kept_rank: int = 300
    kept_sample: int = 8000

    @classmethod
    def from_params(cls, params: Params, *, in_features: int, classes: int) -> "ModelSpec":
        """Combine params.yaml with the widths that the data dictate.

        Args:
            params: params.yaml.
            in_features: Width of an encoded record.
            classes: Number of classes.

        Returns:
            The spec.

        Raises:
            PolicyError: If the model's name is neither in the catalogue nor ``module:factory``.
        """
        name = params.model.name
        if name not in CATALOGUE and not is_own(name):
            raise PolicyError(
                "unknown model in params.yaml",
                expected=f"{', '.join(CATALOGUE)} or module:factory",
                got=name,
                remedy="correct model.name",
            )
        fixed = CATALOGUE.get(name)
        linearize = params.model.linearize if fixed is None else fixed
        return cls(
            name=name,
            linearize=linearize,
            hyperparameters=dict(params.model.hyperparameters),
            in_features=in_features,
            classes=classes,
            **params.training.model_dump(),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data.

        Returns:
            A JSON-able dict, the inverse of :meth:`from_json`.
        """
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ModelSpec":
        """Read what :meth:`to_json` wrote.

        Args:
            data: The dict.

        Returns:
            The spec.
        """
        return cls(**data)


def require_declared(name: str, declared: ModelParams) -> None:
    """Refuse a model of own code that nobody declared to be public: no batch takes a person out of its parts.

    Args:
        name: Of the model.
        declared: What params.yaml says.

    Raises:
        PolicyError: If it does not declare this model's parts.
    """
    if is_own(name) and not (declared.public and declared.name == name):
        raise PolicyError(
            f"nobody declared that {name} is public, and unlearning changes trained weights only: not code, frozen "
            "tensors or initial weights",
            expected=f'name: {name}, public: true, source: TEXT and declared_on: "DATE" under `model` in params.yaml',
            got=f"public: {str(declared.public).lower()}, name: {declared.name}",
            remedy="add them if no record of a person shaped these parts, and say where they came from",
        )
    today = datetime.now().astimezone().date().isoformat()
    if is_own(name) and declared.declared_on is not None and declared.declared_on > today:
        raise PolicyError(
            "model.declared_on lies in the future",
            expected=f"{today} or earlier",
            got=declared.declared_on,
            remedy="write the day of the declaration into params.yaml",
        )
