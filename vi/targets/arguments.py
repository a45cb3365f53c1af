"""Splitting a call's arguments into data, which JAX traces, and structure, which it does not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi.structural import structural_key


class Static:
    """A value that is structure; equal to another of the same content (`structural_key`)."""

    def __init__(self, value: Any):
        self.value = np.array(value) if isinstance(value, np.ndarray) else value
        self._key = structural_key(self.value)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Static) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


class _Data:
    """Stands for a leaf that is data."""


_DATA = _Data()


def is_data(leaf: Any) -> bool:
    """Whether a leaf is numeric data: an array of numbers or keys, or a Python float.

    Python integers, booleans and strings are structure: models use them as shapes and switches.
    """
    if isinstance(leaf, (float, complex, np.floating, jax.Array)):
        return True
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc"


class Arguments:
    """The static part of ``(args, kwargs)``; hashable, so that equal calls share compiled code."""

    def __init__(self, args: tuple, kwargs: dict, *, bake: bool = False):
        """Describe a call.

        Args:
          args: positional arguments.
          kwargs: keyword arguments.
          bake: treat data as structure too, for models that look at their data's values.
        """
        leaves, self.treedef = jax.tree.flatten((args, kwargs))
        self.static = tuple(_DATA if is_data(x) and not bake else Static(x) for x in leaves)

    def data(self, args: tuple, kwargs: dict) -> list[jax.Array]:
        """The data leaves of a call of this structure, as JAX arrays."""
        leaves = jax.tree.leaves((args, kwargs))
        return [
            jnp.asarray(x) for x, s in zip(leaves, self.static, strict=True) if isinstance(s, _Data)
        ]

    def join(self, data: list) -> tuple[tuple, dict]:
        """Put data leaves back: the inverse of `data`."""
        rest = iter(data)
        leaves = []
        for s in self.static:
            leaves.append(next(rest) if isinstance(s, _Data) else s.value)
        return jax.tree.unflatten(self.treedef, leaves)

    def __eq__(self, other: Any) -> bool:
        return (
            isinstance(other, Arguments)
            and self.treedef == other.treedef
            and self.static == other.static
        )

    def __hash__(self) -> int:
        return hash((self.treedef, self.static))
