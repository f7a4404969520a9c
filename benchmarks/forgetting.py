"""One forgetting task of the comparison: records, forget set, models, and what is shared between its methods."""

import contextlib
import ctypes
import gc
import json
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.functional import cross_entropy

from benchmarks.common import (
    SEED,
    Records,
    computed,
    extra_bytes,
    model_spec,
    pooled,
    read_records,
    synthetic,
)
from benchmarks.relearn import Forward
from benchmarks.runner import Place, Setting
from expunge.curvature.flat import FlatModule
from expunge.models.predictor import predict_logits
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.models.zoo import build

_ANOTHER_ORDER = 1_000_003  # added to the seed of the batch order


@dataclass(frozen=True)
class Task:
    """A seed of a setting: it chooses the forget set, the initial weights and the order of the batches.

    Args:
        setting: The setting.
        place: Where it runs.
        seed: Of the cell.
        data: Records.
        forgotten: Which training records are to be forgotten, shape (n,).
    """

    setting: Setting
    place: Place
    seed: int
    data: Records
    forgotten: Tensor

    @cached_property
    def retain(self) -> tuple[Tensor, Tensor]:
        """Features and labels of the retain set."""
        return self.data.features[~self.forgotten], self.data.labels[~self.forgotten]

    @cached_property
    def forget(self) -> tuple[Tensor, Tensor]:
        """Features and labels of the forget set."""
        return self.data.features[self.forgotten], self.data.labels[self.forgotten]

    @cached_property
    def unseen(self) -> tuple[Tensor, Tensor]:
        """As many test records, for the membership attack."""
        rng = np.random.default_rng([SEED, self.seed, 1])
        count = min(len(self.forget[1]), len(self.data.test_labels))
        chosen = torch.from_numpy(rng.permutation(len(self.data.test_labels))[:count])
        return self.data.test_features[chosen], self.data.test_labels[chosen]

    @property
    def test(self) -> tuple[Tensor, Tensor]:
        """Features and labels of the test set."""
        return self.data.test_features, self.data.test_labels

    @property
    def spec(self) -> ModelSpec:
        """The deep network."""
        return replace(self._spec("model"), linearize=False)

    @property
    def convex_spec(self) -> ModelSpec:
        """The convex model."""
        return replace(self._spec("convex"), linearize=True)

    def _spec(self, key: str) -> ModelSpec:
        described = self.setting[key]
        spec = model_spec(
            described["name"],
            self.data.features.shape[1],
            self.data.classes,
            described["training"],
            **described.get("hyperparameters", {}),
        )
        return replace(spec, seed=self.seed)

    @cached_property
    def network(self) -> FlatModule:
        """The deep network as a function of its weights."""
        return build(self.spec)

    def trained(self, which: str, *, convex: bool = False) -> dict[str, Any]:
        """Weights of the original, of the retrained model, or of one retrained in another order of batches.

        Args:
            which: ``original``, ``retrained`` or ``other order``.
            convex: Of the convex model.

        Returns:
            weights, seconds, products (or steps), bytes; made once for all methods.
        """
        spec = self.convex_spec if convex else self.spec
        key = {
            "what": "comparison",
            "which": which,
            "spec": spec.to_json(),
            "data": self.setting["data"],
            "seed": self.seed,
            "device": str(self.place.device),
        }

        def make() -> dict[str, Any]:
            features, labels = (self.data.features, self.data.labels) if which == "original" else self.retain
            ordered = replace(spec, seed=spec.seed + _ANOTHER_ORDER) if which == "other order" else spec
            start = build(spec).initial() if which == "other order" else None
            done, seconds, peak = spent(
                lambda: train(ordered, features, labels, start=start, device=self.place.device, what=which),
                self.place.device,
            )
            return {
                "weights": done.weights,
                "seconds": seconds,
                "products": done.products,
                "bytes": peak,
            }

        found: dict[str, Any] = self.place.kept(key, make)
        return found

    def logits(self, weights: Tensor, features: Tensor, *, convex: bool = False) -> Tensor:
        """Of the deep network or the convex model."""
        spec = self.convex_spec if convex else self.spec
        return predict_logits(spec, weights, build(spec).initial(), features, device=self.place.device)

    def forward(self, *, convex: bool = False) -> Forward:
        """From weights and features to logits, to be differentiated."""
        if not convex:
            return self.network
        linear = build(self.convex_spec)
        origin = linear.initial()

        def at(weights: Tensor, features: Tensor) -> Tensor:
            value, moved = jvp(lambda w: linear(w, features), (origin,), (weights,))
            return value + moved

        return at

    def mean_loss(self, weights: Tensor, records: tuple[Tensor, Tensor], *, convex: bool = False) -> float:
        """Mean cross entropy."""
        return float(cross_entropy(self.logits(weights, records[0], convex=convex), records[1]))


def spent(call: Any, device: torch.device) -> tuple[Any, float, int]:
    """A call's result, its CPU seconds (on a GPU, wall seconds), and its bytes at the peak above those before it.

    What earlier cells left is given back first; what the allocator keeps all the same is used again uncounted.
    """
    warm_up()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
    held: list[tuple[Any, float]] = []
    peak = extra_bytes(lambda: held.append(computed(call, device)), device)
    return held[0][0], held[0][1], max(0, peak)


@lru_cache(maxsize=1)
def warm_up() -> None:
    """Load what a process loads once, so that the first method does not pay for it."""
    data = synthetic(50, 3, 2)
    for name in ("mlp", "linearized-mlp"):
        spec = model_spec(name, 3, 2, {"epochs": 1}, hidden=[2])
        train(spec, data.features, data.labels)


def choose(subjects: "np.ndarray[Any, Any]", at_least: int, seed: int) -> Tensor:
    """Whole data subjects in a random order until there are enough records.

    Args:
        subjects: Whose record each is, shape (n,).
        at_least: Records to forget.
        seed: Public.

    Returns:
        Which records are to be forgotten, shape (n,).

    Example:
        >>> int(choose(np.array([1, 1, 2, 2]), 1, seed=0).sum())
        2
    """
    people, owner, rows = np.unique(subjects, return_inverse=True, return_counts=True)
    order = np.random.default_rng([SEED, seed]).permutation(len(people))
    enough = int(np.searchsorted(np.cumsum(rows[order]), at_least)) + 1
    leaving = np.zeros(len(people), dtype=bool)
    leaving[order[:enough]] = True
    return torch.from_numpy(leaving[owner])


def task(setting: Setting, seed: int, place: Place) -> Task:
    """The task of a seed; the last one is remembered, for its cells come one after the other."""
    return _task(json.dumps(setting), seed, place)


@lru_cache(maxsize=1)
def _task(setting: str, seed: int, place: Place) -> Task:
    read = json.loads(setting)
    data = _records(json.dumps(read["data"]), place)
    return Task(read, place, seed, data, choose(data.subjects, read["data"]["forget"], seed))


@lru_cache(maxsize=1)
def _records(described: str, place: Place) -> Records:
    wanted = json.loads(described)
    data = read_records(wanted["name"], place.source(wanted["name"]), wanted.get("records"))
    test = slice(wanted.get("test_records"))
    features, tested = data.features, data.test_features[test]
    if "pool" in wanted:
        features, tested = (pooled(images, **wanted["pool"]) for images in (features, tested))
    return replace(data, features=features, test_features=tested, test_labels=data.test_labels[test])
