"""Dense and independent answers that the library is compared with."""

import numpy as np
import torch
from torch import Tensor, nn


def dense_jacobian(module: nn.Module, weights: Tensor, features: Tensor) -> Tensor:
    """Jacobian of all logits by reverse mode, one row at a time: shape (n, classes, d)."""
    shapes = [p.shape for p in module.parameters()]
    names = [n for n, _ in module.named_parameters()]

    def call(vector: Tensor) -> Tensor:
        parts, at = {}, 0
        for name, shape in zip(names, shapes, strict=True):
            parts[name] = vector[at : at + shape.numel()].view(shape)
            at += shape.numel()
        return torch.func.functional_call(module, parts, (features,))

    return torch.autograd.functional.jacobian(call, weights)


def softmax_problem(seed: int, *, n: int = 40, width: int = 3, classes: int = 2) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(rng.normal(size=(n, width)))
    labels = torch.from_numpy(rng.integers(0, classes, size=n))
    return features, labels


def dense_convex_minimum(jacobian: Tensor, offset: Tensor, labels: Tensor, l2: float) -> Tensor:
    """Minimiser of the linearised objective by full dense Newton steps: independent of our solver."""
    n, classes, d = jacobian.shape
    v = torch.zeros(d, dtype=torch.float64)
    onehot = torch.nn.functional.one_hot(labels, classes).double()
    for _ in range(60):
        p = torch.softmax(offset + torch.einsum("nkd,d->nk", jacobian, v), dim=1)
        g = torch.einsum("nkd,nk->d", jacobian, p - onehot) / n + l2 * v
        middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        h = torch.einsum("nkd,nkl,nle->de", jacobian, middle, jacobian) / n + l2 * torch.eye(
            d, dtype=torch.float64
        )
        step = torch.linalg.solve(h, g)
        v = v - step
        if step.norm() < 1e-15:
            break
    return v
