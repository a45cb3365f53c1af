"""Draws of a kernel's Markov process along time."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gp.state_space.blocks import seen
from gp.state_space.process import process


def draw_path(
    kernel: Any, time: Float[Array, " N"], normal: Float[Array, "S N s"]
) -> Float[Array, "S N"]:
    """Draws of the function of a kernel at points of time, in their order.

    Args:
      kernel: of the kind that `process` makes.
      time: points that do not decrease.
      normal: standard normal numbers.

    Returns:
      The function's values; its mean is zero.

    Complexity:
      O(N (s³ + S s²)) time, O(N S s) memory.
    """
    found = process(kernel, jnp.diff(time, prepend=time[:1]))
    shape = (*found.stationary.shape, len(time))
    noises = jnp.broadcast_to(found.noise, shape).at[..., 0].set(found.stationary)
    roots = small_cholesky(noises)
    transitions = jnp.broadcast_to(found.transition, shape)

    def step(state: Array, now: tuple) -> tuple[Array, Array]:
        transition, root, z = now
        state = transition @ state + root @ z
        return state, seen(state, found.observed)

    start = jnp.zeros((normal.shape[2], normal.shape[0]), normal.dtype)
    last = lambda a: jnp.moveaxis(a, -1, 0)
    _, path = jax.lax.scan(step, start, (last(transitions), last(roots), normal.transpose(1, 2, 0)))
    return path.T


def small_cholesky(a: Float[Array, "s s B"]) -> Float[Array, "s s B"]:
    """Lower factors of many small matrices, with columns of zeros where they are singular."""
    size = len(a)
    rows = [[jnp.zeros_like(a[0, 0])] * size for _ in range(size)]
    for j in range(size):
        pivot = a[j, j] - sum((rows[j][k] ** 2 for k in range(j)), jnp.zeros_like(a[0, 0]))
        root = jnp.sqrt(jnp.maximum(pivot, 0.0))
        rows[j][j] = root
        for i in range(j + 1, size):
            inner = sum((rows[i][k] * rows[j][k] for k in range(j)), jnp.zeros_like(root))
            rows[i][j] = jnp.where(root > 0, (a[i, j] - inner) / jnp.where(root > 0, root, 1), 0.0)
    return jnp.stack([jnp.stack(row) for row in rows])
