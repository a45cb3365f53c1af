"""Splitting the coordinates of a vector into disjoint groups, and joining them again."""

import jax.numpy as jnp
from jaxtyping import Array

Groups = tuple[tuple[int, ...], ...]


def split(x: Array, groups: Groups) -> list[Array]:
    """The coordinates of each group, along the last axis."""
    return [x[..., jnp.array(group)] for group in groups]


def join(parts: list[Array], groups: Groups) -> Array:
    """The inverse of `split`."""
    order = jnp.array([i for group in groups for i in group])
    return jnp.concatenate(parts, axis=-1)[..., jnp.argsort(order)]
