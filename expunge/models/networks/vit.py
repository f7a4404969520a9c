"""A small vision transformer: Dosovitskiy et al., "An image is worth 16x16 words" (ICLR 2021, arXiv 2010.11929)."""

import math

import torch
from torch import Tensor, nn

from expunge.errors import PolicyError
from expunge.models.networks.layers import check_positive, image_layer

_REMEDY = "correct model.hyperparameters in params.yaml"
_POSITION_SPREAD = 0.02
_EXPANSION = 4


class SelfAttention(nn.Module):
    """Multi-head self-attention: ``softmax(Q K^T / sqrt(dim / heads)) V`` for every head (appendix A of the paper).

    Plain products and a softmax: the fused kernels have no forward-mode derivative.

    Args:
        dim: Width of a token.
        heads: Number of heads, a divisor of dim.

    Example:
        >>> SelfAttention(8, 2)(torch.ones(1, 5, 8)).shape
        torch.Size([1, 5, 8])
    """

    def __init__(self, dim: int, heads: int) -> None:
        """Make the layers."""
        super().__init__()
        self._heads = heads
        self.queries_keys_values = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend.

        Args:
            tokens: Shape (n, tokens, dim).

        Returns:
            Shape (n, tokens, dim).
        """
        records, length, dim = tokens.shape
        split = self.queries_keys_values(tokens).reshape(records, length, 3, self._heads, dim // self._heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(queries @ keys.transpose(-2, -1) / math.sqrt(dim // self._heads), dim=-1)
        mixed: Tensor = self.out((weights @ values).transpose(1, 2).reshape(records, length, dim))
        return mixed


class EncoderBlock(nn.Module):
    """Attention and a two-layer perceptron, each on normalised tokens and added to them (equations 2 and 3).

    Args:
        dim: Width of a token.
        heads: Number of heads, a divisor of dim.

    Example:
        >>> EncoderBlock(8, 2)(torch.ones(1, 5, 8)).shape
        torch.Size([1, 5, 8])
    """

    def __init__(self, dim: int, heads: int) -> None:
        """Make the layers."""
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(dim), SelfAttention(dim, heads))
        self.perceptron = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, _EXPANSION * dim),
            nn.GELU(),
            nn.Linear(_EXPANSION * dim, dim),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform the tokens.

        Args:
            tokens: Shape (n, tokens, dim).

        Returns:
            Shape (n, tokens, dim).
        """
        tokens = tokens + self.attention(tokens)
        output: Tensor = tokens + self.perceptron(tokens)
        return output


class _Tokens(nn.Module):
    """Linear embeddings of the patches plus learnt positions (equation 1, without the class token)."""

    def __init__(self, channels: int, patch: int, count: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(channels, dim, patch, stride=patch)
        self.positions = nn.Parameter(_POSITION_SPREAD * torch.randn(count, dim))

    def forward(self, images: Tensor) -> Tensor:
        """From (n, channels, height, width) to (n, patches, dim)."""
        patches: Tensor = self.embedding(images).flatten(2).transpose(1, 2)
        return patches + self.positions


class _TokenMean(nn.Module):
    """Average over the tokens, in place of the class token."""

    def forward(self, tokens: Tensor) -> Tensor:
        """From (n, tokens, dim) to (n, dim)."""
        return tokens.mean(dim=1)


def vision_transformer(
    in_features: int,
    out_features: int,
    *,
    input_shape: list[int],
    patch: int = 4,
    depth: int = 4,
    heads: int = 4,
    dim: int = 64,
) -> nn.Module:
    """A vision transformer without dropout that averages its tokens.

    LayerNorm sees one token at a time and keeps no statistics, so there is nothing to choose. Average in place of a
    class token: Beyer, Zhai and Kolesnikov (arXiv 2205.01580).

    Args:
        in_features: Width of a flat row.
        out_features: Number of logits.
        input_shape: [channels, height, width] of an image.
        patch: Side of a square patch; divides height and width.
        depth: Number of blocks.
        heads: Attention heads; divide dim.
        dim: Width of a token.

    Returns:
        A network on flat rows.

    Raises:
        PolicyError: If a hyperparameter is not valid or the shape does not fit the rows.

    Example:
        >>> net = vision_transformer(64, 3, input_shape=[1, 8, 8], depth=1, heads=2, dim=8)
        >>> sum(parameter.numel() for parameter in net.parameters())
        1083
    """
    check_positive(patch=patch, depth=depth, heads=heads, dim=dim)
    image = image_layer(input_shape, in_features)
    channels, height, width = input_shape
    if height % patch or width % patch:
        raise PolicyError(
            "invalid patch",
            expected=f"a divisor of {height} and {width}, the image's sides",
            got=str(patch),
            remedy=_REMEDY,
        )
    if dim % heads:
        raise PolicyError(
            "invalid heads", expected=f"a divisor of dim = {dim}", got=str(heads), remedy=_REMEDY
        )
    return nn.Sequential(
        image,
        _Tokens(channels, patch, (height // patch) * (width // patch), dim),
        *(EncoderBlock(dim, heads) for _ in range(depth)),
        nn.LayerNorm(dim),
        _TokenMean(),
        nn.Linear(dim, out_features),
    )
