"""Other values of a site, and weights that have the gradient of its law."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array

from vi.program.rules import Coordinates, log_prob_rows, support_value, unwrap
from vi.program.surrogate import only_gradient, stop

MEASURE_VALUED = (
    dist.Normal,
    dist.BernoulliProbs,
    dist.BernoulliLogits,
    dist.CategoricalProbs,
    dist.CategoricalLogits,
    dist.Poisson,
    dist.Gamma,
)


def enumerated(fn: Any, plates: dict[str, int], size: int) -> tuple[Array, Array]:
    """All values of a site, and their probabilities as weights."""
    values = jax.vmap(lambda i: support_value(fn, plates, i))(jnp.arange(size))
    log_probs = jax.vmap(lambda v: log_prob_rows(fn, plates, v))(values)
    return values, only_gradient(jnp.exp(log_probs))


def measure_valued(
    fn: Any, plates: dict[str, int], value: Array, key: Array
) -> tuple[Array, Array]:
    """Values that differ from a draw in one coordinate, and weights: the weak derivative."""
    base, where = unwrap(fn), Coordinates.of(fn, plates)
    if isinstance(base, dist.Normal):
        moves, weights = _normal(base, value, key)
    elif isinstance(base, dist.Gamma):
        moves, weights = _gamma(base, value, key)
    elif isinstance(base, (dist.BernoulliProbs, dist.BernoulliLogits)):
        probs = jnp.broadcast_to(base.probs, value.shape)
        moves, weights = [1 - value], [(1 - 2 * value) * only_gradient(probs)]
    elif isinstance(base, dist.Poisson):
        moves = [value + 1]
        weights = [only_gradient(jnp.broadcast_to(base.rate, value.shape))]
    else:
        moves, weights = _categorical(base, value)
    masks = where.masks()
    values = jnp.concatenate([jnp.where(masks, move, value) for move in moves])
    return values, where.to_batch(jnp.concatenate([jnp.where(masks, w, 0) for w in weights]))


def _normal(base: Any, value: Array, key: Array) -> tuple[list[Array], list[Array]]:
    loc, scale = (jnp.broadcast_to(x, value.shape) for x in (base.loc, base.scale))
    shape, dtype = value.shape, value.dtype
    ray, maxwell, normal = jax.random.split(key, 3)
    r = stop(scale) * jax.random.rayleigh(ray, 1.0, shape, dtype)
    m = stop(scale) * jax.random.double_sided_maxwell(maxwell, 0.0, 1.0, shape, dtype)
    n = stop(scale) * jax.random.normal(normal, shape, dtype)
    along = only_gradient(loc) / (stop(scale) * math.sqrt(2 * math.pi))
    across = only_gradient(scale) / stop(scale)
    moves = [stop(loc) + r, stop(loc) - r, stop(loc) + m, stop(loc) + n]
    return moves, [along, -along, across, -across]


def _gamma(base: Any, value: Array, key: Array) -> tuple[list[Array], list[Array]]:
    """Differences to the draw: it is Gamma(α, β) itself, one of the two laws of each pair."""
    shape, rate = (jnp.broadcast_to(x, value.shape) for x in (base.concentration, base.rate))
    alpha, beta = stop(shape), stop(rate)
    draw = lambda k: jax.random.exponential(k, value.shape, value.dtype)
    add, power, place = jax.random.split(key, 3)
    uniform = 1 - jax.random.uniform(place, value.shape, value.dtype)
    i = jnp.floor(alpha * (1 / uniform - 1))  # P(i >= n) = α/(α + n)
    moves = [value + draw(add) / beta, value * jnp.exp(-draw(power) / (alpha + i))]
    weights = [-only_gradient(rate) * alpha / beta, -only_gradient(shape) * (alpha + i + 1) / alpha]
    return moves, weights


def _categorical(base: Any, value: Array) -> tuple[list[Array], list[Array]]:
    count = base.probs.shape[-1]
    change = only_gradient(jnp.broadcast_to(base.probs, (*value.shape, count)))
    moves = [(value + k) % count for k in range(1, count)]
    pick = lambda move: jnp.take_along_axis(change, move[..., None], -1)[..., 0]
    return moves, [pick(move) for move in moves]
