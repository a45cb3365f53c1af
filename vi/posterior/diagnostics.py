"""How good an approximation is, from fresh draws that the fit has not seen."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from vi.compile import quick_jit
from vi.posterior.psis import LIMIT, Psis, psis
from vi.posterior.unseen import unseen
from vi.random import fast_key
from vi.targets import StreamedTarget, Target

_BLOCK = 1024  # draws made by one call of the compiled function, whatever their number
_OPERATIONS = 2.4e8  # spent on the log densities of the draws, unless told otherwise
_FEWEST, _MOST, _MOST_BATCHES = 2048, 8192, 2
_ENDLESS = 1e100  # draws of an improper posterior; their squares overflow
_FROM_EACH = 2048  # draws of each optimum, to weigh them against each other
_TO_BLAME = 2048  # draws, to tell which coordinate is


class Diagnostics(NamedTuple):
    """Fresh draws from q, weighed against the target.

    Attributes:
      draws: of the first batch, unconstrained, shape ``(S, D)``.
      log_p: log density of the target at these, shape ``(S,)``.
      log_q: log density of q at these, shape ``(S,)``.
      elbo: the mean of log p - log q, nats; this and all that follows from all batches.
      elbo_sem: its standard error.
      khat: shape of the generalised Pareto distribution that the largest importance weights follow.
      khat_sem: its standard error.
      efficiency: effective sample size of the weights, per draw.
      log_evidence: by importance sampling, nats.
      bad: share of draws at which the target's log density is not finite.
      num_draws: of all batches.
      mean_shift: largest move of a coordinate's mean by the weights, in standard deviations of q.
      sd_shift: the same of its standard deviation, relative.
      missed: share of the mass found that lies where q has none.
      cut: share of the mass beyond the draws of q; see `vi.posterior.cut`.
      cut_shift: the move that it makes in any mean or standard deviation.
      unseen: share of the mass or a variance beyond the draws, the largest of all batches; see
        `vi.posterior.unseen`. NaN where k-hat is below 0.7, and nobody asks.
    """

    draws: np.ndarray
    log_p: np.ndarray
    log_q: np.ndarray
    elbo: float
    elbo_sem: float
    khat: float
    khat_sem: float
    efficiency: float
    log_evidence: float
    bad: float
    num_draws: int
    mean_shift: float = 0.0
    sd_shift: float = 0.0
    missed: float = 0.0
    cut: float = 0.0
    cut_shift: float = 0.0
    unseen: float = math.nan


def _drawn(key: Array, q: Any, block: Array) -> tuple[Array, Array]:
    return q.sample_and_log_prob(jax.random.fold_in(fast_key(key), block), _BLOCK)


_draw = quick_jit(_drawn)


@quick_jit
def _draw_and_weigh(key: Array, q: Any, target: Target, block: Array) -> tuple[Array, Array, Array]:
    z, log_q = _drawn(key, q, block)
    return z, target.log_densities(z), log_q


def weighed_draws(
    key: Array, q: Any, target: Target, number: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws of batch ``number``, their log densities under the target, and those under q."""
    blocks = math.ceil(size / _BLOCK)
    numbers = [np.int32(number * blocks + block) for block in range(blocks)]
    if isinstance(target, StreamedTarget):  # one pass over the rows for all draws
        drawn = [_draw(key, q, block) for block in numbers]
        z, log_q = (np.concatenate(part)[:size] for part in zip(*drawn, strict=True))
        return z, target.log_densities(z), log_q
    parts = [_draw_and_weigh(key, q, target, block) for block in numbers]
    z, log_p, log_q = (np.concatenate(part)[:size] for part in zip(*parts, strict=True))
    return z, log_p, log_q


def default_draws(q: Any, target: Target) -> tuple[int, int]:
    """Draws in a batch, a multiple of 1024 from 1024 to 8192, and batches, one or two.

    As many as are worth their cost. k-hat rises with the draws in a batch as the tail comes into
    sight, so batches are as large as can be; its noise falls with their number.
    """
    moves = getattr(q, "gradients_per_draw", 0)
    affordable = int(_OPERATIONS / (target.operations * (1 + 3 * moves)))
    fewest = _BLOCK if moves else _FEWEST
    size = min(max(_BLOCK * (affordable // _BLOCK), fewest), _MOST)
    return size, min(max(affordable // size, 1), _MOST_BATCHES)


def diagnose(
    key: Array, q: Any, target: Target, num_draws: int | None = None, batches: int | None = None
) -> Diagnostics:
    r"""Estimate the ELBO, k-hat and the log evidence with fresh draws from q.

    .. math::

       \widehat{\text{ELBO}} = \tfrac1S \sum_s \log w_s, \qquad
       \log\hat Z = \log \tfrac1S \sum_s w_s, \qquad w_s = p(z_s) / q(z_s)

    with the weights of each batch smoothed by `psis`, and the estimates averaged over batches.

    Args:
      key: a key; use one that the fit has not used.
      q: a family.
      target: the target.
      num_draws: S, in one batch.
      batches: number of batches; by default both are what costs about 2e8 operations.

    Returns:
      The diagnostics. The ELBO is -inf if any draw has density zero under the target.

    Complexity:
      S log densities for each batch, no gradients; O(S D) memory.
    """
    size, count = default_draws(q, target)
    if num_draws is not None:
        size, count = num_draws, 1
    count = batches or count
    batch = [weighed_draws(key, q, target, number, size) for number in range(count)]
    ratios = [log_p.astype(float) - log_q.astype(float) for _, log_p, log_q in batch]
    tails = [psis(ratio) for ratio in ratios]
    evidences = [_log_evidence(*pair) for pair in zip(ratios, tails, strict=True)]
    draws, log_p, log_q = batch[0]
    every = np.concatenate(ratios)
    finite = np.isfinite(every)
    kept = every[finite]
    mean_shift, sd_shift = shifts(draws.astype(float), np.exp(tails[0].log_weights))
    khat, beyond = float(np.mean([tail.khat for tail in tails])), math.nan
    if LIMIT <= khat < math.inf:
        looks = zip(batch, ratios, tails, strict=True)
        beyond = max(unseen(z, ratio, tail) for (z, _, _), ratio, tail in looks)
    return Diagnostics(
        draws=draws,
        log_p=log_p,
        log_q=log_q,
        elbo=float(kept.mean()) if finite.all() else -math.inf,
        elbo_sem=float(kept.std(ddof=1) / math.sqrt(len(kept))) if len(kept) > 1 else math.nan,
        khat=khat,
        khat_sem=float(np.mean([tail.khat_sem for tail in tails]) / math.sqrt(count)),
        efficiency=float(np.mean([tail.effective_sample_size for tail in tails]) / size),
        log_evidence=float(np.logaddexp.reduce(evidences) - math.log(count)),
        bad=float(1 - finite.mean()),
        num_draws=len(every),
        mean_shift=mean_shift,
        sd_shift=sd_shift,
        unseen=beyond,
    )


def shifts(draws: np.ndarray, weights: np.ndarray, size: int | None = None) -> tuple[float, float]:
    """How far weights move the mean and the standard deviation of any coordinate.

    From those of all draws, or of the first ``size`` of them.
    """
    if not float(np.abs(draws).max()) < _ENDLESS:
        return math.inf, math.inf
    mean, sd = draws[:size].mean(0), draws[:size].std(0)
    sd = np.where(sd > 0, sd, 1.0)
    x = (draws - mean) / sd
    moved = weights @ x
    spread = np.sqrt(weights @ (x - moved) ** 2)
    return float(np.abs(moved).max()), float(np.abs(spread - 1).max())


def _log_evidence(ratios: np.ndarray, tail: Psis) -> float:
    """Log of the mean of the smoothed weights: their normalisation undone at a typical draw."""
    order = np.argsort(np.where(np.isfinite(ratios), ratios, -np.inf))
    typical = int(order[len(ratios) // 2])
    if not np.isfinite(ratios[typical]):
        return math.nan
    return float(ratios[typical] - tail.log_weights[typical] - math.log(len(ratios)))


@quick_jit
def log_prob(q: Any, z: Array) -> Array:
    """Log density of a family at draws."""
    return q.log_prob(z)


@quick_jit
def _weighing_log_prob(key: Array, q: Any, z: Array) -> Array:
    """What stands for log q in weights of draws of another family."""
    given = getattr(q, "augmented_log_prob", None)
    return q.log_prob(z) if given is None else given(fast_key(key), z)


def from_each(found: Diagnostics) -> int:
    """Draws of each optimum by which `missed_mass` weighs them against each other."""
    return min(len(found.draws), _FROM_EACH)


def missed_mass(
    key: Array, found: Diagnostics, q: Any, others: list[Any], target: Target
) -> np.ndarray:
    r"""Shares of the posterior's mass at other optima, where q has no draws to see it.

    Draws of q and of the K others are weighed against the equal mixture of all,
    :math:`w = p / \tfrac{1}{K+1} (q + \sum_k q_k)`. What counts as missed is the weight of those
    at which q is less than at any draw of its own, given to the optimum that is densest there.
    Zero where an optimum overlaps with q: k-hat then sees what q misses. For a MixFlow all this is
    done in its augmented space, a draw of another family having a momentum and a phase of its own.

    Args:
      key: a key; use one that the fit has not used.
      found: diagnostics of q.
      q: a family.
      others: families fitted to other optima.
      target: the target.

    Returns:
      The shares, shape ``(K,)``, between 0 and 1.

    Complexity:
      2048 K log densities.
    """
    size = from_each(found)
    seen = [weighed_draws(key, other, target, k, size) for k, other in enumerate(others)]
    draws = [found.draws[:size], *(z for z, _, _ in seen)]
    log_p = np.concatenate([found.log_p[:size], *(p for _, p, _ in seen)]).astype(float)
    there = [_weighing_log_prob(key, q, z) for z in draws[1:]]
    log_q = _or_nothing(np.concatenate([found.log_q[:size], *there]))
    each = [np.concatenate([log_prob(other, z) for z in draws]).astype(float) for other in others]
    each = _or_nothing(np.stack(each))
    ratios = log_p - np.logaddexp(log_q, np.logaddexp.reduce(each, axis=0))
    ratios = np.where(np.isfinite(ratios), ratios, -np.inf)
    if not np.isfinite(ratios).any():
        return np.zeros(len(others))
    weights = np.exp(ratios - ratios.max())
    weights = np.where(log_q < found.log_q.min(), weights, 0.0) / weights.sum()
    return np.bincount(each.argmax(axis=0), weights, len(others))


def _or_nothing(log_density: np.ndarray) -> np.ndarray:
    """With -inf for NaN: a family whose inverse map diverges at a point has no mass there."""
    log_density = log_density.astype(float)
    return np.where(np.isnan(log_density), -np.inf, log_density)


def misfit(found: Diagnostics) -> np.ndarray:
    """How much of the variation of log p - log q each coordinate accounts for, shape ``(D,)``.

    The squared correlation of the log weights with the coordinate and its square, the larger
    of the two: near zero everywhere where q fits, and near one where one coordinate is to blame.
    At the first 2048 draws.
    """
    draws, log_p, log_q = (x[:_TO_BLAME].astype(float) for x in found[:3])
    ratios = log_p - log_q
    use = np.isfinite(ratios)
    if use.sum() < 10 or np.std(ratios[use]) == 0:
        return np.zeros(draws.shape[1])
    if not np.abs(draws).max() < _ENDLESS:
        return (np.abs(draws).max(0) > _ENDLESS**0.5).astype(float)
    scale = draws.std(0)
    x = (draws[use] - draws.mean(0)) / np.where(scale > 0, scale, 1.0)
    r = (ratios[use] - ratios[use].mean()) / ratios[use].std()
    out = np.zeros(x.shape[1])
    for feature in (x, x**2 - 1):
        centred = feature - feature.mean(0)
        spread = centred.std(0)
        spread[spread == 0] = 1.0
        out = np.maximum(out, (r @ centred / len(r) / spread) ** 2)
    return out
