import numpy as np
import pytest
from scipy import stats

from expunge.errors import InputError
from expunge.privacy.noise import KEY_BYTES, GaussianNoise, truncation_delta


def test_keys_that_agree_in_their_first_32_bits_give_other_noise():
    """Trap: torch.manual_seed gives the same noise for seeds 5 and 5 + 2^32."""
    low = (5).to_bytes(KEY_BYTES, "little")
    high = (5 + 2**32).to_bytes(KEY_BYTES, "little")
    highest = (5 + 2**250).to_bytes(KEY_BYTES, "little")
    drawn = [GaussianNoise(key).draw(8, 1.0) for key in (low, high, highest)]
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_fresh_noise_never_repeats():
    assert not np.array_equal(GaussianNoise().draw(8, 1.0), GaussianNoise().draw(8, 1.0))


def test_the_same_key_gives_the_same_stream_and_it_moves_on():
    one, other = GaussianNoise(b"k" * KEY_BYTES), GaussianNoise(b"k" * KEY_BYTES)
    first = one.draw(5, 1.0)
    np.testing.assert_array_equal(first, other.draw(5, 1.0))
    assert not np.array_equal(first, one.draw(5, 1.0))


def test_distribution():
    drawn = GaussianNoise(bytes(range(KEY_BYTES))).draw(400_000, 2.0)
    assert stats.kstest(drawn / 2.0, "norm").pvalue > 1e-3
    assert drawn.std() == pytest.approx(2.0, rel=0.01)
    assert stats.kurtosis(drawn) == pytest.approx(0.0, abs=0.04)


def test_tails_pass_where_float32_box_muller_stops():
    """About 2e-3 of a million values lie beyond 3.1 sigma, and single draws can pass 5.8 sigma by far."""
    from scipy.special import ndtri

    assert -ndtri(2.0**-65) > 9.0  # the deepest single draw of the construction
    drawn = GaussianNoise(b"t" * KEY_BYTES).draw(1_000_000, 1.0)
    beyond = int((np.abs(drawn) > 4.0).sum())
    assert 30 <= beyond <= 110  # 63 expected


def test_truncation_is_far_below_any_delta_of_policy():
    assert 0 < truncation_delta(10_000_000, 1.0) < 1e-10
    assert truncation_delta(10, 2.0) > truncation_delta(10, 1.0)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("inf"), float("nan")])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(InputError, match="sigma"):
        GaussianNoise().draw(1, sigma)


def test_short_keys_are_refused():
    with pytest.raises(InputError, match="32 bytes"):
        GaussianNoise(b"short")
