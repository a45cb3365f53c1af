"""Four densities in two dimensions that no Gaussian fits, normalised, with exact draws.

They are those of Xu, Chen and Campbell (2023), "MixFlows: principled variational inference via
mixed flows", section 6.1.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_CENTRES = np.array([[0.0, 2.0], [0.0, -2.0], [2.0, 0.0], [-2.0, 0.0]])
_WIDTHS = np.array([[0.15, 1.0], [0.15, 1.0], [1.0, 0.15], [1.0, 0.15]])


class Known(NamedTuple):
    """A density, and draws of it made by NumPy."""

    log_density: Callable
    draws: Callable[[np.random.Generator, int], np.ndarray]


def _normal(x, sd):
    return -0.5 * (x / sd) ** 2 - jnp.log(sd) - 0.5 * jnp.log(2 * jnp.pi)


def _banana(x):
    return _normal(x[0], 10.0) + _normal(x[1] - 0.1 * x[0] ** 2 + 10, 1.0)


def _banana_draws(generator, size):
    x, y = 10 * generator.normal(size=size), generator.normal(size=size)
    return np.stack([x, y + 0.1 * x**2 - 10], 1)


def _funnel(x):
    return _normal(x[0], 6.0) + _normal(x[1], jnp.exp(x[0] / 4))


def _funnel_draws(generator, size):
    x = 6 * generator.normal(size=size)
    return np.stack([x, np.exp(x / 4) * generator.normal(size=size)], 1)


def _cross(x):
    each = jnp.sum(_normal(x - _CENTRES, _WIDTHS), axis=1)
    return jax.nn.logsumexp(each) - jnp.log(4)


def _cross_draws(generator, size):
    which = generator.integers(0, 4, size)
    return _CENTRES[which] + _WIDTHS[which] * generator.normal(size=(size, 2))


def _turned(x, angle, where):
    c, s = where.cos(angle), where.sin(angle)
    return where.stack([c * x[..., 0] - s * x[..., 1], s * x[..., 0] + c * x[..., 1]], -1)


def _warped(x):
    radius = jnp.sqrt(jnp.sum(x**2) + jnp.finfo(x.dtype).tiny)
    back = _turned(x, radius / 2, jnp)
    return _normal(back[0], 1.0) + _normal(back[1], 0.12)


def _warped_draws(generator, size):
    x = np.array([1.0, 0.12]) * generator.normal(size=(size, 2))
    return _turned(x, -np.linalg.norm(x, axis=1) / 2, np)


KNOWN = {
    "banana": Known(_banana, _banana_draws),
    "funnel": Known(_funnel, _funnel_draws),
    "cross": Known(_cross, _cross_draws),
    "warped": Known(_warped, _warped_draws),
}


def sliced_distance(x: np.ndarray, y: np.ndarray, num: int = 200) -> float:
    """Sliced 2-Wasserstein distance of two sets of draws, in standard deviations of the second."""
    generator, probs = np.random.default_rng(0), (np.arange(500) + 0.5) / 500
    mean, sd = y.mean(0), y.std(0)
    slopes = generator.normal(size=(num, y.shape[1]))
    slopes /= np.linalg.norm(slopes, axis=1, keepdims=True)
    ours, theirs = (np.quantile((z - mean) / sd @ slopes.T, probs, axis=0) for z in (x, y))
    return float(np.sqrt(np.mean((ours - theirs) ** 2)))
