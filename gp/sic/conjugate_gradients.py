"""Preconditioned conjugate gradients that say how far they got."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


class Solution(NamedTuple):
    """Where the iteration ended.

    Attributes:
      x: the solution.
      residual: norm of the residual over that of the right hand side; 0 if that is 0.
      iterations: how many there were.
    """

    x: Float[Array, " n"]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]


def conjugate_gradients(
    multiply: Callable[[Array], Array],
    precondition: Callable[[Array], Array],
    rhs: Float[Array, " n"],
    *,
    tolerance: float,
    max_iterations: int,
) -> Solution:
    """Solve A x = b for positive definite A.

    `jax.scipy.sparse.linalg.cg` does the same but does not say how many iterations it took, which
    here is a measure of the preconditioner, itself the posterior's factor.

    Args:
      multiply: A.
      precondition: an approximate inverse, positive definite; it gives the start.
      rhs: b.
      tolerance: of the residual, relative to the right hand side.
      max_iterations: most products with A.

    Returns:
      The solution, also where it is not within the tolerance.

    Complexity:
      One product and one preconditioning an iteration, and one of each more.
    """
    size = jnp.linalg.norm(rhs)
    scale = jnp.where(size > 0, size, 1)

    def on(state: tuple) -> Array:
        _, r, _, _, count = state
        return (jnp.linalg.norm(r) > tolerance * scale) & (count < max_iterations)

    def step(state: tuple) -> tuple:
        x, r, p, rz, count = state
        ap = multiply(p)
        rate = rz / (p @ ap)
        x, r = x + rate * p, r - rate * ap
        z = precondition(r)
        new = r @ z
        return x, r, z + (new / rz) * p, new, count + 1

    x = precondition(rhs)
    r = rhs - multiply(x)
    z = precondition(r)
    x, r, _, _, count = lax.while_loop(on, step, (x, r, z, r @ z, jnp.asarray(0)))
    return Solution(x, jnp.linalg.norm(r) / scale, count)
