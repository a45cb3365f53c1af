"""Whether an approximation ends where the posterior goes on, which none of its draws can show."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi.compile import quick_jit
from vi.families import Gaussian, Mixture
from vi.families.scale import DenseScale
from vi.posterior.diagnostics import Diagnostics, log_prob, shifts, weighed_draws
from vi.random import host_generator
from vi.targets import Target

_LEAPFROGS, _ROUNDS = 16, 4  # steps of a trajectory, and trajectories of a chain
_STEPS = 0.01, 0.5  # of which a step size is drawn, log-uniformly, in standard deviations
_POOL = 8  # draws for each chain, out of which it starts from one near an edge
_OUTSIDE = 3.0  # nats by which the posterior's density must be above that of q
_FEWEST, _SHARE = 3, 0.001  # chains outside, and of the pool, for it not to be chance
_CHAINS = 256, 512
_WIDER = 1.5  # variance of the Gaussian around the ends outside, relative to theirs
_PER_CHAIN = _LEAPFROGS * _ROUNDS + 1  # gradients


class Cut(NamedTuple):
    """What lies beyond the draws of an approximation.

    Attributes:
      share: of the posterior's mass, where q has next to none.
      shift: that it makes in a mean, in standard deviations of q, or in one of these, relative.
      gradients: spent.
    """

    share: float
    shift: float
    gradients: int


class _Ends(NamedTuple):
    z: np.ndarray
    log_p: np.ndarray
    outside: np.ndarray


def num_chains(gradients: int) -> int:
    """Chains, 256 or 512, that take about a third of so many gradients."""
    least, most = _CHAINS
    return min(max(2 ** int(math.log2(max(gradients / 3 / _PER_CHAIN, 1))), least), most)


def most_gradients(gradients: int) -> int:
    """Gradients that `find_cut` takes at most after a run of so many."""
    return 3 * _PER_CHAIN * num_chains(gradients)


def can_cut(q: Any, target: Target) -> bool:
    """Whether a family is so flexible that its density may end at a wall: a flow, or a mixture."""
    return (isinstance(q, Mixture) or hasattr(q, "around")) and not target.subsampled


def find_cut(key: Array, found: Diagnostics, q: Any, target: Target, chains: int) -> Cut:
    r"""Move draws of q by a few trajectories of Hamiltonian Monte Carlo, and see where they end.

    A flow or a mixture trained by reverse KL may end at a wall: it is the posterior up to there,
    and nearly zero beyond, where the posterior goes on. Then the weights of its draws are equal,
    and k-hat, the evidence and the moments they give are those of what is kept. But moves that
    keep the posterior's density cross the wall. Those draws are moved that are likely to be near an
    edge: out of eight times as many those where the posterior's density is lowest, and those that
    are farthest out by the covariance of all. What is counted is ends z' with

    .. math:: \log p(z') - \log q(z') - \log\hat Z > 3,

    a density more than 20 times that of q; where q is right the posterior has next to no mass
    there. Fewer than three, or than 0.1 % of the draws chosen from, are taken for chance. If there
    are more, draws of q and of a Gaussian around such ends are weighed together,
    :math:`w = p / \tfrac12 (q + g)`, for the mass beyond and what it does to the moments.

    Each trajectory has a step size of its own, drawn log-uniformly from 0.01 to 0.5 standard
    deviations, so that nothing is tuned.

    Args:
      key: a key; use one that the fit has not used.
      found: diagnostics of q.
      q: a family with a log density at given points.
      target: the target; it must evaluate all rows.
      chains: how many draws are moved.

    Returns:
      The share of the mass, zero where nothing was found, a lower bound where chains have not
      come to all that is missed; how far it moves a moment; and the gradients spent.

    Complexity:
      65 gradients a chain, as many again if any left, and again, with 2048 log densities, if a
      cut is found; O(D³) arithmetic once.
    """
    nothing = Cut(0.0, 0.0, 0)
    pool = min(_POOL * chains, len(found.draws))
    chains = min(chains, pool)
    if found.bad or not math.isfinite(found.log_evidence):
        return nothing
    generator, around = host_generator(key, 17), _whitening(found.draws)
    first = _outermost(found, around, pool)[:chains]
    ends = _move(generator, found.draws[first], around, found, q, target)
    spent = chains * _PER_CHAIN
    if ends.outside.any():  # they may be the first of more
        ends = _move(generator, ends.z, around, found, q, target)
        spent *= 2
    count = int(ends.outside.sum())
    if count < max(_FEWEST, _SHARE * pool):
        return nothing._replace(gradients=spent)
    again = generator.choice(np.flatnonzero(ends.outside), chains)
    spread = _move(generator, ends.z[again], around, found, q, target)
    spent += chains * _PER_CHAIN
    beyond = np.concatenate([ends.z[ends.outside], spread.z[spread.outside]])
    share, shift = _weigh(key, beyond, around, found, q, target)
    return Cut(max(share, count / pool), shift, spent)


def _whitening(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and Cholesky factor of the covariance of draws; with few of them, of the variances."""
    x = draws.astype(float)
    sd = np.maximum(x.std(0), np.finfo(draws.dtype).tiny)
    correlation = np.eye(x.shape[1])
    if len(x) > 4 * x.shape[1]:
        unit = (x - x.mean(0)) / sd
        correlation = 0.999 * (unit.T @ unit / len(x)) + 0.001 * correlation
    return x.mean(0), sd[:, None] * np.linalg.cholesky(correlation)


def _outermost(found: Diagnostics, around: tuple[np.ndarray, np.ndarray], pool: int) -> np.ndarray:
    """Draws by how near an edge they are: by their density and by their distance, in turns."""
    x = np.linalg.solve(around[1], (found.draws[:pool] - around[0]).T)
    orders = np.argsort(found.log_p[:pool]), np.argsort(-np.sum(x**2, axis=0))
    return np.array(list(dict.fromkeys(np.stack(orders, 1).ravel())))


def _move(
    generator: np.random.Generator,
    start: np.ndarray,
    around: tuple[np.ndarray, np.ndarray],
    found: Diagnostics,
    q: Any,
    target: Target,
) -> _Ends:
    """Where chains end after so many trajectories, and whether q is next to zero there."""
    count, dim = start.shape
    dtype = start.dtype
    momenta = generator.normal(size=(_ROUNDS, count, dim)).astype(dtype)
    low, high = np.log(_STEPS)
    steps = np.exp(generator.uniform(low, high, (_ROUNDS, count, 1))).astype(dtype)
    levels = np.log(generator.uniform(size=(_ROUNDS, count))).astype(dtype)
    loc, root = (x.astype(dtype) for x in around)
    x = np.linalg.solve(around[1], (start - around[0]).T).T.astype(dtype)
    z, log_p = map(np.asarray, _trajectories(target, x, loc, root, momenta, steps, levels))
    log_q = np.asarray(log_prob(q, z), float)
    ratio = log_p.astype(float) - log_q - found.log_evidence
    return _Ends(z, log_p, np.isfinite(log_p) & (ratio > _OUTSIDE))


@quick_jit
def _trajectories(
    target: Target,
    x: Float[Array, "S D"],
    loc: Float[Array, " D"],
    root: Float[Array, "D D"],
    momenta: Float[Array, "R S D"],
    steps: Float[Array, "R S 1"],
    levels: Float[Array, "R S"],
) -> tuple[Float[Array, "S D"], Float[Array, " S"]]:
    """The ends of chains of Hamiltonian Monte Carlo in whitened coordinates, and log p there."""
    back = lambda x: loc + x @ root.T

    def slopes(x: Array) -> tuple[Array, Array]:
        values, grads = target.values_and_grads(back(x))
        return values, grads @ root

    def trajectory(carry: tuple, given: tuple) -> tuple[tuple, None]:
        x, value, slope = carry
        rho, step, level = given

        def leap(_: int, at: tuple) -> tuple:
            y, rho, _, slope = at
            half = rho + 0.5 * step * slope
            y = y + step * half
            value, slope = slopes(y)
            return y, half + 0.5 * step * slope, value, slope

        y, end, new, bent = jax.lax.fori_loop(0, _LEAPFROGS, leap, (x, rho, value, slope))
        change = new - value + 0.5 * jnp.sum(rho**2 - end**2, axis=1)
        taken = (level < change) & jnp.isfinite(new) & jnp.isfinite(bent).all(1)
        keep = lambda a, b: jnp.where(taken.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
        return (keep(y, x), keep(new, value), keep(bent, slope)), None

    (x, value, _), _ = jax.lax.scan(trajectory, (x, *slopes(x)), (momenta, steps, levels))
    return back(x), value


def _weigh(
    key: Array,
    beyond: np.ndarray,
    around: tuple[np.ndarray, np.ndarray],
    found: Diagnostics,
    q: Any,
    target: Target,
) -> tuple[float, float]:
    """The share of the mass beyond q, and the largest shift it makes in a moment."""
    x = beyond.astype(float)
    unit = np.linalg.solve(around[1], (x - around[0]).T)
    few = x.shape[1]  # ends that the covariance of q counts for, a tenth of it
    inner = np.cov(unit) if len(x) > 1 else np.zeros((few, few))
    cov = _WIDER * (len(x) * inner + 0.1 * few * np.eye(few)) / (len(x) + few)
    dtype = found.draws.dtype
    root = jnp.asarray(around[1] @ np.linalg.cholesky(cov), dtype)
    g = Gaussian(jnp.asarray(x.mean(0), dtype), DenseScale.of(root))
    size = min(len(found.draws), 2048)
    z, log_p, log_g = weighed_draws(key, g, target, 0, size)
    draws = np.concatenate([found.draws[:size], z])
    log_p = np.concatenate([found.log_p[:size], log_p]).astype(float)
    log_q = np.asarray(log_prob(q, draws), float)
    log_g = np.concatenate([np.asarray(log_prob(g, draws[:size]), float), log_g])
    log_q = np.where(np.isnan(log_q), -np.inf, log_q)
    ratios = log_p - np.logaddexp(log_q, log_g)
    ratios = np.where(np.isfinite(ratios), ratios, -np.inf)
    weights = np.exp(ratios - ratios.max())
    weights /= weights.sum()
    outside = log_p - log_q - found.log_evidence > _OUTSIDE
    return float(weights[outside].sum()), max(shifts(draws.astype(float), weights, size))
