"""Sums over many rows whose gradient is taken in the same pass as their value."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gp.sic.columns import CHUNK


def sum_of_chunks(
    function: Callable, parameters: Any, rows: tuple[Array, ...], fills: tuple
) -> Float[Array, ""]:
    r"""The sum :math:`\sum_c f(θ, r_c)` over chunks r of rows.

    Reverse mode would go through the chunks twice, and compute each one's value again on the way
    back. As the sum is one number, each chunk's gradient is final where its value is computed.

    Args:
      function: of the parameters and arrays with `CHUNK` rows, to a number.
      parameters: θ, a pytree; derivatives are those in its floating leaves.
      rows: arrays with equally many rows; derivatives are those in the floating ones.
      fills: what fills up the last chunk of each.

    Returns:
      The sum. Its derivatives are of first order only, and only in reverse mode.

    Complexity:
      One evaluation with its gradient for each chunk; the memory of one chunk, and of the rows.
    """
    count = len(rows[0])
    size = min(CHUNK, count)

    def cut(array: Array, fill: Any) -> Array:
        filler = jnp.full((-count % size, *array.shape[1:]), fill, array.dtype)
        return jnp.concatenate([array, filler]).reshape(-1, size, *array.shape[1:])

    cuts = [cut(array, fill) for array, fill in zip(rows, fills, strict=True)]
    leaves, structure = jax.tree.flatten((parameters, cuts))
    moving = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]
    number = jax.tree.structure(parameters).num_leaves

    def term(some: list, others: list) -> Array:
        """Of floating and other leaves, those of rows being one chunk's."""
        found = [iter(others), iter(some)]
        parameters, rows = jax.tree.unflatten(structure, [next(found[kind]) for kind in moving])
        return function(parameters, *rows)

    def split(leaves: list) -> list[list]:
        """Floating leaves of parameters and of rows, then their other leaves."""
        ends = range(number), range(number, len(leaves))
        pick = lambda end, kind: [leaves[i] for i in end if moving[i] == kind]
        return [pick(end, kind) for kind in (1, 0) for end in ends]

    @jax.custom_vjp
    def total(theta: list, some: list, fixed: list, others: list) -> Array:
        each = lambda chunk: term([*theta, *chunk[0]], [*fixed, *chunk[1]])
        return jnp.sum(lax.map(each, (some, others)))

    def forward(theta: list, some: list, fixed: list, others: list) -> tuple:
        def step(sums: tuple, chunk: tuple) -> tuple:
            at = lambda theta, some: term([*theta, *some], [*fixed, *chunk[1]])
            found, (by_theta, by_rows) = jax.value_and_grad(at, (0, 1))(theta, chunk[0])
            return jax.tree.map(jnp.add, sums, (found, by_theta)), by_rows

        kind = jax.eval_shape(total, theta, some, fixed, others)
        start = jnp.zeros(kind.shape, kind.dtype), jax.tree.map(jnp.zeros_like, theta)
        (value, by_theta), by_rows = lax.scan(step, start, (some, others))
        return value, (by_theta, by_rows)

    def backward(slopes: tuple, bar: Array) -> tuple:
        return (*jax.tree.map(lambda slope: bar * slope, slopes), None, None)

    total.defvjp(forward, backward)
    return total(*split(leaves))
