"""Optimizers written on vectors, as optax transformations of any pytree."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from optim.oracle import Oracle, as_oracle
from optim.steps import no_steps, rate_at, settle
from optim.tree import divide, needs_params, ravel


class VectorState(NamedTuple):
    """State of an optimizer written on vectors.

    Attributes:
      count: steps taken, shape ``()``.
      skipped: steps whose update would not have been finite, shape ``()``.
      inner: the method's own state.
    """

    count: Array
    skipped: Array
    inner: Any


class Point(NamedTuple):
    """Where a step is taken, and what may be asked of the loss there.

    Attributes:
      x: parameters, at least float32.
      count: steps taken before this one: 0 at the first, whatever was skipped.
      updates: updates before this one, skipped ones included: for keys.
      value: a function of nothing, the loss at x.
      oracle: the loss as a function of such vectors.
      unravel: from a vector to the parameters' structure.
      of_params: the loss as a function of the parameters.
    """

    x: Float[Array, " D"]
    count: Array
    updates: Array
    value: Callable[[], Float[Array, ""]]
    oracle: Oracle
    unravel: Callable[[Array], Any]
    of_params: Oracle


Step = Callable[[Float[Array, " D"], Any, Point], tuple[Float[Array, " D"], Any]]


def vector_transformation(
    owner: str,
    init: Callable[[Float[Array, " D"], Callable[[Array], Any]], Any],
    step: Step,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    needs: tuple[str, ...] | None = (),
    compares_values: bool = False,
    own: Callable[[Any], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation from a step on vectors.

    What is the same for all of them happens here: parameters of any structure and precision
    become one vector of at least single precision; the update has the structure and dtypes of
    the gradient; an update that is not finite, or leads to a state that is not, is skipped, as
    `optim.steps.settle` says.

    Args:
      owner: name of the optimizer, for messages.
      init: from the vector of parameters, and its way back to them, to the method's state.
      step: ``(gradient, state, point) -> (direction, state)``; the parameters move against the
        direction.
      learning_rate: factor of the direction, a number or a schedule.
      needs: what the oracle must declare; None if the method uses no oracle.
      compares_values: whether losses or gradients at two points are compared, which an
        accumulation of gradients over other losses makes meaningless.
      own: from the method's state to what of it must be finite; all if None.
    """

    def start(params: optax.Params) -> VectorState:
        if compares_values:
            _refuse_accumulation(owner)
        x, unravel = ravel(params)
        return VectorState(**no_steps(), inner=init(x, unravel) if len(x) else ())

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
        params = needs_params(owner, params)
        g, unravel = ravel(updates)
        if not len(g):
            return settle(state, state, updates, updates)
        no_oracle = needs is None and value_fn is None
        full = Oracle(_unused) if no_oracle else as_oracle(value_fn, owner, needs or ())
        x, oracle = full.flat(params)
        loss = lambda: oracle(x) if value is None else jnp.asarray(value, x.dtype)
        seen = state.count + state.skipped
        point = Point(x, state.count, seen, loss, oracle, ravel(params)[1], full)
        direction, inner = step(g, state.inner, point)
        move = -rate_at(learning_rate, state.count).astype(x.dtype) * direction
        mine = own(inner) if own is not None else inner
        return settle(state, state._replace(inner=inner), g, unravel(move), own=mine)

    return optax.GradientTransformationExtraArgs(start, update)


def momentum_average(
    average: Float[Array, " D"], g: Float[Array, " D"], decay: float, count: Array
) -> tuple[Float[Array, " D"], Float[Array, " D"]]:
    """An exponential average with gradient number ``count``, and that without its bias to 0."""
    average = decay * average + (1 - decay) * g
    steps = (count + 1).astype(g.dtype)
    return average, divide(average, 1 - jnp.asarray(decay, g.dtype) ** steps)


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
