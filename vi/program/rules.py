"""What estimators need to know of NumPyro's distributions: noise, coordinates, supports."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array

_WRAPPERS = (dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)


def unwrap(fn: Any) -> Any:
    """The distribution below ``to_event``, ``expand`` and ``mask``."""
    base: Any = fn
    while isinstance(base, _WRAPPERS):
        base = base.base_dist
    return base


def unmasked(fn: Any) -> Any:
    """The law that a site is drawn from: a mask takes rows out of its density only."""
    if isinstance(fn, dist.MaskedDistribution):
        return unmasked(fn.base_dist)
    if isinstance(fn, dist.Independent):
        return unmasked(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.ExpandedDistribution):
        return unmasked(fn.base_dist).expand(fn.batch_shape)
    return fn


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
