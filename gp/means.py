"""Mean functions of the prior."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from gp.function import Function
from vi.module import module


@module
class Zero:
    """The mean function that is zero.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> gp.Zero()(jnp.ones((2, 3))).tolist()
      [0.0, 0.0]
    """

    def __call__(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N"]:
        """Zeros."""
        return jnp.zeros(x.shape[:-1], x.dtype)


@module
class ConstantMean:
    """A mean function that is one number.

    Attributes:
      constant: the number.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> gp.ConstantMean(2.0)(jnp.ones((2, 3))).tolist()
      [2.0, 2.0]
    """

    constant: Float[Array, ""] | float = 0.0

    def __call__(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N"]:
        """The number."""
        return jnp.broadcast_to(jnp.asarray(self.constant, x.dtype), x.shape[:-1])


@module
class LinearMean:
    """A mean function that is affine in the inputs.

    Attributes:
      slope: one number for each coordinate.
      constant: the value at the origin.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> gp.LinearMean(jnp.asarray([1.0, 2.0]), 0.5)(jnp.ones((2, 2))).tolist()
      [3.5, 3.5]
    """

    slope: Float[Array, " D"]
    constant: Float[Array, ""] | float = 0.0

    def __call__(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N"]:
        """The affine function."""
        return x @ self.slope + self.constant


@module
class FunctionMean:
    """A mean function of the user's; made by `function_mean`.

    Attributes:
      function: maps ``(*B, N, D)`` to ``(*B, N)``.
    """

    function: Function

    def __call__(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N"]:
        """The function's values."""
        return self.function(x)


def function_mean(function: Callable) -> FunctionMean:
    """A mean function from any callable; its arrays, if it is a pytree with some, are trained.

    Args:
      function: maps inputs of shape ``(*B, N, D)`` to values of shape ``(*B, N)``.

    Returns:
      The mean.

    Raises:
      TypeError: if it cannot be called.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> gp.function_mean(lambda x: jnp.sin(x[..., 0]))(jnp.zeros((2, 1))).tolist()
      [0.0, 0.0]
    """
    return FunctionMean(Function.of(function))
