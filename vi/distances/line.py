"""Wasserstein distances on the line, exact, and averaged over directions."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.distances.shapes import floating, samples


def _root(x: Array, p: float) -> Array:
    """The p-th root, of slope zero at zero."""
    positive = x > 0
    return jnp.where(positive, jnp.where(positive, x, 1) ** (1 / p), 0)


def _levels(weights: Array | None, size: int, dtype: jnp.dtype) -> Array:
    """The distribution function after each point."""
    if weights is None:
        return jnp.arange(1, size + 1, dtype=dtype) / size
    mass = jnp.cumsum(weights)
    return mass / mass[-1]


def _power_cost(
    x: Array, y: Array, p: float, x_weights: Array | None, y_weights: Array | None
) -> Array:
    """W_p to the p-th power."""
    if len(x) == len(y) and x_weights is None and y_weights is None:
        return jnp.mean(jnp.abs(jnp.sort(x) - jnp.sort(y)) ** p)

    def sorted_levels(z: Array, weights: Array | None) -> tuple[Array, Array]:
        order = jnp.argsort(z)
        weights = None if weights is None else weights[order]
        return z[order], _levels(weights, len(z), z.dtype)

    x, at_x = sorted_levels(x, x_weights)
    y, at_y = sorted_levels(y, y_weights)
    levels = jnp.sort(jnp.concatenate([at_x, at_y]))
    widths = jnp.diff(levels, prepend=0)
    middle = levels - 0.5 * widths
    quantile = lambda z, at: z[jnp.minimum(jnp.searchsorted(at, middle), len(z) - 1)]
    return jnp.sum(widths * jnp.abs(quantile(x, at_x) - quantile(y, at_y)) ** p)


def wasserstein_1d(
    x: Float[Array, " N"],
    y: Float[Array, " M"],
    *,
    p: float = 1.0,
    x_weights: Float[Array, " N"] | None = None,
    y_weights: Float[Array, " M"] | None = None,
) -> Float[Array, ""]:
    r"""The Wasserstein distance of order p between two samples on the line, exact.

    .. math:: W_p(x, y)^p = \int_0^1 |F_x^{-1}(u) - F_y^{-1}(u)|^p \,du

    which for N = M is the mean over the sorted samples (Peyré and Cuturi 2019, "Computational
    optimal transport", Section 2.6). Differentiable in points and weights; its gradient is zero
    where the samples are equal.

    Args:
      x: sample.
      y: sample, in the same units.
      p: order, at least 1.
      x_weights: weights of x, not negative, need not sum to one; equal if not given.
      y_weights: the same of y.

    Returns:
      Shape ``()``, in the units of the points.

    Raises:
      ValueError: if p is less than 1, or shapes are not of vectors.

    Complexity:
      O((N + M) log(N + M)) time, O(N + M) memory.

    Example:
      >>> import jax.numpy as jnp
      >>> from vi.distances import wasserstein_1d
      >>> float(wasserstein_1d(jnp.array([0.0, 1.0]), jnp.array([3.0])))
      2.5
    """
    x, y = floating("wasserstein_1d", x), floating("wasserstein_1d", y)
    if x.ndim != 1 or y.ndim != 1 or 0 in (x.size, y.size) or not 1 <= p < math.inf:
        raise ValueError(
            f"wasserstein_1d: expected two vectors and a finite p >= 1; got shapes {x.shape} and "
            f"{y.shape}, p = {p}. For points of several coordinates see sliced_wasserstein."
        )
    for name, z, weights in (("x", x, x_weights), ("y", y, y_weights)):
        if weights is not None and weights.shape != z.shape:
            raise ValueError(
                f"wasserstein_1d: expected a weight for each point of {name}; got shape "
                f"{weights.shape} for {z.shape}."
            )
    return _root(_power_cost(x, y, p, x_weights, y_weights), p)


def sliced_wasserstein(
    key: Array,
    x: Float[Array, "N D"],
    y: Float[Array, "M D"],
    *,
    p: float = 2.0,
    num_projections: int = 100,
) -> Float[Array, ""]:
    r"""The sliced Wasserstein distance between two samples: on the line, averaged over directions.

    .. math:: SW_p(x, y)^p = E_{θ} W_p(θ^T x, θ^T y)^p, \quad θ \text{ uniform on the sphere}

    (Bonneel, Rabin, Peyré and Pfister 2015, "Sliced and Radon Wasserstein barycenters of
    measures"). The expectation is a mean over random directions, without bias before the root.

    Args:
      key: a key, for the directions.
      x: sample.
      y: sample.
      p: order, at least 1.
      num_projections: number of directions.

    Returns:
      Shape ``()``, in the units of the points.

    Raises:
      ValueError: if the points differ in dimension, or numbers mean nothing.

    Complexity:
      O(L ((N + M) D + (N + M) log(N + M))) time and O(L (N + M)) memory for L directions.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from vi.distances import sliced_wasserstein
      >>> x = jax.random.normal(jax.random.key(0), (50, 3))
      >>> round(float(sliced_wasserstein(jax.random.key(1), x, x + 1.0, num_projections=2000)), 1)
      1.0
    """
    x, y = samples("sliced_wasserstein", x, y)
    if not 1 <= p < math.inf or num_projections < 1:
        raise ValueError(
            "sliced_wasserstein: expected a finite p >= 1 and num_projections >= 1; got p = "
            f"{p}, num_projections = {num_projections}."
        )
    normal = jax.random.normal(key, (num_projections, x.shape[1]), x.dtype)
    directions = normal / jnp.linalg.norm(normal, axis=1, keepdims=True)
    cost = jax.vmap(lambda d: _power_cost(x @ d, y @ d, p, None, None))
    return _root(jnp.mean(cost(directions)), p)
