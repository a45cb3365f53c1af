"""Statistical assertions with a stated rate of false alarms.

Each fails on a correct estimator with probability at most ``alpha`` (1e-6, Bonferroni over
coordinates), whatever the seed; seeds are fixed all the same. A test that uses one has a twin that
feeds it a biased estimator and must fail.
"""

import numpy as np
from scipy import stats

ALPHA = 1e-6


def z_scores(draws: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Studentised errors of the means of independent draws, shape ``(S, *shape)``."""
    draws = np.asarray(draws, float)
    error = draws.mean(0) - np.asarray(expected, float)
    sem = draws.std(0, ddof=1) / np.sqrt(len(draws))
    exact = np.abs(error) < 1e-9 * (1 + np.abs(expected))
    return np.where(exact, 0.0, error / np.where(sem > 0, sem, np.finfo(float).tiny))


def assert_mean(draws: np.ndarray, expected: np.ndarray, alpha: float = ALPHA) -> None:
    """Fail if the mean of independent draws differs from what is expected.

    It detects a bias of about (5 + 2)/√S standard deviations of a draw nearly always.
    """
    scores = np.abs(z_scores(draws, expected))
    limit = stats.t.isf(alpha / (2 * scores.size), len(draws) - 1)
    assert scores.max() < limit, f"largest |z| {scores.max():.2f}, limit {limit:.2f}"
