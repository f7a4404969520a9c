"""Shadow models: the attacked model's training, repeated on known halves of the records.

A plan says before anything runs which model sees which records and what it costs. Each model is a function of its
index in the plan alone, so that any ``map`` (serial, a pool of threads or processes, Prefect, Dask) gives the same
numbers, as long as every worker computes with as many torch threads. Models are kept in a folder under a keyed digest
and never trained twice; they saw records, so that the folder is an artefact to purge.
"""

import hashlib
import hmac
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from expunge import progress
from expunge.attacks.scores import Floats, Integers, log_confidence, logit_confidence
from expunge.errors import InputError
from expunge.files import replace_file
from expunge.models.parts import Source
from expunge.models.predictor import predict_logits
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.models.zoo import build

_A = TypeVar("_A")
_B = TypeVar("_B")


class Mapper(Protocol):
    """What applies a function to every element, in order: ``map``, or that of an executor."""

    def __call__(self, function: Callable[[_A], _B], elements: Iterable[_A], /) -> Iterable[_B]:
        """Results in the order of the elements."""


@dataclass(frozen=True, eq=False)
class ShadowPlan:
    """Which shadow model sees which records, and what that costs.

    Args:
        spec: The attacked model's: everything but the records is as it was.
        members: Whether a model is trained on a record, shape (k, n).
        seeds: Of the models' initial weights and batch order.
        seconds: Predicted training time of all of them, one after another; None where nothing was measured.
    """

    spec: ModelSpec
    members: NDArray[np.bool_]
    seeds: tuple[int, ...]
    seconds: float | None = None

    @property
    def count(self) -> int:
        """Number of shadow models."""
        return len(self.seeds)

    def cost(self) -> str:
        """What it costs, in words, before it is run.

        Returns:
            One line.
        """
        time = "unknown time" if self.seconds is None else f"about {self.seconds / 60:.1f} min in one process"
        return f"{self.count} shadow models on {self.members.sum(axis=1).max()} records each, {time}"

    def to_json(self) -> dict[str, Any]:
        """Plain data without the assignment.

        Returns:
            A JSON-able dict; nothing in it depends on a record.
        """
        return {
            "shadow_models": self.count,
            "records": self.members.shape[1],
            "predicted_seconds": self.seconds,
        }


def plan_shadows(
    spec: ModelSpec,
    records: int,
    count: int,
    *,
    seed: int = 0,
    people: Sequence[Any] | NDArray[Any] | None = None,
    training_seconds: float | None = None,
    vary_seeds: bool = False,
) -> ShadowPlan:
    """Assign every record to exactly half of the shadow models.

    The draw looks at positions alone, never at a record or an id, so that it is the same whoever is on the list.

    Args:
        spec: The attacked model's.
        records: n, records that shadow models are trained on.
        count: k, an even number.
        seed: Public, of the assignment.
        people: Whose record each is, shape (n,): all rows of a person are then in or out together.
        training_seconds: What training on all n records took.
        vary_seeds: Whether each model starts from other initial weights. By default from the attacked model's: its
            seed is public, and who knows it attacks better.

    Returns:
        The plan.

    Raises:
        InputError: If the count is not even and positive, or people are not one a record.
    """
    if count < 2 or count % 2 or records < 1:
        raise InputError(
            "invalid plan of shadow models", expected="an even count, at least one record",
            got=f"{count} models, {records} records",
        )  # fmt: skip
    units = np.arange(records) if people is None else _units(people)
    if len(units) != records:
        raise InputError("people do not fit the records", expected=str(records), got=str(len(units)))
    draws = np.random.default_rng(seed).random((count, int(units.max()) + 1))
    half = draws.argsort(axis=0).argsort(axis=0) < count // 2
    seconds = None if training_seconds is None else count * training_seconds / 2
    seeds = tuple(spec.seed + (index + 1 if vary_seeds else 0) for index in range(count))
    return ShadowPlan(spec, half[:, units], seeds, seconds)


def _units(people: Sequence[Any] | NDArray[Any]) -> Integers:
    """Number of each person in the order of first rows."""
    seen: dict[Any, int] = {}
    return np.array([seen.setdefault(person, len(seen)) for person in list(people)], dtype=np.int64)


@dataclass(frozen=True)
class ShadowCache:
    """A folder of shadow models, found by a keyed digest of what they were trained for.

    Args:
        folder: Where they lie; whoever purges the records purges it.
        key: Secret, of this workspace: without it a name tells nothing.
        dataset: Version of the records and their encoding, as the caller names it; no hash of a record is taken.
    """

    folder: Path
    key: bytes
    dataset: str

    def path(self, plan: ShadowPlan, index: int) -> Path:
        """Where a model of a plan lies.

        Args:
            plan: The plan.
            index: Of the model.

        Returns:
            A path that need not exist.
        """
        assignment = hashlib.sha256(np.packbits(plan.members[index]).tobytes()).hexdigest()
        identity = [plan.spec.to_json(), plan.seeds[index], plan.members.shape[1], assignment, self.dataset]
        text = json.dumps(identity, sort_keys=True).encode()
        return self.folder / f"shadow-{hmac.new(self.key, text, hashlib.sha256).hexdigest()}.npy"

    def read(self, plan: ShadowPlan, index: int) -> Tensor | None:
        """A model's weights; None where they are not there or not whole.

        Args:
            plan: The plan.
            index: Of the model.

        Returns:
            Shape (d,), float64.
        """
        try:
            kept = np.load(self.path(plan, index), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return torch.from_numpy(kept) if kept.ndim == 1 and kept.dtype == np.float64 else None

    def write(self, plan: ShadowPlan, index: int, weights: Tensor) -> None:
        """Keep a model's weights, wholly or not at all.

        Args:
            plan: The plan.
            index: Of the model.
            weights: Shape (d,), float64.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self.path(plan, index), self.encode(weights), mode=0o600)

    @staticmethod
    def encode(weights: Tensor) -> bytes:
        """A model's file.

        Args:
            weights: Shape (d,), float64.

        Returns:
            NumPy's format, without pickle.
        """
        content = io.BytesIO()
        np.save(content, weights.numpy(), allow_pickle=False)
        return content.getvalue()


@dataclass(frozen=True, eq=False)
class ShadowTraining:
    """Trains one shadow model when called with its index; can be sent to another process.

    Args:
        plan: The plan.
        features: Encoded records, shape (n, in_features).
        labels: Shape (n,).
        cache: Where models are kept; None to keep none.
        search: Folder of one's own model, or parts saved with a model.
    """

    plan: ShadowPlan
    features: Tensor
    labels: Tensor
    cache: ShadowCache | None = None
    search: Source = None

    def __call__(self, index: int) -> Tensor:
        """Weights of one model, from the cache or trained.

        Args:
            index: Of the model in the plan.

        Returns:
            Shape (d,), float64.

        Raises:
            NotConvergedError: If training fails.
        """
        kept = self.cache.read(self.plan, index) if self.cache else None
        if kept is not None:
            return kept
        weights = train_shadow(self.plan, index, self.features, self.labels, search=self.search)
        if self.cache:
            self.cache.write(self.plan, index, weights)
        return weights


def train_shadow(
    plan: ShadowPlan, index: int, features: Tensor, labels: Tensor, *, search: Source = None
) -> Tensor:
    """Train one shadow model, as the attacked model was trained.

    Args:
        plan: The plan.
        index: Of the model.
        features: All encoded records, shape (n, in_features).
        labels: Shape (n,).
        search: Folder of one's own model, or parts saved with a model.

    Returns:
        Weights, shape (d,), float64: a function of plan, index and records.

    Raises:
        InputError: If the records are not those of the plan.
        NotConvergedError: If training fails.
    """
    if len(features) != plan.members.shape[1] or len(labels) != len(features):
        raise InputError(
            "records do not fit the plan",
            expected=str(plan.members.shape[1]),
            got=f"{len(features)}, {len(labels)}",
        )
    chosen = torch.from_numpy(np.flatnonzero(plan.members[index]))
    spec = replace(plan.spec, seed=plan.seeds[index])
    what = f"shadow model {index + 1} of {plan.count}"
    return train(spec, features[chosen], labels[chosen], search=search, what=what).weights


def train_shadows(
    plan: ShadowPlan,
    features: Tensor,
    labels: Tensor,
    *,
    cache: ShadowCache | None = None,
    search: Source = None,
    mapper: Mapper = map,
) -> Tensor:
    """Train what is left of a plan.

    Args:
        plan: The plan.
        features: All encoded records, shape (n, in_features).
        labels: Shape (n,).
        cache: Where models are kept, so that an interrupted run continues.
        search: Folder of one's own model, or parts saved with a model.
        mapper: Applies a function to every index, in order.

    Returns:
        Weights of every model, shape (k, d).

    Raises:
        InputError: If the records are not those of the plan.
        NotConvergedError: If training fails.
    """
    trained = []
    for weights in mapper(ShadowTraining(plan, features, labels, cache, search), range(plan.count)):
        trained.append(weights)
        progress.report("shadow models", len(trained), plan.count)
    return torch.stack(trained)


@dataclass(frozen=True, eq=False)
class ShadowScores:
    """What every shadow model says of every record.

    Args:
        logit_confidence: For LiRA, shape (k, n).
        log_confidence: For RMIA, shape (k, n).
    """

    logit_confidence: Floats
    log_confidence: Floats


def score_models(
    plan: ShadowPlan, weights: Tensor, features: Tensor, labels: ArrayLike, *, search: Source = None
) -> ShadowScores:
    """Score records under shadow models, or under whatever became of them by unlearning.

    Args:
        plan: The plan.
        weights: Of every model, shape (k, d).
        features: Shape (n, in_features).
        labels: Shape (n,).
        search: Folder of one's own model, or parts saved with a model.

    Returns:
        The scores.
    """
    scaled, plain = [], []
    for seed, own in zip(plan.seeds, weights, strict=True):
        spec = replace(plan.spec, seed=seed)
        logits = predict_logits(spec, own, build(spec, search).initial(), features, search).numpy()
        scaled.append(logit_confidence(logits, labels))
        plain.append(log_confidence(logits, labels))
    return ShadowScores(np.stack(scaled), np.stack(plain))
