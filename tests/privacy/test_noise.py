import math

import mpmath
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.special import ndtri

from expunge.errors import InputError
from expunge.privacy import noise
from expunge.privacy.gaussian import gaussian_delta
from expunge.privacy.noise import (
    DRAWS_PER_COORDINATE,
    KEY_BYTES,
    GaussianNoise,
    release_step,
    rounding_m,
    truncation_delta,
)

DRAWS = 1_000_000
RFC8439_BLOCKS = (  # RFC 8439, A.1, test vectors 1 and 2: key and nonce zero, counters 0 and 1
    "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
    "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
)


@pytest.fixture(scope="module")
def drawn() -> NDArray[np.float64]:
    """A million draws under a fixed key: every test of them gives the same figures every time."""
    return GaussianNoise(bytes(range(KEY_BYTES))).draw(DRAWS, 1.0)


# The stream


def test_the_stream_is_chacha20_of_rfc_8439():
    assert GaussianNoise(bytes(KEY_BYTES))._stream.update(bytes(128)).hex() == RFC8439_BLOCKS


def test_keys_that_agree_in_their_first_32_bits_give_other_noise():
    """Trap: torch.manual_seed gives the same noise for seeds 5 and 5 + 2^32."""

    def torch_noise(seed: int) -> torch.Tensor:
        return torch.randn(8, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(torch_noise(5), torch_noise(5 + 2**32))
    low = (5).to_bytes(KEY_BYTES, "little")
    high = (5 + 2**32).to_bytes(KEY_BYTES, "little")
    highest = (5 + 2**250).to_bytes(KEY_BYTES, "little")
    noises = [GaussianNoise(key).draw(8, 1.0) for key in (low, high, highest)]
    assert not np.array_equal(noises[0], noises[1])
    assert not np.array_equal(noises[0], noises[2])


def test_fresh_noise_never_repeats():
    assert not np.array_equal(GaussianNoise().draw(8, 1.0), GaussianNoise().draw(8, 1.0))


def test_the_same_key_gives_the_same_stream_and_it_moves_on():
    one, other = GaussianNoise(b"k" * KEY_BYTES), GaussianNoise(b"k" * KEY_BYTES)
    first = one.draw(5, 1.0)
    np.testing.assert_array_equal(first, other.draw(5, 1.0))
    assert not np.array_equal(first, one.draw(5, 1.0))


def test_short_keys_are_refused():
    with pytest.raises(InputError, match="32 bytes"):
        GaussianNoise(b"short")


# Statistics: each threshold is the 0.1 % point of its statistic, or 4 standard errors


def test_kolmogorov_smirnov(drawn):
    assert stats.kstest(drawn, "norm").pvalue > 1e-3


def test_anderson_darling_against_the_fully_specified_normal(drawn):
    """Reference: Anderson and Darling 1954; 6.0 is the 0.1 % point of A^2 where no parameter is fitted."""
    ordered, n = np.sort(drawn), len(drawn)
    weights = 2 * np.arange(1, n + 1) - 1
    a_squared = -n - np.mean(weights * (stats.norm.logcdf(ordered) + stats.norm.logsf(ordered[::-1])))
    assert 0 < a_squared < 6.0


@pytest.mark.parametrize("order", range(1, 7))
def test_moments(drawn, order):
    """E Z^k = (k-1)!! for even k, 0 for odd k; its mean's variance is (E Z^2k - (E Z^k)^2) / n."""

    def moment(k: int) -> int:
        return 0 if k % 2 else math.prod(range(1, k, 2))

    error = math.sqrt((moment(2 * order) - moment(order) ** 2) / len(drawn))
    assert np.mean(drawn**order) == pytest.approx(moment(order), abs=4 * error)


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 16, 64, 1 << 16])
def test_coordinates_are_uncorrelated_in_value_and_in_size(drawn, lag):
    for values in (drawn, np.abs(drawn)):
        assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 4 / math.sqrt(len(values) - lag)


def test_different_keys_are_uncorrelated(drawn):
    """Keys one bit apart, at either end."""
    for bit in (0, 255):
        key = (int.from_bytes(bytes(range(KEY_BYTES)), "little") ^ (1 << bit)).to_bytes(KEY_BYTES, "little")
        other = GaussianNoise(key).draw(500_000, 1.0)
        assert abs(np.corrcoef(drawn[:500_000], other)[0, 1]) < 4 / math.sqrt(500_000)


@pytest.mark.parametrize("beyond", [3.0, 4.0, 4.5, 5.0])
def test_tail_counts(drawn, beyond):
    expected = len(drawn) * stats.norm.sf(beyond)
    for tail in (drawn, -drawn):
        count = int((tail > beyond).sum())
        assert stats.binomtest(count, len(drawn), expected / len(drawn)).pvalue > 1e-3


def test_no_coordinate_repeats(drawn):
    """Two of 1e6 float64 normals are equal with probability below 1e-2; float32 ones repeat by the thousand."""
    assert len(np.unique(drawn)) == len(drawn)
    assert len(np.unique(drawn.astype(np.float32))) < len(drawn)


def test_tails_pass_where_float32_box_muller_stops():
    assert -ndtri(2.0**-65) > 9.0  # the deepest draw inside the coupling


# Finite precision


def test_ndtri_is_as_accurate_as_the_coupling_assumes():
    """|error| <= 7.1e-15 over all a draw can ask for, against 40 digits: (Phi(x) - p) / phi(x)."""
    random = np.random.default_rng(1)
    near = [p * (1 + random.uniform(-1e-3, 1e-3, 200)) for p in (math.exp(-32), math.exp(-2))]  # its branches
    p = np.concatenate([2.0 ** -random.uniform(1, 65, 2000), random.uniform(0, 0.5, 2000), *near])
    with mpmath.workdps(40):
        for probability, x in zip(p.tolist(), ndtri(p).tolist(), strict=True):
            exact = mpmath.mpf(x)
            assert abs((mpmath.ncdf(exact) - probability) / mpmath.npdf(exact)) <= 7.1e-15


class _Words:
    """A stream that says what the test wants: `ordinary` ChaCha20 bits, or `deep` ones, far out in the tails."""

    def __init__(self, kind: str) -> None:
        self.kind, self.said = kind, np.empty(0, dtype="<u8")

    def update(self, data: bytes) -> bytes:
        stream = GaussianNoise(b"c" * KEY_BYTES)._stream.update(data)
        self.said = np.frombuffer(stream, dtype="<u8").reshape(3, -1, DRAWS_PER_COORDINATE).copy()
        if self.kind == "deep":  # the first 64 bits of a uniform hold 1 to 15
            self.said[0] = self.said[0] % 15 + 1
        return self.said.tobytes()


@pytest.mark.parametrize("kind", ["ordinary", "deep"])
def test_float64_noise_lies_within_the_coupling_error_of_ideal_noise(kind):
    """The same bits through 60-digit arithmetic."""
    words, generator = _Words(kind), GaussianNoise()
    generator._stream = words
    drawn = generator.draw(100, 1.0).tolist()
    with mpmath.workdps(60):
        for i, value in enumerate(drawn):
            ideal = mpmath.mpf(0)
            for high, low, sign in zip(*words.said[:, i].tolist(), strict=True):
                u = (mpmath.mpf(high) * 2**64 + low + 0.5) / mpmath.mpf(2) ** 128
                magnitude = mpmath.sqrt(2) * mpmath.erfinv(1 - u)
                ideal += -magnitude if sign & 1 else magnitude
            assert abs(ideal / 2 - value) < noise._COUPLING_ERROR


def test_the_constants_follow_from_one_another():
    """The module's derivation, recomputed with 50 digits at the worst sigma (just below a power of two)."""
    sigma = math.nextafter(1.0, 0.0)
    with mpmath.workdps(50):
        coupling = 2 * mpmath.mpf(7.1e-15) + mpmath.mpf(9.5e-15)
        assert coupling < noise._COUPLING_ERROR
        ratio = mpmath.mpf(noise._COUPLING_ERROR) * sigma / release_step(sigma)
        assert ratio < mpmath.mpf(2) ** -36
        density = mpmath.exp(mpmath.mpf("10.01") / 256 * (1 + 2 * ratio))
        eta = -mpmath.log(1 - 2 * ratio * density)
        half = (mpmath.exp(eta) - 1) / (mpmath.exp(eta) + 1) / 2  # 1/2 - p
        assert 2 * mpmath.sqrt(2) * mpmath.erfinv(2 * half) < noise._MU
        assert 4 * mpmath.mpf(2) ** -64 + 2 * mpmath.ncdf(-10) < noise._FAILURE


@pytest.mark.parametrize("sigma", [1.0, 0.01, 0.3, 1e-5, 200.0])
def test_the_step_is_a_power_of_two_between_sigma_over_512_and_over_256(sigma):
    step = release_step(sigma)
    assert math.frexp(step)[0] == 0.5
    assert sigma / 512 < step <= sigma / 256


@pytest.mark.parametrize("shift", [0.0, 0.123456789, -3e-17, 1e-300, -7.5, 1e12])
def test_a_release_is_its_weights_and_noise_rounded_to_the_grid(shift):
    sigma, key = 0.01, b"r" * KEY_BYTES
    step = release_step(sigma)
    weights = np.linspace(-1.0, 1.0, 70_000) + shift  # more than one block
    released = GaussianNoise(key).add(weights, sigma)
    np.testing.assert_array_equal(released, np.rint(released / step) * step)
    drawn = GaussianNoise(key).draw(len(weights), sigma)
    assert (drawn / step != np.rint(drawn / step)).all()  # what an attack on the low-order bits would read
    limit = step / 2 + 1e-12 * sigma + 2 * np.spacing(np.abs(weights).max())
    assert np.abs(released - weights - drawn).max() <= limit


def test_a_shift_of_whole_steps_shifts_the_release_exactly():
    """The size of the weights costs no precision: nothing has to bound them."""
    sigma, key, size = 0.01, b"s" * KEY_BYTES, 20_000
    at_zero = GaussianNoise(key).add(np.zeros(size), sigma)
    shift = 2.0**50 * release_step(sigma)
    np.testing.assert_array_equal(GaussianNoise(key).add(np.full(size, shift), sigma), at_zero + shift)


def test_released_noise_is_gaussian_on_the_grid():
    """Chi-squared of the cells, in steps, against the normal's own cell probabilities."""
    sigma, offset = 1.0, 0.3
    step = release_step(sigma)
    released = GaussianNoise(b"g" * KEY_BYTES).add(np.full(1_000_000, offset), sigma)
    cells = np.arange(-768, 769)  # within 3 sigma
    observed = np.bincount(np.clip(np.rint(released / step), -769, 769).astype(np.int64) + 769)
    edges = np.concatenate([[-np.inf], (cells - 0.5) * step, [(768.5) * step, np.inf]])
    expected = np.diff(stats.norm.cdf(edges - offset)) * len(released)
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_rounding_is_far_below_any_m_of_policy_and_honest_in_delta():
    assert rounding_m(0) == 0
    assert rounding_m(400) == 2 * rounding_m(100)
    assert rounding_m(10_000_000) < 4e-7
    m = 0.002  # epsilon 0.01 at delta 1.1e-10
    assert gaussian_delta(0.01, m) < gaussian_delta(0.01, m + rounding_m(100_000)) < 1.1e-10


def test_truncation_is_far_below_any_delta_of_policy():
    assert 0 < truncation_delta(10_000_000, 1.0) < 1e-10
    assert truncation_delta(10, 2.0) > truncation_delta(10, 1.0)
    assert truncation_delta(10, 1e6) == 1.0


# Refusals


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("inf"), float("nan")])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(InputError, match="sigma"):
        GaussianNoise().draw(1, sigma)
    with pytest.raises(InputError, match="sigma"):
        GaussianNoise().add(np.zeros(1), sigma)


@pytest.mark.parametrize(
    "weights", [np.zeros(2, np.float32), np.zeros((2, 2)), np.array([np.nan]), np.array([np.inf])]
)
def test_weights_must_be_finite_float64_vectors(weights):
    with pytest.raises(InputError, match="before any cast"):
        GaussianNoise().add(weights, 1.0)
