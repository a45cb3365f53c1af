"""Optimizers written on vectors, as optax transformations of any pytree."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from optim.flat import ravel
from optim.oracle import Oracle, as_oracle


class VectorState(NamedTuple):
    """State of an optimizer written on vectors."""

    count: Array  # shape=(), dtype=int32; updates so far, skipped ones included
    skipped: Array  # shape=(), dtype=int32; updates that would not have been finite
    inner: Any  # the method's own


class Point(NamedTuple):
    """Where a step is taken."""

    x: Float[Array, " D"]  # parameters, at least float32
    count: Array  # number of the step
    value: Callable[[], Float[Array, ""]]  # the loss at x
    oracle: Oracle  # the loss as a function of such vectors
    unravel: Callable[[Array], Any]  # the parameters' structure
    of_params: Oracle  # the loss as a function of the parameters


Step = Callable[[Float[Array, " D"], Any, Point], tuple[Float[Array, " D"], Any]]


def vector_transformation(
    owner: str,
    init: Callable[[Float[Array, " D"], Callable[[Array], Any]], Any],
    step: Step,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    needs: tuple[str, ...] | None = (),
    compares_values: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation from a step on vectors.

    What is the same for all of them happens here: parameters of any structure and precision
    become one vector of at least single precision; the update has the structure and dtypes of
    the gradient; an update that is not finite, or leads to a state that is not, becomes zero,
    leaves the method's state alone and is counted.

    Args:
      owner: name of the optimizer, for messages.
      init: from the vector of parameters, and its way back to them, to the method's state.
      step: ``(gradient, state, point) -> (direction, state)``; the parameters move against the
        direction.
      learning_rate: factor of the direction, a number or a schedule.
      needs: what the oracle must declare; None if the method uses no oracle.
      compares_values: whether losses or gradients at two points are compared, which an
        accumulation of gradients over other losses makes meaningless.
    """

    def start(params: optax.Params) -> VectorState:
        if compares_values:
            _refuse_accumulation(owner)
        x, unravel = ravel(params)
        zero = jnp.zeros((), jnp.int32)
        return VectorState(zero, zero, init(x, unravel) if len(x) else ())

    def update(
        updates: optax.Updates,
        state: VectorState,
        params: optax.Params | None = None,
        *,
        value: Array | None = None,
        grad: optax.Updates | None = None,
        value_fn: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, VectorState]:
        del grad, extra
        if params is None:
            raise ValueError(
                f"{owner}: expected params in update(updates, state, params); got None."
            )
        g, unravel = ravel(updates)
        count = jnp.asarray(optax.safe_increment(state.count))
        if not len(g):
            return updates, state._replace(count=count)
        no_oracle = needs is None and value_fn is None
        full = Oracle(_unused) if no_oracle else as_oracle(value_fn, owner, needs or ())
        x, oracle = full.flat(params)
        loss = lambda: oracle(x) if value is None else jnp.asarray(value, x.dtype)
        point = Point(x, state.count, loss, oracle, ravel(params)[1], full)
        direction, inner = step(g, state.inner, point)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        move = -jnp.asarray(rate, x.dtype) * direction
        good = all_finite((g, move, inner))
        move = jnp.where(good, move, 0)
        inner = jax.tree.map(lambda new, old: jnp.where(good, new, old), inner, state.inner)
        return unravel(move), VectorState(count, state.skipped + ~good, inner)

    return optax.GradientTransformationExtraArgs(start, update)


def all_finite(tree: Any) -> Array:
    """Whether all floating leaves are finite."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))


def momentum_average(
    average: Float[Array, " D"], g: Float[Array, " D"], decay: float, count: Array
) -> tuple[Float[Array, " D"], Float[Array, " D"]]:
    """An exponential average with a new gradient, and the same without its bias to zero."""
    average = decay * average + (1 - decay) * g
    steps = (count + 1).astype(g.dtype)
    return average, average / jnp.maximum(1 - jnp.asarray(decay, g.dtype) ** steps, _TINY)


def limit_norm(v: Float[Array, " D"], limit: Array | float) -> Float[Array, " D"]:
    """A vector scaled down to a norm of at most ``limit``."""
    return v * jnp.minimum(1.0, limit / jnp.maximum(jnp.linalg.norm(v), _TINY))


_TINY = 1e-30


def _unused(params: Any) -> Array:
    raise TypeError("an optimizer that needs no oracle used it")


def _refuse_accumulation(owner: str) -> None:
    """Raise if called from the ``init`` of `optax.MultiSteps`."""
    frame = sys._getframe(1)
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), optax.MultiSteps):
            raise ValueError(
                f"{owner}: expected not to be wrapped in optax.MultiSteps, since it compares the "
                "loss or its gradient at two points, and MultiSteps passes an average of gradients "
                "with the last loss only. Average the micro-batches in the loss, "
                "for instance by jax.lax.map."
            )
        frame = frame.f_back
