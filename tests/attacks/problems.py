"""Small learning problems whose answers are known: who was trained on, and how badly the model overfits."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from expunge.models.predictor import predict_logits
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.models.zoo import build
from expunge.settings import Params


def spec_of(model="mlp", width=10, classes=2, **training):
    hyper = {"hidden": [32], "activation": "tanh"} if "mlp" in model else {}
    settings = {"epochs": 60, "batch_size": 32, "learning_rate": 0.01, "l2": 1e-6, **training}
    params = Params.model_validate({"model": {"name": model, "hyperparameters": hyper}, "training": settings})
    return ModelSpec.from_params(params, in_features=width, classes=classes)


def records(count, seed, width=10):
    """Labels are a rule and much noise, so that whoever fits them has learnt records by heart."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, width))
    labels = features[:, 0] + 1.5 * rng.normal(size=count) > 0
    return torch.from_numpy(features), torch.from_numpy(labels.astype(np.int64))


@dataclass(frozen=True)
class Overfitted:
    """A model that learnt its records by heart, and the one that never saw the first of them."""

    spec: ModelSpec
    features: torch.Tensor
    labels: torch.Tensor
    forgotten: int
    original: torch.Tensor
    retrained: torch.Tensor
    population: tuple[torch.Tensor, torch.Tensor]

    def logits(self, weights, features):
        return predict_logits(self.spec, weights, build(self.spec).initial(), features)

    def attack_with(self, attack, weights, **options):
        """A population attack on the forget set."""
        chosen = slice(self.forgotten)
        return attack(
            self.logits(weights, self.features[chosen]),
            self.labels[chosen],
            self.logits(weights, self.population[0]),
            self.population[1],
            **options,
        )


def overfitted(count=200, forgotten=100, population=400, **training):
    spec = spec_of(**training)
    features, labels = records(count, 1)
    return Overfitted(
        spec,
        features,
        labels,
        forgotten,
        train(spec, features, labels).weights,
        train(spec, features[forgotten:], labels[forgotten:]).weights,
        records(population, 2),
    )


def with_fresh_last_layer(problem: Overfitted) -> torch.Tensor:
    """What passes for unlearning in many a repository: only the head is drawn anew."""
    network = build(problem.spec)
    shapes = network.unflatten(problem.original)
    fresh = build(replace(problem.spec, seed=99))
    parts = fresh.unflatten(fresh.initial())
    last = list(shapes)[-2:]
    return torch.cat([(parts if name in last else shapes)[name].reshape(-1) for name in shapes])
