"""When, and at which randomness, a Newton-type method measures curvature."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from optim.oracle import Oracle
from optim.steps import step_key
from optim.vectors import Point

T = TypeVar("T")
Curvature = Literal["lagged", "same", "fresh"]


def check_curvature(owner: str, curvature: str, key: Array | None) -> tuple[str, ...]:
    """What the oracle must declare for a choice of curvature.

    Raises:
      ValueError: if there is no such choice, or the key does not go with it.
    """
    if curvature not in ("lagged", "same", "fresh"):
        raise ValueError(
            f"{owner}: expected curvature 'lagged', 'same' or 'fresh'; got {curvature!r}."
        )
    if (key is not None) != (curvature == "fresh"):
        raise ValueError(
            f"{owner}: expected a key if and only if curvature='fresh'; got "
            f"curvature={curvature!r} and key={key!r}."
        )
    return ("fresh",) if curvature == "fresh" else ()


def measured(
    measure: Callable[[T, Oracle], T],
    state: T,
    point: Point,
    curvature: Curvature,
    period: int,
    key: Array | None,
) -> tuple[T, T]:
    """Measure curvature every ``period`` steps, and say which measurement this step may use.

    A step H(ξ)⁻¹ g(ξ) whose two factors come from one small sample is biased. With "lagged"
    curvature, what is measured at a step is used from the next step on, and only the first step
    uses its own. With "fresh", it is measured at independent randomness. With "same", for losses
    without noise, it is used at once.

    Args:
      measure: from the state and an oracle to the state with a new measurement.
      state: the present measurement.
      point: where the step is taken.
      curvature: one of the three.
      period: steps from one measurement to the next.
      key: for "fresh"; may be the loop's, see `optim.steps.step_key`.

    Returns:
      The measurement to use in this step, and the one to store.
    """

    def refresh() -> T:
        return measure(state, at_fresh(point, key))

    new = jax.lax.cond(point.count % period == 0, refresh, lambda: state)
    if curvature != "lagged":
        return new, new
    first = point.count == 0
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), new, state), new


def at_fresh(point: Point, key: Array | None) -> Oracle:
    """The loss at independent randomness if there is a key for it, else at the gradient's."""
    if key is None:
        return point.oracle
    return point.oracle.fresh(step_key(key, "curvature", point.updates))


def debiased_weight(decay: float, count: Array, dtype: Any) -> Float[Array, ""]:
    """Weight of measurement number ``count`` = 1, 2, ... in an exponential average.

    The first has weight 1, and weights decay by ``decay`` from one measurement to the next: the
    average is that of an exponential average divided by its bias.
    """
    power = jnp.asarray(decay, dtype) ** count.astype(dtype)
    return (1 - decay) / jnp.maximum(1 - power, jnp.finfo(dtype).tiny)
