"""Nouns: small frozen dataclasses that are JAX pytrees."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """Declare a field of a `module` that is part of the pytree's structure, not a leaf.

    A static field must be hashable; JAX compiles again when it changes.

    Args:
      **kwargs: passed on to `dataclasses.field`, for instance ``default``.

    Returns:
      A dataclass field.
    """
    return dataclasses.field(metadata={"static": True}, **kwargs)


def _show(value: Any) -> str:
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"{value.dtype}{list(value.shape)}"
    return repr(value)


def _repr(self: Any) -> str:
    shown = (f"{f.name}={_show(getattr(self, f.name))}" for f in dataclasses.fields(self))
    return f"{type(self).__name__}({', '.join(shown)})"


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def module(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass that JAX handles as a pytree.

    Fields declared with `static` belong to the structure; all others are leaves or subtrees.
    Plain ``jax.jit``, ``jax.grad`` and ``jax.vmap`` work on instances. Instances compare by
    identity. Do not validate in ``__post_init__``: JAX runs it again at every unflatten.

    Args:
      cls: a class with annotated fields.

    Returns:
      The registered dataclass.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from vi.module import module, static
      >>> @module
      ... class Line:
      ...     slope: jax.Array
      ...     name: str = static(default="line")
      >>> jax.grad(lambda line: line.slope**2)(Line(jnp.asarray(3.0))).slope
      Array(6., dtype=float32, weak_type=True)
    """
    if "__repr__" not in cls.__dict__:
        cls.__repr__ = _repr
    made = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
    fields = dataclasses.fields(made)
    meta = [f.name for f in fields if f.metadata.get("static")]
    data = [f.name for f in fields if not f.metadata.get("static")]
    return jax.tree_util.register_dataclass(made, data_fields=data, meta_fields=meta)
