"""Pareto-smoothed importance sampling, on the host.

ArviZ has the same computation, but importing it takes longer than a fit.
"""

import math
from typing import NamedTuple

import numpy as np

LIMIT = 0.7  # k-hat above which importance weights, and so the approximation, are not reliable
_EQUAL = 1e-4  # log ratios that differ by less are one


class Psis(NamedTuple):
    """What the tail of the importance weights says."""

    khat: float
    khat_sem: float
    log_weights: np.ndarray  # smoothed, normalised: their exponentials sum to one
    effective_sample_size: float


def psis(log_ratios: np.ndarray) -> Psis:
    r"""Smooth importance ratios and estimate the shape k of their tail.

    The M = min(S/5, 3√S) largest ratios are replaced by the quantiles of the generalised Pareto
    distribution fitted to them; ratios that are not finite count as zero. Reference: Vehtari,
    Simpson, Gelman, Yao and Gabry (2024), "Pareto smoothed importance sampling", Algorithm 1.

    Args:
      log_ratios: log p - log q at draws from q, shape ``(S,)``, nats.

    Returns:
      The estimate of k; its asymptotic standard error (1 + k)/√M; the smoothed normalised log
      weights, shape ``(S,)``; and the effective sample size of the weights.
      With fewer than five tail draws k is infinite. Where the tail's weights are equal to four
      digits, as they are if q is the target, k is minus infinity: there is no tail.
    """
    lw = np.where(np.isfinite(log_ratios), np.asarray(log_ratios, float), -np.inf)
    size = len(lw)
    if not np.isfinite(lw).any():
        return Psis(math.inf, math.nan, np.full(size, -math.log(size)), 0.0)
    lw = lw - lw.max()
    tail = math.ceil(min(0.2 * size, 3 * math.sqrt(size)))
    order = np.argsort(lw)
    cut = max(lw[order[-tail - 1]], math.log(np.finfo(float).tiny))
    where = order[-tail:][lw[order[-tail:]] > cut]
    khat, sem = math.inf, math.nan
    if cut > -_EQUAL:
        khat, sem = -math.inf, 0.0
    elif len(where) > 4:
        khat, scale = _fit_pareto(np.exp(lw[where]) - math.exp(cut))
        sem = (1 + max(khat, 0.0)) / math.sqrt(len(where))
        if math.isfinite(khat):
            p = (np.arange(len(where)) + 0.5) / len(where)
            small = abs(khat) < 1e-9
            quantile = -np.log1p(-p) if small else np.expm1(-khat * np.log1p(-p)) / khat
            lw[where] = np.minimum(np.log(scale * quantile + math.exp(cut)), 0.0)
    lw = lw - np.logaddexp.reduce(lw)
    return Psis(khat, sem, lw, float(np.exp(-np.logaddexp.reduce(2 * lw))))


def _fit_pareto(exceedances: np.ndarray) -> tuple[float, float]:
    """Shape and scale of the generalised Pareto distribution of sorted positive exceedances.

    Zhang and Stephens (2009), "A new and efficient estimation method for the generalized Pareto
    distribution", with the weak prior at k = 0.5 worth ten draws of Vehtari et al. (2024).
    """
    x, n = exceedances, len(exceedances)
    grid = 30 + int(math.sqrt(n))
    b = 1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
    b = b / (3 * x[int(n / 4 + 0.5) - 1]) + 1 / x[-1]
    with np.errstate(all="ignore"):
        k = np.log1p(-b[:, None] * x).mean(1)
        profile = n * (np.log(-b / k) - k - 1)
        weights = 1 / np.exp(np.minimum(profile - profile[:, None], 700)).sum(1)
    weights = np.where(weights >= 10 * np.finfo(float).eps, weights, 0)
    b_mean = float((b * weights).sum() / weights.sum())
    k_mean = float(np.log1p(-b_mean * x).mean())
    return (n * k_mean + 5) / (n + 10), -k_mean / b_mean
