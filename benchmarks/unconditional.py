"""Deep MLP: what every mechanism costs at equal accuracy: `python -m benchmarks.unconditional [--source PATH]`.

Trains the 784-32-32-10 network on MNIST, retrains it without 100 records, and runs output perturbation and noisy
fine-tuning with recovery for ever more epochs until they reach the retrained accuracy. Beside it: Newton's honest
certificate, and the linearised network's.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import Records, emit, hardware, model_spec, parser, pick_device, read_records, timed
from expunge.mechanisms.contract import Context, Mechanism, Problem
from expunge.mechanisms.newton import Newton
from expunge.mechanisms.noisy_finetune import NoisyFinetune
from expunge.mechanisms.output_perturbation import OutputPerturbation
from expunge.mechanisms.release import release
from expunge.models.predictor import accuracy, predict_logits
from expunge.models.spec import ModelSpec
from expunge.models.training import Trained, train
from expunge.settings import Policy

FORGOTTEN = 100
MARGIN = 0.005  # of accuracy: "equal" within it


def measure(data: Records, *, hidden: list[int], epochs: int, most_epochs: int) -> dict[str, Any]:
    """Everything in one run."""
    spec = model_spec(
        "mlp",
        data.features.shape[1],
        data.classes,
        {"epochs": epochs, "batch_size": 128},
        hidden=hidden,
        activation="tanh",
    )
    trained, training_seconds = timed(lambda: train(spec, data.features, data.labels))
    features, labels = data.features[FORGOTTEN:], data.labels[FORGOTTEN:]
    retrained, retrain_seconds = timed(lambda: train(spec, features, labels))
    target = _accuracy(spec, retrained, data)
    context = Context(
        spec=spec,
        policy=Policy(),
        parameters=len(trained.weights),
        training_seconds=training_seconds,
        training_products=trained.products,
        records=len(labels),
    )
    problem = Problem(context, features, labels, trained.weights)
    newton = Newton().assess(context)
    linearised = model_spec("linearized-mlp", data.features.shape[1], data.classes, hidden=hidden[:1])
    return {
        "parameters": len(trained.weights),
        "records": len(labels),
        "forgotten": FORGOTTEN,
        "accuracy_before": _accuracy(spec, trained, data),
        "retrain": {"seconds": retrain_seconds, "epochs": epochs, "accuracy": target},
        "newton": {"epsilon": newton.epsilon, "error_bound": newton.error_bound, "refusal": newton.refusal},
        "linearised": {
            "epsilon": Policy().release.epsilon,
            "delta": Policy().release.delta,
            "bound": 2 * (linearised.gradient_tolerance + linearised.rounding_allowance) / linearised.l2,
        },
        "unconditional": [
            _recovered(mechanism, problem, data, target, retrain_seconds, most_epochs)
            for mechanism in (OutputPerturbation(), NoisyFinetune())
        ],
    }


def _recovered(
    mechanism: Mechanism, problem: Problem, data: Records, target: float, retrain: float, most: int
) -> dict[str, Any]:
    """Double the epochs of recovery until the accuracy is that of retraining; each try is a release of its own."""
    tries = []
    epochs = 1
    while True:
        policy = Policy.model_validate({"unconditional": {"recovery_epochs": epochs}})
        there = replace(problem, context=replace(problem.context, policy=policy))
        released, seconds = timed(
            lambda there=there: release(mechanism, there, mechanism.unlearn(there), draws=1)
        )
        logits = predict_logits(there.context.spec, released.weights, released.origin, data.test_features)
        reached = accuracy(logits, data.test_labels)
        tries.append({"recovery_epochs": epochs, "seconds": seconds, "accuracy": reached})
        if reached >= target - MARGIN or epochs >= most:
            break
        epochs = min(2 * epochs, most)
    record = released.record
    return {
        "mechanism": mechanism.name,
        "epsilon": record.epsilon,
        "delta": record.delta,
        "sigma": record.sigma,
        "tries": tries,
        "reached": tries[-1]["accuracy"] >= target - MARGIN,
        "seconds_over_retraining": tries[-1]["seconds"] / retrain,
    }


def _accuracy(spec: ModelSpec, trained: Trained, data: Records) -> float:
    return accuracy(
        predict_logits(spec, trained.weights, trained.origin, data.test_features), data.test_labels
    )


def main(options: argparse.Namespace) -> None:
    """Measure and print."""
    data = read_records("mnist", options.source, options.records)
    document = measure(data, hidden=[32, 32], epochs=options.epochs, most_epochs=2 * options.epochs)
    emit(
        "unconditional",
        {**document, "hardware": hardware(pick_device("cpu"))},
        None,
        options.out,
    )


if __name__ == "__main__":
    arguments = parser(__doc__, device=False)
    arguments.add_argument("--source", type=Path, help="MNIST's files")
    arguments.add_argument("--epochs", type=int, default=10)
    main(arguments.parse_args())
