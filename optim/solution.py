"""Where the answer of an optimizer is, if it is not at its parameters."""

from typing import Any

import jax
import optax
from optax.contrib import ScheduleFreeState, schedule_free_eval_params

from optim.tree import cast_like, is_masked


def _holds(state: Any) -> bool:
    return hasattr(type(state), "solution") or isinstance(state, ScheduleFreeState)


def _is_whole(node: Any) -> bool:
    """Whether a node of a solution stands for one leaf of the parameters."""
    return is_masked(node) or _is_pair(node)


def _is_pair(node: Any) -> bool:
    """Whether a node is what ``optax.contrib.split_real_and_imaginary`` makes of a complex leaf."""
    return getattr(node, "_fields", ()) == ("real", "imaginary")


def _solution(state: Any, params: Any) -> Any:
    if not isinstance(state, ScheduleFreeState):
        return state.solution
    mask = lambda z, p: z if is_masked(z) else p
    part = jax.tree.map(mask, state.z, params, is_leaf=is_masked)
    return schedule_free_eval_params(state, part)


def eval_params(state: optax.OptState, params: optax.Params) -> optax.Params:
    """The solution that an optimizer's state holds, in the dtypes of ``params``.

    Averaging and accelerated methods want gradients at one point, ``params``, and have their
    answer at another. Such states have a ``solution``, a tree like the parameters (those of
    `polynomial_average`, `a_dog` and `nigt` do), or are those of ``optax.contrib.schedule_free``;
    they are found wherever they are within ``state``: in a chain, or under ``optax.masked`` or
    ``optax.partition``, for the leaves they are in charge of, or under
    ``optax.contrib.split_real_and_imaginary``. Of nested ones the outermost counts.

    Args:
      state: the state of any optax transformation.
      params: the current parameters.

    Returns:
      The solution; ``params`` itself where no part of the state has one.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from optim import a_dog, eval_params
      >>> optimizer, x = optax.chain(optax.clip(1.0), a_dog()), jnp.array([1.0, -1.0])
      >>> state = optimizer.init(x)
      >>> for _ in range(200):
      ...     updates, state = optimizer.update(2 * x, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(jnp.all(jnp.abs(eval_params(state, x)) < 1e-2))
      True
    """
    for part in jax.tree.leaves(state, is_leaf=_holds):
        if _holds(part):
            params = jax.tree.map(_read, _solution(part, params), params, is_leaf=_is_whole)
    return params


def _read(solution: Any, params: Any) -> Any:
    if is_masked(solution):
        return params
    if _is_pair(solution) and not _is_pair(params):
        solution = solution.real + 1j * solution.imaginary
    return cast_like(solution, params)
