r"""Products and triangular systems with a factor V whose columns live on a graph.

Column k has the entries ``columns[k, :-1]`` in the rows ``neighbors[k]`` and ``columns[k, -1]`` on the
diagonal; V is upper triangular. Both solves go through the blocks of the graph's schedule. Right
hand sides have positions first and may have more axes behind.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gp.sic.columns import gather
from gp.sic.graph import SICGraph


def _behind(values: Array, rhs: Array) -> Array:
    """Values with axes of length one for those of the right hand side behind the first."""
    return values.reshape(values.shape + (1,) * (rhs.ndim - 1))


def padded(graph: SICGraph, values: Array, fill: float = 0.0) -> Array:
    """Rows by position, and room behind them for a block that reaches over the end."""
    return jnp.pad(
        values,
        [(0, graph.width)] + [(0, 0)] * (values.ndim - 1),
        constant_values=fill,
    )


def solve_transposed(
    graph: SICGraph, columns: Float[Array, "n m1"], rhs: Float[Array, "n *S"]
) -> Float[Array, "n *S"]:
    r"""Solve :math:`V^T x = b`, by levels from the first position on.

    With b standard normal, x is a draw of :math:`N(0, (V V^T)^{-1})`.

    Args:
      graph: the graph.
      columns: those of V.
      rhs: b.

    Returns:
      x.

    Complexity:
      O(n m) time for each right hand side, O(n) memory beyond the factor.
    """
    factor, near = padded(graph, columns, 1.0), padded(graph, graph.neighbors, graph.size)
    lanes = jnp.arange(graph.width)

    def block(i: Array, x: Array) -> Array:
        start = jnp.asarray(graph.starts)[i]
        cut = lambda values: lax.dynamic_slice_in_dim(values, start, graph.width)
        v, old = cut(factor), cut(x)
        known = jnp.sum(_behind(v[:, :-1], rhs) * x[cut(near)], axis=1)
        new = (old - known) / _behind(v[:, -1], rhs)
        # An index that is written as it is read, in one fused loop, would be copied whole.
        here = jnp.where(lanes < jnp.asarray(graph.sizes)[i], start + lanes, len(x))
        return x.at[here].set(new, mode="drop", unique_indices=True)

    return lax.fori_loop(0, len(graph.starts), block, padded(graph, rhs))[: graph.size]


def solve(
    graph: SICGraph, columns: Float[Array, "n m1"], rhs: Float[Array, "n *S"]
) -> Float[Array, "n *S"]:
    r"""Solve :math:`V x = b`, by levels from the last position on.

    Args:
      graph: the graph.
      columns: those of V.
      rhs: b.

    Returns:
      x.

    Complexity:
      O(n m) time for each right hand side, O(n) memory beyond the factor.
    """
    factor, near = padded(graph, columns, 1.0), padded(graph, graph.neighbors, graph.size)
    lanes, last = jnp.arange(graph.width), len(graph.starts) - 1

    def block(i: Array, rest: Array) -> Array:
        start = jnp.asarray(graph.starts)[last - i]
        cut = lambda values: lax.dynamic_slice_in_dim(values, start, graph.width)
        v = cut(factor)
        x = cut(rest) / _behind(v[:, -1], rhs)
        live = lanes < jnp.asarray(graph.sizes)[last - i]
        rows = jnp.where(live[:, None], cut(near), len(rest))
        return rest.at[rows].add(-_behind(v[:, :-1], rhs) * x[:, None], mode="drop")

    rest = lax.fori_loop(0, len(graph.starts), block, padded(graph, rhs))[: graph.size]
    return rest / _behind(columns[:, -1], rhs)


def transposed_product(
    graph: SICGraph, columns: Float[Array, "n m1"], x: Float[Array, "n *S"]
) -> Float[Array, "n *S"]:
    r"""The product :math:`V^T x`: for a prior factor, the standardised residuals of x.

    Args:
      graph: the graph.
      columns: those of V.
      x: right hand side.

    Returns:
      The product.

    Complexity:
      O(n m).
    """
    near = gather(x, jnp.asarray(graph.neighbors))
    return _behind(columns[:, -1], x) * x + jnp.sum(_behind(columns[:, :-1], x) * near, axis=1)


def product(
    graph: SICGraph, columns: Float[Array, "n m1"], x: Float[Array, "n *S"]
) -> Float[Array, "n *S"]:
    r"""The product :math:`V x`.

    Args:
      graph: the graph.
      columns: those of V.
      x: right hand side.

    Returns:
      The product.

    Complexity:
      O(n m).
    """
    moved = _behind(columns[:, :-1], x) * x[:, None]
    out = _behind(columns[:, -1], x) * x
    return out.at[jnp.asarray(graph.neighbors)].add(moved, mode="drop")
