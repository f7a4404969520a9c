"""Gaussian noise from a cryptographic stream, in float64, and what its finite precision costs.

A secure seed alone is not enough: ``torch.manual_seed`` keys only 32 bits on the CPU, its generator is linear, and
float32 Box-Muller never passes 5.8 sigma. Here the key is 256 bits from the operating system, expanded by
ChaCha20 (RFC 8439); each coordinate is the scaled sum of four independent draws, which defeats attacks on the
low-order bits of a single draw (Holohan and Braghin 2021); each draw inverts the normal distribution function at
a uniform of 128 random bits, whose precision is relative, so that the tails reach below 2^-64.

Float64 noise ``Z'`` is never the ideal ``Z ~ N(0, sigma^2)``: it lies on a grid, and ``w + Z'`` can give ``w`` away
whatever its variance (Mironov 2012). An error that depends on the noise is no shift, so enlarging the sensitivity
by it would prove nothing. :meth:`GaussianNoise.add` therefore rounds ``w + Z'`` to the multiples of a public step
s (a power of two, sigma/512 < s <= sigma/256), and the finite precision is charged so, coordinate by coordinate:

1. *Coupling.* Fill the bits of a uniform up for ever: that is an ideal uniform, and the same bits give ideal Z and
   ``Z'``. Where every draw has a one among its first 64 bits, the uniform's relative error is at most 3 2^-53
   and |draw| < 9.2. With ndtri's absolute error at most 7.1e-15 (measured: 2.9e-15 at 127,000 points against 40
   digits), the roundings of the sum of four, of sigma z and of adding the rest of w modulo s,
   ``|Z' - Z| <= (2*7.1e-15 + 9.5e-15) sigma < r = 2^-45 sigma``, so r/s < 2^-36. Splitting w and counting
   whole steps are exact; no bound on the weights is needed.
2. *Failure.* Let ``Z''`` be ``Z'`` where that holds and ``|Z| <= 10 sigma``, and Z elsewhere. They differ with
   probability at most ``4*2^-64 + 2 Phi(-10) < 5*2^-64``: :func:`truncation_delta`.
3. *Rounding.* ``|Z'' - Z| <= r`` always, so a rounding cell's probability changes by at most the strips of width r at
   its two ends. Within 10.01 sigma the density varies over a cell by at most e^(10.01/256) < 1.04; further out
   ``Z'' = Z``. So rounded ``w + Z''`` and rounded ``w + Z`` are eta-indistinguishable with delta 0,
   ``eta = -ln(1 - 2.08*2^-36) < 2.1*2^-36``. A trade-off that passes (0, 1) and ``(p, p)``, ``p = 1/(1 + e^eta)``,
   in straight lines lies above the convex Gaussian one through the same points: mu-Gaussian-DP with
   ``mu = -2 Phi^-1(p) < 1.26 eta < 2^-34`` (Liu, Sun, Jiang and Kong 2022).
4. *All of it.* d independent coordinates are ``sqrt(d) mu``, rounding ``w + Z`` is post-processing, and along the
   chain ``w + Z''``, ``w + Z``, ``w_ref + Z``, ``w_ref + Z''`` the parameters add (composition and group privacy of
   Dong, Roth and Su 2022): ``m = Delta/sigma + 2 sqrt(d) mu``: :func:`rounding_m`.

That the stream's bits are uniform is a computational assumption, and the guarantee is computational.
"""

import math
import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray
from scipy.special import ndtri

from expunge.errors import InputError

GENERATOR = (
    "ChaCha20 keyed with 256 bits from the operating system; sum of 4 inverse-CDF draws; float64 on a grid"
)
KEY_BYTES = 32
DRAWS_PER_COORDINATE = 4
GRID = 8  # sigma is 2^8 to 2^9 steps of a release's grid
FINE_GRID = 20  # and 2^20 to 2^21 of the grid between noisy steps, where rounding moves what the next step starts from
_COUPLING_ERROR = 2.0**-45  # |float64 noise - ideal noise| / sigma; measured, see the module's point 1
_FAILURE = 5 * 2.0**-64  # probability per coordinate that the coupling fails
_MU = 2.0**-34  # Gaussian-DP parameter per coordinate between the float64 and the ideal release, on GRID
_SIGMA_RANGE = (1e-150, 1e150)  # far from where float64 over- or underflows
_BLOCK = 1 << 16  # coordinates made at a time: bounds memory
_NONCE = bytes(16)  # a key is used for one stream only


class GaussianNoise:
    """One stream of Gaussian noise under one key, used once and forgotten.

    Args:
        key: 32 bytes; by default fresh ones from the operating system. Tests alone pass a key.

    Raises:
        InputError: If the key is not 32 bytes.

    Example:
        >>> GaussianNoise().add(np.zeros(3), sigma=0.1).shape
        (3,)
    """

    def __init__(self, key: bytes | None = None) -> None:
        """Key the stream."""
        key = os.urandom(KEY_BYTES) if key is None else key
        if len(key) != KEY_BYTES:
            raise InputError("invalid noise key", expected=f"{KEY_BYTES} bytes", got=f"{len(key)} bytes")
        self._stream = Cipher(ChaCha20(key, _NONCE), mode=None).encryptor()

    def add(self, weights: NDArray[np.float64], sigma: float, grid: int = GRID) -> NDArray[np.float64]:
        """Add noise to weights and round to the public grid: the only form whose rounding is accounted for.

        Formula: ``s round((w + Z)/s)``, ``Z ~ N(0, sigma^2 I)``, ``s = release_step(sigma)``.
        Reference: Mironov, "On significance of the least significant bits for differential privacy" (CCS 2012).

        Args:
            weights: float64, shape (d,), finite.
            sigma: Noise scale, 1e-150 to 1e150.
            grid: Fineness of the grid, GRID or FINE_GRID.

        Returns:
            float64 array of shape (d,), multiples of the step.

        Raises:
            InputError: If sigma is out of range, or weights are not finite float64 in one dimension.

        Example:
            >>> float(GaussianNoise(bytes(32)).add(np.ones(1), sigma=1.0)[0] * 256 % 1)
            0.0
        """
        step = release_step(sigma, grid)
        if weights.dtype != np.float64 or weights.ndim != 1 or not np.isfinite(weights).all():
            raise InputError(
                "invalid weights to noise",
                expected="finite float64 in one dimension",
                got=f"{weights.dtype} of shape {weights.shape}",
                remedy="noise the exact weights before any cast",
            )
        released = np.empty_like(weights)
        for start in range(0, len(weights), _BLOCK):
            block = slice(start, start + _BLOCK)
            scaled = weights[block] / step  # exact: step is a power of two
            whole = np.rint(scaled)
            noised = (scaled - whole) + self._standard(len(scaled)) * (sigma / step)
            released[block] = (whole + np.rint(noised)) * step
        if not np.isfinite(released).all():
            raise InputError("weights overflow", expected="|weight| far below 1e300", got="an infinite sum")
        return released

    def draw(self, size: int, sigma: float) -> NDArray[np.float64]:
        """Draw independent ``N(0, sigma^2)`` values, not rounded: for tests and forecasts, not for a release.

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
        uniform = (high + (low + 0.5) * 2.0**-64) * 2.0**-64  # in (0, 1], relative precision 3 2^-53
        sign = np.where(words[2] & 1, 1.0, -1.0)
        draws = sign * ndtri(np.minimum(uniform, 1.0) / 2)
        return np.asarray(draws.sum(axis=1) / math.sqrt(DRAWS_PER_COORDINATE))


def release_step(sigma: float, grid: int = GRID) -> float:
    """Step of the public grid that a release is rounded to.

    Formula: ``2^(floor(log2 sigma) - grid)``: it depends on sigma alone, which is policy.

    Args:
        sigma: Noise scale, 1e-150 to 1e150.
        grid: Fineness of the grid, GRID or FINE_GRID.

    Returns:
        A power of two, above ``sigma 2^-(grid+1)`` and at most ``sigma 2^-grid``.

    Raises:
        InputError: If sigma is out of range.

    Example:
        >>> release_step(1.0)
        0.00390625
    """
    if not _SIGMA_RANGE[0] <= sigma <= _SIGMA_RANGE[1]:
        raise InputError("invalid sigma", expected="a number from 1e-150 to 1e150", got=repr(sigma))
    return math.ldexp(1.0, math.frexp(sigma)[1] - 1 - grid)


def rounding_m(size: int, grid: int = GRID) -> float:
    """What rounding in float64 adds to the Gaussian-DP parameter m of one draw.

    Formula: ``2 sqrt(size) 2^(grid - 42)``, the module's points 3 and 4; measured, through the error of ndtri. A finer
    grid has more cell boundaries for the noise's own error to cross: the ratio r/s, and mu with it, doubles with each
    halving of the step.

    Args:
        size: Number of noised coordinates, over all steps, at least 0.
        grid: Fineness of the grid, GRID or FINE_GRID.

    Returns:
        The term to add to ``Delta / sigma``.

    Example:
        >>> rounding_m(10_000_000) < 4e-7
        True
    """
    return 2 * math.sqrt(size) * _MU * 2.0 ** (grid - GRID)


def truncation_delta(size: int, epsilon: float) -> float:
    """What the draws that the coupling with ideal noise leaves out add to delta.

    Formula: ``(1 + e^epsilon) * size * 5 * 2^-64``, the module's point 2: two processes that each differ from
    another with probability p turn (epsilon, delta) into ``(epsilon, delta + (1 + e^epsilon) p)``.

    Args:
        size: Number of noised coordinates, at least 0.
        epsilon: The epsilon that is claimed, in nats.

    Returns:
        The term to add to delta, at most 1.

    Example:
        >>> truncation_delta(100_000, 1.0) < 2e-13
        True
    """
    return min(1.0, (1 + math.exp(min(epsilon, 700.0))) * size * _FAILURE)
