"""Pytrees as vectors of at least single precision."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float


def wide(x: Any) -> Array:
    """An array with floating dtypes below float32 raised to it."""
    dtype = jnp.result_type(x)
    if jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.promote_types(dtype, jnp.float32)
    return jnp.asarray(x, dtype)


def ravel(tree: Any) -> tuple[Float[Array, " D"], Callable[[Array], Any]]:
    """A pytree's leaves as one vector, of at least float32, and the way back.

    Args:
      tree: leaves are floating arrays of any shape, scalars and empty ones included.

    Returns:
      The vector, and a function that gives a vector the structure, shapes and dtypes of ``tree``.
    """
    dtypes = jax.tree.map(jnp.result_type, tree)
    vector, unravel = ravel_pytree(jax.tree.map(wide, tree))

    def back(v: Array) -> Any:
        return jax.tree.map(lambda x, dtype: x.astype(dtype), unravel(v), dtypes)

    return vector, back
