"""Gaussian noise from a cryptographic stream, in float64.

A secure seed alone is not enough: ``torch.manual_seed`` keys only 32 bits on the CPU, its generator is linear, and
float32 Box-Muller never passes 5.8 sigma. Here the key is 256 bits from the operating system, expanded by
ChaCha20 (RFC 8439); each coordinate is the scaled sum of four independent draws, which defeats attacks on the
low-order bits of a single draw (Holohan and Braghin 2021); each draw inverts the normal distribution function at
a uniform of 128 random bits, whose precision is relative, so that the tails reach below 2^-64.
"""

import math
import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray
from scipy.special import ndtri

from expunge.errors import InputError

GENERATOR = "ChaCha20 keyed with 256 bits from the operating system; sum of 4 inverse-CDF draws; float64"
KEY_BYTES = 32
DRAWS_PER_COORDINATE = 4
_BLOCK = 1 << 16  # coordinates made at a time: bounds memory
_NONCE = bytes(16)  # a key is used for one stream only


class GaussianNoise:
    """One stream of Gaussian noise under one key, used once and forgotten.

    Args:
        key: 32 bytes; by default fresh ones from the operating system. Tests alone pass a key.

    Raises:
        InputError: If the key is not 32 bytes.

    Example:
        >>> GaussianNoise().draw(3, sigma=0.1).shape
        (3,)
    """

    def __init__(self, key: bytes | None = None) -> None:
        """Key the stream."""
        key = os.urandom(KEY_BYTES) if key is None else key
        if len(key) != KEY_BYTES:
            raise InputError("invalid noise key", expected=f"{KEY_BYTES} bytes", got=f"{len(key)} bytes")
        self._stream = Cipher(ChaCha20(key, _NONCE), mode=None).encryptor()

    def draw(self, size: int, sigma: float) -> NDArray[np.float64]:
        """Draw independent ``N(0, sigma^2)`` values.

        Args:
            size: Number of coordinates, at least 0.
            sigma: Noise scale, finite, above 0.

        Returns:
            float64 array of shape (size,).

        Raises:
            InputError: If sigma is not a positive finite number.
        """
        if not 0 < sigma < math.inf:
            raise InputError("invalid sigma", expected="a finite number > 0", got=repr(sigma))
        blocks = [self._standard(min(_BLOCK, size - start)) for start in range(0, size, _BLOCK)]
        return sigma * np.concatenate(blocks) if blocks else np.empty(0)

    def _standard(self, size: int) -> NDArray[np.float64]:
        words = np.frombuffer(
            self._stream.update(bytes(size * DRAWS_PER_COORDINATE * 24)), dtype="<u8"
        ).reshape(3, size, DRAWS_PER_COORDINATE)
        high, low = words[0].astype(np.float64), words[1].astype(np.float64)
        uniform = (high + (low + 0.5) * 2.0**-64) * 2.0**-64  # in (0, 1], relative precision 2^-53
        sign = np.where(words[2] & 1, 1.0, -1.0)
        draws = sign * ndtri(np.minimum(uniform, 1.0) / 2)
        return np.asarray(draws.sum(axis=1) / math.sqrt(DRAWS_PER_COORDINATE))


def truncation_delta(size: int, epsilon: float) -> float:
    """What the generator's own error adds to delta.

    Formula: ``(1 + e^epsilon) * size * 4 * 2^-64``: with probability at most 2^-64 a draw falls where its uniform
    has lost relative precision; a total-variation error tv of the noise costs ``(1 + e^epsilon) tv`` in delta.

    Args:
        size: Number of noised coordinates.
        epsilon: The epsilon that is claimed, in nats.

    Returns:
        The term to add to delta.

    Example:
        >>> truncation_delta(100_000, 1.0) < 1e-13
        True
    """
    return (1 + math.exp(min(epsilon, 700.0))) * size * DRAWS_PER_COORDINATE * 2.0**-64
