"""What all optimizers of `optim` share from step to step: skips, step numbers, keys, rates."""

import inspect
import zlib
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from optim.tree import all_finite

S = TypeVar("S")


def settle(old: S, new: S, gradient: Any, steps: Any, *, own: Any = None) -> tuple[Any, S]:
    """The end of every update: what is not finite is not done, and counted.

    If the gradient, the steps, or what they leave in the state are not finite, the steps become
    zero and the state stays as it was. States have ``count``, the number of steps taken, by
    which rules of first steps, averages and schedules go, and ``skipped``, that of updates that
    were not done.

    Args:
      old: the state before, a NamedTuple.
      new: the state after; its ``count`` and ``skipped`` are set here.
      gradient: what came in.
      steps: what goes out.
      own: what of the new state must be finite, if not all of it: states of others may hold
        infinities.

    Returns:
      The steps, and the state.
    """
    before: Any = old
    after: Any = new
    good = all_finite((gradient, steps, new if own is None else own))
    count = jnp.asarray(optax.safe_increment(before.count))
    after = after._replace(count=count, skipped=before.skipped)
    steps = jax.tree.map(lambda x: jnp.where(good, x, 0), steps)
    kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), after, before)
    return steps, kept._replace(skipped=before.skipped + ~good)


def no_steps() -> dict[str, Array]:
    """``count`` and ``skipped`` of a new state."""
    return {"count": jnp.zeros((), jnp.int32), "skipped": jnp.zeros((), jnp.int32)}


def rate_at(learning_rate: optax.ScalarOrSchedule, count: Array) -> Array:
    """The number, or the schedule's value at a step."""
    return jnp.asarray(learning_rate(count) if callable(learning_rate) else learning_rate)


def with_extra_args(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """The transformation, such that it takes any extra arguments and gets those it can use.

    Unlike ``optax.with_extra_args_support`` it goes by the signature of ``update``, not by the
    type: ``optax.MultiSteps`` passes extra arguments on, and has neither of optax's two types.
    """
    parameters = inspect.signature(optimizer.update).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        known = extra if takes_all else {k: v for k, v in extra.items() if k in parameters}
        return optimizer.update(updates, state, params, **known)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def step_key(key: Array, purpose: str, t: Array | int) -> Array:
    """A method's key for step t, apart from a loop's ``fold_in(key, t)`` of the same key.

    Args:
      key: that the method was given, which may be the loop's.
      purpose: what it is for: other purposes have other randomness.
      t: number of the step.
    """
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(purpose.encode())), t)
