"""Parameter trees as vectors and numbers of at least single precision."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float


class ComplexParameterError(TypeError):
    """Parameters or gradients are complex, which no optimizer of `optim` means."""


def _wider(x: Any) -> Any:
    """The dtype of a leaf, at least float32 if it is floating."""
    dtype = jnp.result_type(x)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ComplexParameterError(
            f"optim: expected real parameters and gradients; got a leaf with shape {jnp.shape(x)} "
            f"and dtype {dtype}. Wrap all of the optimizer in "
            "optax.contrib.split_real_and_imaginary, or, if it needs value_fn, which that does not "
            "pass on, hold real and imaginary parts as leaves of their own."
        )
    return jnp.promote_types(dtype, jnp.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype


def wide(tree: Any) -> Any:
    """The tree with its floating leaves in at least float32, as new arrays."""
    return jax.tree.map(lambda x: jnp.array(x, _wider(x)), tree)


def accumulator_dtype(tree: Any) -> Any:
    """The dtype of scalars that belong to a tree: the widest of its leaves, at least float32."""
    return jnp.result_type(jnp.float32, *map(_wider, jax.tree.leaves(tree)))


def ravel(tree: Any) -> tuple[Float[Array, " D"], Callable[[Array], Any]]:
    """A pytree's leaves as one vector, of at least float32, and the way back.

    Args:
      tree: leaves are floating arrays of any shape, scalars and empty ones included.

    Returns:
      The vector, and a function that gives a vector the structure, shapes and dtypes of ``tree``.
    """
    dtypes = jax.tree.map(jnp.result_type, tree)
    vector, unravel = ravel_pytree(wide(tree))

    def back(v: Array) -> Any:
        return jax.tree.map(lambda x, dtype: x.astype(dtype), unravel(v), dtypes)

    return vector, back


def norm(tree: Any) -> Array:
    """Euclidean norm over all leaves, shape ``()``; neither overflows nor underflows.

    It is infinite if an entry is, and NaN if an entry is NaN.
    """
    leaves = [x.ravel() for x in jax.tree.leaves(wide(tree)) if x.size]
    if not leaves:
        return jnp.zeros((), jnp.float32)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in leaves]))
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return unit * jnp.sqrt(sum(jnp.sum((x / unit) ** 2) for x in leaves))


def all_finite(tree: Any) -> Array:
    """Whether all floating leaves are finite, shape ``()``."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in leaves], bool))


def divide(a: Array, b: Array) -> Array:
    """``a / b`` by element, and 0 where b is 0; its gradient is finite there, too."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def limit_norm(v: Float[Array, " D"], limit: Array | float) -> Float[Array, " D"]:
    """A vector scaled down to a norm of at most ``limit``."""
    size = norm(v)
    return v * jnp.where(size > limit, divide(jnp.asarray(limit, v.dtype), size), 1)


def difference(a: Any, b: Any) -> Any:
    """``a - b`` by leaf, for pytrees of one structure; float16 and bfloat16 leaves in float32."""
    return jax.tree.map(jnp.subtract, wide(a), wide(b))


def cast_like(tree: Any, like: Any) -> Any:
    """The leaves of ``tree`` in the dtypes of ``like``."""
    return jax.tree.map(lambda x, y: x.astype(jnp.result_type(y)), tree, like)


def is_masked(node: Any) -> bool:
    """Whether a node stands for what ``optax.masked`` or ``optax.partition`` hides."""
    return isinstance(node, optax.MaskedNode)


def fill(part: Any, whole: Any) -> Any:
    """A part of a tree, with what is masked in it from the whole."""
    choose = lambda x, other: other if is_masked(x) else x
    return jax.tree.map(choose, part, whole, is_leaf=is_masked)


def needs_params(owner: str, params: optax.Params | None) -> optax.Params:
    """``params``, or an error if an update was asked for without them."""
    if params is None:
        raise ValueError(f"{owner}: expected params in update(updates, state, params); got None.")
    return params
