"""Small networks and data on which the dense answers can be had."""

import torch
from torch import Tensor, nn

from expunge.curvature.flat import FlatModule
from expunge.models.networks.all_cnn import all_cnn
from expunge.models.networks.head import frozen_features_head
from expunge.models.networks.layers import SpatialMean, convolution
from expunge.models.networks.mlp import multilayer_perceptron, softmax_regression
from expunge.models.networks.resnet import BasicBlock, resnet_18
from expunge.models.networks.vit import vision_transformer

CLASSES = 3
WIDTH = 16  # of a row: a 4x4 image
_IMAGE = [1, 4, 4]
ARCHITECTURES = {
    "mlp": lambda: multilayer_perceptron(WIDTH, CLASSES, hidden=[3]),
    "softmax": lambda: softmax_regression(WIDTH, CLASSES),
    "head": lambda: frozen_features_head(WIDTH, CLASSES, width=5),
    "all-cnn": lambda: all_cnn(WIDTH, CLASSES, input_shape=_IMAGE, width=1, norm="group", activation="tanh"),
    "resnet-18": lambda: resnet_18(
        WIDTH, CLASSES, input_shape=_IMAGE, width=1, norm="group", activation="gelu"
    ),
    "vit": lambda: vision_transformer(WIDTH, CLASSES, input_shape=_IMAGE, patch=2, depth=1, heads=2, dim=4),
}


def _residual_block() -> nn.Module:
    """What ResNet-18 repeats eight times."""
    return nn.Sequential(
        nn.Unflatten(1, _IMAGE),
        *convolution(1, 2, 3, norm="group"),
        BasicBlock(2, 4, stride=2, norm="group", activation="gelu"),
        SpatialMean(),
        nn.Linear(4, CLASSES),
    )


def module_of(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return _residual_block() if name == "block" else ARCHITECTURES[name]()


def network_of(name: str) -> FlatModule:
    return FlatModule(module_of(name))


def image_problem(records: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(records, WIDTH, dtype=torch.float64, generator=generator)
    return features, torch.randint(CLASSES, (records,), generator=generator)


def vector_of(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def matrix_with(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator)).Q
    matrix = basis @ torch.diag(eigenvalues.double()) @ basis.T
    return (matrix + matrix.T) / 2
