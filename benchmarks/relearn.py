"""Relearn time: how soon a model that is trained on the forget set is back where the original was on it.

Zhang et al. (ICML 2024), section 6: a model that has forgotten needs longer. One that was never trained on those
records is the yardstick, not infinity.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from expunge import progress

Forward = Callable[[Tensor, Tensor], Tensor]


def relearn(
    forward: Forward,
    weights: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    loss: float,
    accuracy: float,
    learning_rate: float,
    batch_size: int,
    most_epochs: int,
    seed: int,
) -> dict[str, int | None]:
    """Fine-tune on the forget set with Adam, looking after every step.

    Args:
        forward: From weights and features to logits.
        weights: Of the model under test, shape (d,).
        features: The forget set, shape (n, p).
        labels: Shape (n,).
        loss: Mean cross entropy of the original on the forget set, to be reached.
        accuracy: The original's, to be reached.
        learning_rate: Of Adam.
        batch_size: Records a step.
        most_epochs: To try.
        seed: Of the batch order.

    Returns:
        Steps and epochs (begun ones) to either, 0 where it is there already, None where it was not reached.
    """
    now = weights.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([now], lr=learning_rate)
    order = torch.Generator().manual_seed(seed)
    a_epoch = math.ceil(len(labels) / batch_size)
    to_loss: int | None = None
    to_accuracy: int | None = None
    steps = 0
    for epoch in range(most_epochs + 1):
        for batch in torch.split(torch.randperm(len(labels), generator=order), batch_size):
            with torch.no_grad():
                logits = forward(now, features)
            if to_loss is None and float(cross_entropy(logits, labels)) <= loss:
                to_loss = steps
            if to_accuracy is None and float((logits.argmax(dim=1) == labels).double().mean()) >= accuracy:
                to_accuracy = steps
            if epoch == most_epochs or None not in (to_loss, to_accuracy):
                break
            optimizer.zero_grad()
            cross_entropy(forward(now, features[batch]), labels[batch]).backward()
            optimizer.step()
            steps += 1
        if epoch == most_epochs or None not in (to_loss, to_accuracy):
            break
        progress.report("relearning", epoch + 1, most_epochs)
    return {
        "steps_to_loss": to_loss,
        "epochs_to_loss": None if to_loss is None else math.ceil(to_loss / a_epoch),
        "steps_to_f1": to_accuracy,
        "epochs_to_f1": None if to_accuracy is None else math.ceil(to_accuracy / a_epoch),
    }
