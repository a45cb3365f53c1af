"""What two samples must be for a distance between them."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def floating(owner: str, x: Any) -> Array:
    """An array of real floating numbers: those given, whole numbers included.

    Raises:
      TypeError: if they are none; the message begins with ``owner``.
    """
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError):
        raise TypeError(f"{owner}: expected an array of numbers; got {x!r}.") from None
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x
    if not (jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool):
        raise TypeError(f"{owner}: expected real numbers; got an array of {x.dtype}.")
    return x.astype(float)


def samples(owner: str, x: Any, y: Any) -> tuple[Float[Array, "N D"], Float[Array, "M D"]]:
    """Two matrices of as many columns, and not empty.

    Raises:
      ValueError: if they are not; the message begins with ``owner``.
      TypeError: if they are not of real numbers.
    """
    x, y = floating(owner, x), floating(owner, y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or 0 in (x.size, y.size):
        raise ValueError(
            f"{owner}: expected samples (N, D) and (M, D), not empty; got shapes {x.shape} and "
            f"{y.shape}. Give points on the line as a column, x[:, None]."
        )
    return x, y
