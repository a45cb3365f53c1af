"""How good an approximation is, from fresh draws that the fit has not seen."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from vi.compile import quick_jit
from vi.posterior.psis import Psis, psis
from vi.random import fast_key
from vi.targets import Target

_BLOCK = 256  # draws evaluated at once
_OPERATIONS = 3.6e8  # spent on the log densities of the draws, unless told otherwise
_FEWEST, _MOST = 2048, 8192


class Diagnostics(NamedTuple):
    """Fresh draws from q, weighed against the target."""

    draws: np.ndarray  # unconstrained, shape (S, D)
    log_p: np.ndarray
    log_q: np.ndarray
    elbo: float
    elbo_sem: float
    psis: Psis
    log_evidence: float  # importance-sampling estimate, from the smoothed weights
    bad: float  # share of draws at which the target's log density is not finite

    @property
    def khat(self) -> float:
        """Tail shape of the importance weights."""
        return self.psis.khat


@partial(quick_jit, static_argnames=("num_draws",))
def _draw_and_weigh(
    key: Array, q: Any, target: Target, num_draws: int
) -> tuple[Array, Array, Array]:
    z, log_q = q.sample_and_log_prob(fast_key(key), num_draws)
    return z, jax.lax.map(target.log_density, z, batch_size=_BLOCK), log_q


def default_draws(target: Target) -> int:
    """Number of draws worth their cost: a multiple of 1024 between 2048 and 8192."""
    affordable = 1024 * int(_OPERATIONS / target.operations / 1024)
    return min(max(affordable, _FEWEST), _MOST)


def diagnose(key: Array, q: Any, target: Target, num_draws: int | None = None) -> Diagnostics:
    r"""Estimate the ELBO, k-hat and the log evidence with fresh draws from q.

    .. math::

       \widehat{\text{ELBO}} = \tfrac1S \sum_s \log w_s, \qquad
       \log\hat Z = \log \tfrac1S \sum_s w_s, \qquad w_s = p(z_s) / q(z_s)

    Args:
      key: a key; use one that the fit has not used.
      q: a family.
      target: the target.
      num_draws: S, rounded up to a multiple of 256; by default what costs about 4e8
        operations, between 2048 and 8192.

    Returns:
      The diagnostics. The ELBO is -inf if any draw has density zero under the target.

    Complexity:
      S log densities, no gradients; O(S D) memory.
    """
    count = num_draws or default_draws(target)
    count = _BLOCK * math.ceil(count / _BLOCK)
    z, log_p, log_q = map(np.asarray, _draw_and_weigh(key, q, target, count))
    ratios = log_p.astype(float) - log_q.astype(float)
    finite = np.isfinite(ratios)
    smoothed = psis(ratios)
    kept = ratios[finite]
    weights = np.exp(smoothed.log_weights)
    log_evidence = math.nan
    if finite.any():  # mean of the smoothed weights: undo their normalisation at a plain draw
        plain = int(np.argsort(np.where(finite, ratios, -np.inf))[count // 2])
        if finite[plain] and weights[plain] > 0:
            log_evidence = float(ratios[plain] - smoothed.log_weights[plain] - math.log(count))
    return Diagnostics(
        draws=z,
        log_p=log_p,
        log_q=log_q,
        elbo=float(kept.mean()) if finite.all() else -math.inf,
        elbo_sem=float(kept.std(ddof=1) / math.sqrt(len(kept))) if len(kept) > 1 else math.nan,
        psis=smoothed,
        log_evidence=log_evidence,
        bad=float(1 - finite.mean()),
    )


def misfit(found: Diagnostics, q: Any) -> np.ndarray:
    """How much of the variation of log p - log q each coordinate accounts for, shape ``(D,)``.

    The squared correlation of the log weights with the coordinate and its square, the larger
    of the two: near zero everywhere where q fits, and near one where one coordinate is to blame.
    """
    ratios = found.log_p.astype(float) - found.log_q.astype(float)
    use = np.isfinite(ratios)
    if use.sum() < 10 or np.std(ratios[use]) == 0:
        return np.zeros(found.draws.shape[1])
    scale = np.sqrt(np.asarray(q.variance(), float))
    x = (found.draws[use] - np.asarray(q.loc, float)) / np.where(scale > 0, scale, 1.0)
    r = (ratios[use] - ratios[use].mean()) / ratios[use].std()
    out = np.zeros(x.shape[1])
    for feature in (x, x**2 - 1):
        centred = feature - feature.mean(0)
        spread = centred.std(0)
        spread[spread == 0] = 1.0
        out = np.maximum(out, (r @ centred / len(r) / spread) ** 2)
    return out
