"""The statistical assertions themselves: their false-alarm rate and their twins."""

import numpy as np
import pytest

from tests.stats import assert_mean, z_scores


def test_rate_of_false_alarms_is_the_stated_one():
    """At alpha = 0.01, 2000 repeats give 20 ± 4.4 alarms; 60 has probability below 1e-10."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(2000):
        try:
            assert_mean(rng.normal(size=(200, 3)), np.zeros(3), alpha=0.01)
        except AssertionError:
            alarms += 1
    assert alarms < 60


def test_a_biased_mean_is_found():
    draws = np.random.default_rng(1).normal(size=(4000, 3))
    with pytest.raises(AssertionError, match="largest"):
        assert_mean(draws, np.array([0.0, 0.0, 0.15]))


def test_constant_draws_are_compared_exactly():
    assert z_scores(np.full((10, 2), 3.0), np.array([3.0, 3.0])).max() == 0
    with pytest.raises(AssertionError):
        assert_mean(np.full((10, 2), 3.0), np.array([3.0, 3.1]))
