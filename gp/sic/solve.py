r"""Products and triangular systems with a factor V whose columns live on a pattern.

Column k has the entries ``columns[k, :-1]`` in the rows ``neighbors[k]`` and ``columns[k, -1]`` on
the diagonal; V is upper triangular. Both solves go through the blocks of its schedule. Right
hand sides have positions first and may have more axes behind.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gp.sic.columns import gather
from gp.sic.pattern import Pattern


def _behind(values: Array, rhs: Array) -> Array:
    """Values with axes of length one for those of the right hand side behind the first."""
    return values.reshape(values.shape + (1,) * (rhs.ndim - 1))


def padded(pattern: Pattern, values: Array, fill: float = 0.0) -> Array:
    """Rows by position, and room behind them for a block that reaches over the end."""
    return jnp.pad(
        values,
        [(0, pattern.width)] + [(0, 0)] * (values.ndim - 1),
        constant_values=fill,
    )


def solve_transposed(
    pattern: Pattern, columns: Float[Array, "n m1"], rhs: Float[Array, "n ..."]
) -> Float[Array, "n ..."]:
    r"""Solve :math:`V^T x = b`, by levels from the first position on.

    With b standard normal, x is a draw of :math:`N(0, (V V^T)^{-1})`.

    Args:
      pattern: that of the factors.
      columns: those of V.
      rhs: b.

    Returns:
      x.

    Complexity:
      O(n m) time for each right hand side, O(n) memory beyond the factor.
    """
    factor, near = padded(pattern, columns, 1.0), padded(pattern, pattern.neighbors, pattern.size)
    lanes = jnp.arange(pattern.width)

    def block(i: Array, x: Array) -> Array:
        start = jnp.asarray(pattern.starts)[i]
        cut = lambda values: lax.dynamic_slice_in_dim(values, start, pattern.width)
        v, old = cut(factor), cut(x)
        known = jnp.sum(_behind(v[:, :-1], rhs) * x[cut(near)], axis=1)
        new = (old - known) / _behind(v[:, -1], rhs)
        # An index that is written as it is read, in one fused loop, would be copied whole.
        here = jnp.where(lanes < jnp.asarray(pattern.sizes)[i], start + lanes, len(x))
        return x.at[here].set(new, mode="drop", unique_indices=True)

    return lax.fori_loop(0, len(pattern.starts), block, padded(pattern, rhs))[: pattern.size]


def solve(
    pattern: Pattern, columns: Float[Array, "n m1"], rhs: Float[Array, "n ..."]
) -> Float[Array, "n ..."]:
    r"""Solve :math:`V x = b`, by levels from the last position on.

    Args:
      pattern: that of the factors.
      columns: those of V.
      rhs: b.

    Returns:
      x.

    Complexity:
      O(n m) time for each right hand side, O(n) memory beyond the factor.
    """
    factor, near = padded(pattern, columns, 1.0), padded(pattern, pattern.neighbors, pattern.size)
    lanes, last = jnp.arange(pattern.width), len(pattern.starts) - 1

    def block(i: Array, rest: Array) -> Array:
        start = jnp.asarray(pattern.starts)[last - i]
        cut = lambda values: lax.dynamic_slice_in_dim(values, start, pattern.width)
        v = cut(factor)
        x = cut(rest) / _behind(v[:, -1], rhs)
        live = lanes < jnp.asarray(pattern.sizes)[last - i]
        rows = jnp.where(live[:, None], cut(near), len(rest))
        return rest.at[rows].add(-_behind(v[:, :-1], rhs) * x[:, None], mode="drop")

    rest = lax.fori_loop(0, len(pattern.starts), block, padded(pattern, rhs))[: pattern.size]
    return rest / _behind(columns[:, -1], rhs)


def transposed_product(
    pattern: Pattern, columns: Float[Array, "n m1"], x: Float[Array, "n ..."]
) -> Float[Array, "n ..."]:
    r"""The product :math:`V^T x`: for a prior factor, the standardised residuals of x.

    Args:
      pattern: that of the factors.
      columns: those of V.
      x: right hand side.

    Returns:
      The product.

    Complexity:
      O(n m).
    """
    near = gather(x, jnp.asarray(pattern.neighbors))
    return _behind(columns[:, -1], x) * x + jnp.sum(_behind(columns[:, :-1], x) * near, axis=1)


def product(
    pattern: Pattern, columns: Float[Array, "n m1"], x: Float[Array, "n ..."]
) -> Float[Array, "n ..."]:
    r"""The product :math:`V x`.

    Args:
      pattern: that of the factors.
      columns: those of V.
      x: right hand side.

    Returns:
      The product.

    Complexity:
      O(n m).
    """
    moved = _behind(columns[:, :-1], x) * x[:, None]
    out = _behind(columns[:, -1], x) * x
    return out.at[jnp.asarray(pattern.neighbors)].add(moved, mode="drop")
