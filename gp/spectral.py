"""Random features: frequencies whose cosines have a kernel as their covariance."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gp.kernels import (
    ActiveDimensions,
    Constant,
    Deep,
    Kernel,
    Matern,
    Periodic,
    Product,
    RationalQuadratic,
    Scaled,
    SquaredExponential,
    Sum,
)
from gp.kernels.stationary import Stationary


def coordinates(kernel: Kernel, x: Float[Array, "N D"]) -> Float[Array, "N E"]:
    """Where the kernel is a mixture of cosines of differences: those of all its parts in a row."""
    if isinstance(kernel, Stationary):
        return kernel.metric(x)
    if isinstance(kernel, (Sum, Product)):
        return jnp.concatenate([coordinates(part, x) for part in kernel.kernels], -1)
    if isinstance(kernel, Scaled):
        return coordinates(kernel.kernel, x)
    if isinstance(kernel, ActiveDimensions):
        return coordinates(kernel.kernel, x[..., jnp.asarray(kernel.dimensions)])
    if isinstance(kernel, Deep):
        return coordinates(kernel.kernel, kernel.features(x))
    if isinstance(kernel, Constant):
        return x[..., :0]
    raise _unknown(kernel)


def _unknown(kernel: Any) -> ValueError:
    return ValueError(
        f"gp: expected a kernel made of stationary ones for random features; got "
        f"{type(kernel).__name__}. Draw at given points instead, by Posterior.sample."
    )


def power(kernel: Any) -> Array:
    """The variance of a kernel that is the same everywhere."""
    if isinstance(kernel, Sum):
        return sum(map(power, kernel.kernels[1:]), power(kernel.kernels[0]))
    if isinstance(kernel, Product):
        return functools.reduce(jnp.multiply, map(power, kernel.kernels))
    if isinstance(kernel, Scaled):
        return kernel.variance * power(kernel.kernel)
    if isinstance(kernel, (ActiveDimensions, Deep)):
        return power(kernel.kernel)
    return jnp.asarray(kernel.variance)


def frequencies(
    key: Array, kernel: Kernel, x: Float[Array, "N D"], shape: tuple[int, ...]
) -> Float[Array, "*S E"]:
    r"""Frequencies ω for which the kernel is the mean of cosines, with c the `coordinates`.

    .. math:: k(x, x') = σ^2\, E_ω[\cos ω^T (c(x) - c(x'))]

    Those of the squared exponential are normal, of a Matérn kernel Student-t of 2ν degrees of
    freedom, of a rational quadratic normal with a gamma precision's scale. A product's are side by
    side; a sum draws one of its terms for each, with its share of the variance.

    Args:
      key: a key.
      kernel: made of stationary ones.
      x: inputs, for their number of coordinates.
      shape: of what is drawn.

    Returns:
      The frequencies.

    Raises:
      ValueError: for a kernel that is not made of stationary ones.

    Reference: Rahimi and Recht (2007), "Random features for large-scale kernel machines",
    algorithm 1.
    """
    if isinstance(kernel, Scaled):
        return frequencies(key, kernel.kernel, x, shape)
    if isinstance(kernel, ActiveDimensions):
        return frequencies(key, kernel.kernel, x[..., jnp.asarray(kernel.dimensions)], shape)
    if isinstance(kernel, Deep):
        return frequencies(key, kernel.kernel, kernel.features(x), shape)
    if isinstance(kernel, (Sum, Product)):
        keys = jax.random.split(key, len(kernel.kernels) + 1)
        pairs = zip(keys[1:], kernel.kernels, strict=True)
        parts = [frequencies(k, part, x, shape) for k, part in pairs]
        if isinstance(kernel, Sum):
            shares = jnp.log(jnp.stack([power(part) for part in kernel.kernels]))
            chosen = jax.random.categorical(keys[0], shares, shape=shape)
            parts = [jnp.where((chosen == i)[..., None], w, 0.0) for i, w in enumerate(parts)]
        return jnp.concatenate(parts, -1)
    size = jax.eval_shape(lambda x: coordinates(kernel, x), x).shape[-1]
    if isinstance(kernel, Constant):
        return jnp.zeros((*shape, 0), x.dtype)
    if type(kernel) not in _SCALES:
        raise _unknown(kernel)
    first, second = jax.random.split(key)
    normal = jax.random.normal(first, (*shape, size), x.dtype)
    return normal * _SCALES[type(kernel)](second, kernel, shape, x.dtype)[..., None]


def _chi(key: Array, kernel: Any, shape: tuple, dtype: Any) -> Array:
    """Of Student's t with 2ν degrees of freedom."""
    return jax.lax.rsqrt(jax.random.gamma(key, kernel.nu, shape, dtype) / kernel.nu)


def _mixed(key: Array, kernel: Any, shape: tuple, dtype: Any) -> Array:
    return jnp.sqrt(jax.random.gamma(key, kernel.alpha, shape, dtype) / kernel.alpha)


def _one(key: Array, kernel: Any, shape: tuple, dtype: Any) -> Array:
    del key, kernel
    return jnp.ones(shape, dtype)


_SCALES: dict[type, Callable] = {
    SquaredExponential: _one,
    Periodic: _one,
    Matern: _chi,
    RationalQuadratic: _mixed,
}
