import math

import numpy as np
import pytest
from scipy.stats import norm

from expunge.errors import BudgetExceededError
from expunge.privacy.accountant import LedgerLimits, SequentialAccount, compose_m, composed_epsilon
from expunge.privacy.gaussian import gaussian_delta


def test_composition_is_root_sum():
    assert compose_m([3.0, 4.0]) == 5.0
    assert composed_epsilon(0.1, 4, 1e-6)[0] == pytest.approx(0.2)
    assert composed_epsilon(0.1, 2, 1e-6)[1] > composed_epsilon(0.1, 1, 1e-6)[1]


def test_redrawing_until_a_gate_passes_breaks_the_single_draw_bound():
    """Trap (certificates.md section 2): gate |w| >= 2, m = 0.5, epsilon = 1: claimed 0.0068, true 0.269."""
    claimed = gaussian_delta(1.0, 0.5)
    assert claimed == pytest.approx(0.0068, abs=2e-4)

    def gated(mean):  # density of w given |w| >= 2, on a grid
        grid = np.linspace(-8, 8, 160_001)
        density = np.where(np.abs(grid) >= 2, norm.pdf(grid, loc=mean), 0.0)
        return density / (density.sum() * (grid[1] - grid[0])), grid[1] - grid[0]

    p, width = gated(0.5)
    q, _ = gated(0.0)
    true = max(
        float(np.maximum(p - math.e * q, 0).sum() * width), float(np.maximum(q - math.e * p, 0).sum() * width)
    )
    assert true > 10 * claimed


def test_account_sums_and_limits():
    limits = LedgerLimits(accumulated_error=2.5, composed_epsilon=1.0, releases=3)
    account = SequentialAccount()
    for _ in range(2):
        account = account.after_release(1.0)
        account.check(limits)
    assert (account.step, account.accumulated_error, account.uniform_error) == (2, 2.0, 1.0)
    with pytest.raises(BudgetExceededError, match="retrain"):
        account.after_release(1.0).check(limits)
    many = SequentialAccount()
    for _ in range(4):
        many = many.after_release(0.1)
    with pytest.raises(BudgetExceededError, match="releases"):
        many.check(limits)
