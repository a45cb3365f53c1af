"""Regularised Newton steps whose regularisation is doubled until a trial point is accepted."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from optim.tree import norm
from optim.vectors import Point


class Trial(NamedTuple):
    """A step under one regularisation, and what the test of acceptance says of it."""

    step: Float[Array, " D"]
    gradient: Float[Array, " D"]  # where it leads
    accepted: Bool[Array, ""]
    strength: Float[Array, ""]  # of the regularisation, relative to the curvature


def backtrack(
    attempt: Callable[[Float[Array, ""]], Trial],
    smoothness: Float[Array, ""],
    at: Point,
    curvature: Float[Array, ""],
    max_tries: int,
) -> tuple[Float[Array, " D"], Float[Array, ""], Array]:
    r"""Double a smoothness until its step is accepted, and halve it after that.

    A gradient that is as small as its rounding says nothing:
    :math:`\|g^+\| \le 16 ε \|H\| (\|x\| + \|s\|)`, with ε the unit of rounding. Such a step is
    accepted, as is one of length zero: else chance would double the smoothness without end near
    an optimum. It is not halved once the regularisation is lost in the rounding of the curvature.

    Args:
      attempt: from a smoothness to a step.
      smoothness: the first to try.
      at: where.
      curvature: :math:`\|H\|`.
      max_tries: trial points at most.

    Returns:
      The step, zero if none was accepted; the smoothness for the next step; the number of tries.
    """
    eps = jnp.finfo(at.x.dtype).eps
    size = norm(at.x)

    def body(carry: tuple) -> tuple:
        _, smoothness, tries, _ = carry
        trial = attempt(smoothness)
        length = norm(trial.step)
        rounding = 16 * eps * curvature * (size + length)
        lost = (norm(trial.gradient) <= rounding) | (length == 0)
        accepted = trial.accepted | lost
        halved = jnp.where(trial.strength > eps, smoothness / 2, smoothness)
        smoothness = jnp.where(accepted, halved, jnp.minimum(2 * smoothness, _MOST))
        return trial.step, smoothness, tries + 1, accepted

    none, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    step, smoothness, tries, accepted = jax.lax.while_loop(
        lambda carry: ~carry[3] & (carry[2] < max_tries),
        body,
        (jnp.zeros_like(at.x), smoothness, none, no),
    )
    return jnp.where(accepted, step, 0), smoothness, tries


_MOST = 1e30  # so that one doubled where nothing is finite can still be halved
