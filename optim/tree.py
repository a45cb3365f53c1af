"""Arithmetic on parameter trees with accumulators of at least single precision."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from optim import flat


def wide(tree: Any) -> Any:
    """The tree with its floating leaves in at least float32, as new arrays."""
    return jax.tree.map(lambda x: jnp.array(flat.wide(x)), tree)


def accumulator_dtype(tree: Any) -> Any:
    """The dtype of scalars that belong to a tree: the widest of its leaves, at least float32."""
    return jnp.result_type(jnp.float32, *map(jnp.result_type, jax.tree.leaves(tree)))


def norm(tree: Any) -> Array:
    """Euclidean norm over all leaves, shape ``()``; neither overflows nor underflows."""
    leaves = [x.ravel() for x in jax.tree.leaves(wide(tree)) if x.size]
    if not leaves:
        return jnp.zeros((), jnp.float32)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in leaves]))
    unit = jnp.where(largest > 0, largest, 1)
    return largest * jnp.sqrt(sum(jnp.sum((x / unit) ** 2) for x in leaves))


def difference(a: Any, b: Any) -> Any:
    """``a - b``, in at least float32."""
    return jax.tree.map(jnp.subtract, wide(a), wide(b))


def cast_like(tree: Any, like: Any) -> Any:
    """The leaves of ``tree`` in the dtypes of ``like``."""
    return jax.tree.map(lambda x, y: x.astype(jnp.result_type(y)), tree, like)


def needs_params(owner: str, params: optax.Params | None) -> optax.Params:
    """``params``, or an error if an update was asked for without them."""
    if params is None:
        raise ValueError(f"{owner}: expected params in update(updates, state, params); got None.")
    return params
