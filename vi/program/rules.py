"""What estimators need to know of NumPyro's distributions: noise, supports, derivatives of laws."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import gammaln
from jaxtyping import Array

from vi.program.estimators import AcceptReject, Relaxed

_WRAPPERS = (dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)


def unwrap(fn: Any) -> Any:
    """The distribution below ``to_event``, ``expand`` and ``mask``."""
    base: Any = fn
    while isinstance(base, _WRAPPERS):
        base = base.base_dist
    return base


def is_masked(fn: Any) -> bool:
    """Whether a mask is somewhere among the wrappers."""
    while isinstance(fn, _WRAPPERS):
        if isinstance(fn, dist.MaskedDistribution):
            return True
        fn = fn.base_dist
    return False


# ---- one flat draw of noise --------------------------------------------------------------------


def noise_size(fn: Any) -> int | None:
    """Number of standard normals that make a draw; None if draws are made in another way."""
    base: Any = unwrap(fn)
    if isinstance(base, dist.TransformedDistribution):
        return noise_size(base.base_dist) if base is fn else None
    return (
        math.prod(fn.shape()) if isinstance(base, (dist.Normal, dist.MultivariateNormal)) else None
    )


def from_noise(fn: Any, noise: Array) -> tuple[Array, list]:
    """A reparameterised draw, and the intermediate values of its transforms, from noise."""
    base: Any = unwrap(fn)
    if isinstance(base, dist.TransformedDistribution):
        value: Any = from_noise(base.base_dist, noise)[0]
        intermediates = []
        for transform in base.transforms:
            before = value
            value, inside = transform.call_with_intermediates(before)
            intermediates.append([before, inside])
        return value, intermediates
    noise = noise.reshape(fn.shape())
    loc: Any = base.loc
    if isinstance(base, dist.Normal):
        return loc + base.scale * noise, []
    return loc + (base.scale_tril @ noise[..., None])[..., 0], []


# ---- coordinates and supports ------------------------------------------------------------------


class Coordinates(NamedTuple):
    """The variables of a site that are not rows of a plate: each may be changed on its own."""

    shape: tuple[int, ...]  # of the site's value without the base distribution's own event
    free: tuple[int, ...]  # sizes of the dimensions that are not plates, 1 elsewhere
    event: tuple[int, ...]  # of the base distribution
    batch: int  # number of batch dimensions

    @classmethod
    def of(cls, fn: Any, plates: dict[str, int]) -> "Coordinates":
        """The coordinates of a site under some plates."""
        event = unwrap(fn).event_shape
        shape = fn.shape()[: len(fn.shape()) - len(event)]
        batch = len(fn.batch_shape)
        rows = {batch + dim for dim in plates.values()}
        free = tuple(1 if i in rows else size for i, size in enumerate(shape))
        return cls(shape, free, event, batch)

    @property
    def count(self) -> int:
        """How many there are."""
        return math.prod(self.free)

    def masks(self) -> Array:
        """One mask for each, ``(C, *shape of the value)`` up to broadcasting."""
        return jnp.eye(self.count, dtype=bool).reshape(-1, *self.free, *(1,) * len(self.event))

    def to_batch(self, weights: Array) -> Array:
        """Sum weights ``(A, *shape)`` over what is not a plate: ``(A, *batch, 1 where free)``."""
        weights = jnp.broadcast_to(weights, (weights.shape[0], *self.shape))
        plates = [1 + i for i, size in enumerate(self.free) if size == 1 and i < self.batch]
        drop = tuple(i for i in range(1, weights.ndim) if i not in plates)
        kept = weights.sum(drop, keepdims=True) if drop else weights
        return kept.reshape(kept.shape[: 1 + self.batch])


def support_size(fn: Any, plates: dict[str, int]) -> int | None:
    """Number of joint values of a site's free coordinates; None if it cannot be enumerated."""
    base: Any = unwrap(fn)
    if not base.has_enumerate_support or is_masked(fn):
        return None
    try:
        each = base.enumerate_support(expand=False).shape[0]
    except (NotImplementedError, TypeError, jax.errors.JAXTypeError):
        return None
    return each ** Coordinates.of(fn, plates).count


def support_value(fn: Any, plates: dict[str, int], index: Array) -> Array:
    """Joint value number ``index`` of a site, the same in all rows of its plates."""
    base, where = unwrap(fn), Coordinates.of(fn, plates)
    values = base.enumerate_support(expand=False)
    values = values.reshape(values.shape[0], *base.event_shape)
    powers = values.shape[0] ** np.arange(where.count)
    digits = (index // powers) % values.shape[0]
    value = values[digits].reshape(*where.free, *where.event)
    return jnp.broadcast_to(value, fn.shape())


def log_prob_rows(fn: Any, plates: dict[str, int], value: Array) -> Array:
    """Log density of a site, summed over batch dimensions that are not plates."""
    log_prob = fn.log_prob(value)
    rows = set(plates.values())
    drop = tuple(d for d in range(-log_prob.ndim, 0) if d not in rows)
    return log_prob.sum(drop, keepdims=True) if drop else log_prob


# ---- other values of a site, and weights that have the gradient of its law ---------------------


def enumerated(fn: Any, plates: dict[str, int], size: int) -> tuple[Array, Array]:
    """All values of a site, and their probabilities as weights."""
    values = jax.vmap(lambda i: support_value(fn, plates, i))(jnp.arange(size))
    log_probs = jax.vmap(lambda v: log_prob_rows(fn, plates, v))(values)
    return values, _gradient_of(jnp.exp(log_probs))


def _gradient_of(x: Array) -> Array:
    return x - jax.lax.stop_gradient(x)


MEASURE_VALUED = (
    dist.Normal,
    dist.BernoulliProbs,
    dist.BernoulliLogits,
    dist.CategoricalProbs,
    dist.CategoricalLogits,
    dist.Poisson,
)


def measure_valued(
    fn: Any, plates: dict[str, int], value: Array, key: Array
) -> tuple[Array, Array]:
    """Values that differ from a draw in one coordinate, and weights: the weak derivative."""
    base, where = unwrap(fn), Coordinates.of(fn, plates)
    stop = jax.lax.stop_gradient
    shape = value.shape
    if isinstance(base, dist.Normal):
        loc, scale = (jnp.broadcast_to(x, shape) for x in (base.loc, base.scale))
        ray, maxwell, normal = jax.random.split(key, 3)
        dtype = value.dtype
        r = stop(scale) * jax.random.rayleigh(ray, 1.0, shape, dtype)
        m = stop(scale) * jax.random.double_sided_maxwell(maxwell, 0.0, 1.0, shape, dtype)
        n = stop(scale) * jax.random.normal(normal, shape, dtype)
        moves = [stop(loc) + r, stop(loc) - r, stop(loc) + m, stop(loc) + n]
        along = _gradient_of(loc) / (stop(scale) * math.sqrt(2 * math.pi))
        across = _gradient_of(scale) / stop(scale)
        weights = [along, -along, across, -across]
    elif isinstance(base, (dist.BernoulliProbs, dist.BernoulliLogits)):
        probs = jnp.broadcast_to(base.probs, shape)
        moves = [jnp.ones_like(value), jnp.zeros_like(value)]
        weights = [_gradient_of(probs), -_gradient_of(probs)]
    elif isinstance(base, dist.Poisson):
        moves = [value + 1]
        weights = [_gradient_of(jnp.broadcast_to(base.rate, shape))]
    else:
        probs = jnp.broadcast_to(base.probs, (*shape, base.probs.shape[-1]))
        moves = [jnp.full_like(value, v) for v in range(probs.shape[-1])]
        weights = [_gradient_of(probs[..., v]) for v in range(probs.shape[-1])]
    masks = where.masks()
    values = jnp.concatenate([jnp.where(masks, move, value) for move in moves])
    return values, where.to_batch(jnp.concatenate([jnp.where(masks, w, 0) for w in weights]))


# ---- draws of other kinds ----------------------------------------------------------------------

ACCEPT_REJECT = (dist.Gamma, dist.Beta, dist.Dirichlet)


def accept_reject(fn: Any, how: AcceptReject, key: Array) -> tuple[Array, Array]:
    """A draw by acceptance-rejection, and the log density of the noise that was accepted."""
    base: Any = unwrap(fn)
    lead = fn.shape()[: len(fn.shape()) - len(base.event_shape)]
    if isinstance(base, dist.Gamma):
        value, log_pi = _gamma(key, jnp.broadcast_to(base.concentration, lead), how.augment)
        rate: Any = base.rate
        return value / rate, log_pi
    if isinstance(base, dist.Beta):
        shape = jnp.stack(
            [jnp.broadcast_to(x, lead) for x in (base.concentration1, base.concentration0)], -1
        )
    else:
        shape = jnp.broadcast_to(base.concentration, fn.shape())
    value, log_pi = _gamma(key, shape, how.augment)
    value = value / value.sum(-1, keepdims=True)
    log_pi = log_pi.sum(-1)
    return (value[..., 0] if isinstance(base, dist.Beta) else value), log_pi


def _gamma(key: Array, shape: Array, augment: int) -> tuple[Array, Array]:
    """Gamma draws of unit rate by Marsaglia and Tsang's map, the shape raised by ``augment``."""
    draw_key, uniform_key = jax.random.split(key)
    raised = shape + augment
    b = raised - 1 / 3
    c = 1 / jnp.sqrt(9 * b)
    drawn = jax.lax.stop_gradient(jax.random.gamma(draw_key, raised))
    noise = jax.lax.stop_gradient((jnp.cbrt(drawn / b) - 1) / c)
    v = 1 + c * noise
    z = b * v**3
    log_pi = (raised - 1) * jnp.log(z) - z - gammaln(raised) + jnp.log(3 * b * c * v**2)
    uniform = jax.random.uniform(uniform_key, (augment, *shape.shape), shape.dtype, minval=1e-30)
    steps = jnp.arange(augment, dtype=shape.dtype).reshape(-1, *(1,) * shape.ndim)
    return z * jnp.exp(jnp.sum(jnp.log(uniform) / (shape + steps), 0)), log_pi


def relaxed(fn: Any, how: Relaxed, key: Array) -> Array:
    """A draw of the binary concrete distribution, rounded if asked for."""
    base: Any = unwrap(fn)
    logits = (
        base.logits
        if isinstance(base, dist.BernoulliLogits)
        else jax.scipy.special.logit(base.probs)
    )
    logits = jnp.broadcast_to(logits, fn.shape())
    soft = jax.nn.sigmoid(
        (logits + jax.random.logistic(key, logits.shape, logits.dtype)) / how.temperature
    )
    if not how.straight_through:
        return soft
    hard = jnp.round(jax.lax.stop_gradient(soft))
    return hard + _gradient_of(soft)
