"""Optimizers on tables of which a step touches few rows."""

from typing import Any

import jax
import optax
from jaxtyping import Array, Int

from optim.steps import with_extra_args


def init_rows(optimizer: optax.GradientTransformation, params: optax.Params) -> optax.OptState:
    """The state of an optimizer that each row of the parameters has for itself.

    Args:
      optimizer: any optax transformation that needs gradients and parameters only.
      params: leaves with one first axis of n rows.

    Returns:
      Its states, stacked: leaves with a first axis of n. For `step_rows`.

    Complexity:
      n states of one row.
    """
    return jax.vmap(optimizer.init)(params)


def step_rows(
    optimizer: optax.GradientTransformation,
    index: Int[Array, " R"],
    grads: Any,
    state: Any,
    params: Any,
) -> tuple[Any, Any]:
    r"""Take a step of an optimizer on some rows, as if the others were not there.

    .. math::

       (x_i, s_i) \leftarrow \mathrm{step}(x_i, s_i, g_i) \quad (i \in I), \qquad
       (x_i, s_i) \text{ unchanged otherwise}

    Each row has its own count of steps, moments and so on, so that a row that is seldom touched
    goes as under the optimizer by itself on just those gradients. (Momenta of a dense step would
    go on to move, and decay, rows without a gradient.) Steps that mix rows, such as clipping by a
    global norm, act within each row. Where ``params`` and ``state`` are donated to the compiled
    function around, nothing but the rows is read or written.

    Args:
      optimizer: the one of `init_rows`.
      index: I, distinct rows; n and above for none.
      grads: a tree like ``params`` with R rows, those of the index.
      state: of `init_rows`, or of the step before.
      params: leaves of n rows.

    Returns:
      The parameters and the state after the step.

    Complexity:
      Of R rows, whatever n, if buffers are donated; else a copy of all.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from optim import init_rows, step_rows
      >>> table, optimizer = jnp.ones((5, 2)), optax.adam(0.1)
      >>> state = init_rows(optimizer, table)
      >>> index, grads = jnp.asarray([3]), jnp.asarray([[1.0, -1.0]])
      >>> table, state = step_rows(optimizer, index, grads, state, table)
      >>> [f"{x:.2f}" for x in table[2:4].ravel()]
      ['1.00', '1.00', '0.90', '1.10']
    """
    update = with_extra_args(optimizer).update
    some = lambda leaf: leaf.at[index].get(mode="clip")
    rows, old = jax.tree.map(some, (params, state))
    updates, new = jax.vmap(lambda *a: update(*a))(grads, old, rows)
    rows = optax.apply_updates(rows, updates)
    put = lambda all_rows, few: all_rows.at[index].set(few, mode="drop", unique_indices=True)
    return jax.tree.map(put, (params, state), (rows, new))
