"""A user's function with its parameters, as a noun that JAX can trace, train and compile once."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from vi.module import module, static
from vi.targets.arguments import Arguments


@module
class Function:
    """A callable whose arrays are leaves, and all else of which is structure.

    A plain function has no leaves; a network that is a pytree has its weights. Two functions of
    the same code that read equal values are equal, so that one made anew is not compiled anew.

    Attributes:
      arrays: the arrays of the callable, in the order of its pytree.
      structure: the rest.

    Example:
      >>> import jax.numpy as jnp
      >>> from gp.function import Function
      >>> square = Function.of(lambda x: x**2)
      >>> square(jnp.asarray(3.0)), square.arrays
      (Array(9., dtype=float32, weak_type=True), ())
    """

    arrays: tuple[Array, ...]
    structure: Arguments = static()

    @classmethod
    def of(cls, function: "Callable | Function") -> "Function":
        """The noun of a callable, which may itself be a pytree with arrays."""
        if isinstance(function, Function):
            return function
        if not callable(function):
            raise TypeError(
                f"gp: expected a callable; got {function!r} of type {type(function).__name__}. "
                "Give a function, or a pytree with __call__ such as a network."
            )
        structure = Arguments((function,), {})
        return cls(tuple(structure.data((function,), {})), structure)

    def __call__(self, *args: Any) -> Any:
        """The callable's value."""
        (function,), _ = self.structure.join(list(self.arrays))
        return function(*args)

    def __repr__(self) -> str:
        """The callable's own name."""
        leaves = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", list(self.arrays))
        (function,), _ = self.structure.join(leaves)
        return getattr(function, "__name__", type(function).__name__)
