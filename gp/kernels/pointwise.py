"""Kernels given as functions of two points: a user's own, and those of GPJax and tinygp."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gp.function import Function
from gp.kernels.kernel import Kernel
from vi.module import module, static


@module
class Pointwise(Kernel):
    """A kernel given by a function of two points, mapped over blocks; made by `pointwise`.

    Attributes:
      function: ``(x, x') -> k(x, x')`` of vectors of shape (D,).
      log_trained: whether training moves the logarithms of its arrays.
    """

    function: Function
    log_trained: bool = static(default=False)

    @property
    def positive(self) -> tuple[str, ...]:  # type: ignore[override]
        """The function's arrays, if they are to stay positive."""
        return ("function",) if self.log_trained else ()

    def __call__(self, a: Float[Array, "*B N D"], b: Float[Array, "*B M D"]) -> Array:
        """The block of covariances."""
        batch = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        wide = lambda x: jnp.broadcast_to(x, (*batch, *x.shape[-2:])).reshape(-1, *x.shape[-2:])
        row = jax.vmap(self.function, (None, 0))
        blocks = jax.vmap(jax.vmap(row, (0, None)))(wide(a), wide(b))
        return blocks.reshape(*batch, a.shape[-2], b.shape[-2])


def pointwise(function: Callable, *, positive: bool = False) -> Pointwise:
    r"""A kernel from any function k(x, x') of two points.

    Args:
      function: maps two vectors of shape (D,) to a scalar; must be positive definite. Arrays of a
        callable pytree are its hyperparameters.
      positive: whether they must stay positive, so that training moves their logarithms.

    Returns:
      The kernel.

    Raises:
      TypeError: if ``function`` cannot be called.

    Complexity:
      N M calls, vectorised.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> brownian = gp.pointwise(lambda x, y: jnp.minimum(x[0], y[0]))
      >>> x = jnp.asarray([[1.0], [2.0]])
      >>> brownian(x, x).tolist()
      [[1.0, 1.0], [1.0, 2.0]]
    """
    return Pointwise(Function.of(function), positive)


def from_gpjax(kernel: Any, *, positive: bool = False) -> Pointwise:
    """A kernel of GPJax as one of ours.

    Args:
      kernel: called as ``kernel(x, y)`` on two points; its arrays become hyperparameters.
      positive: whether they must stay positive; not where GPJax itself keeps them so, by storing
        them unconstrained.

    Returns:
      The kernel, of N M calls a block.

    Raises:
      TypeError: if ``kernel`` cannot be called.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> class RBF:  # of GPJax's call form
      ...     def __call__(self, x, y):
      ...         return jnp.exp(-0.5 * jnp.sum((x - y) ** 2))
      >>> gp.from_gpjax(RBF())(jnp.zeros((2, 3)), jnp.zeros((4, 3))).shape
      (2, 4)
    """
    return pointwise(kernel, positive=positive)


def from_tinygp(kernel: Any, *, positive: bool = True) -> Pointwise:
    """A kernel of tinygp as one of ours.

    Args:
      kernel: has ``kernel.evaluate(x, y)`` of two points; its arrays become hyperparameters.
      positive: whether they must stay positive, as scales and variances must.

    Returns:
      The kernel, of N M calls a block. Points of one coordinate are handed over as vectors of
      length one, which tinygp's stationary kernels take.

    Raises:
      TypeError: if ``kernel`` has no ``evaluate``.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> class Exp:  # of tinygp's call form
      ...     def evaluate(self, x, y):
      ...         return jnp.exp(-jnp.sum(jnp.abs(x - y)))
      >>> gp.from_tinygp(Exp())(jnp.zeros((2, 1)), jnp.zeros((4, 1))).shape
      (2, 4)
    """
    if not hasattr(kernel, "evaluate"):
        raise TypeError(
            "from_tinygp: expected a kernel with evaluate(x, y); got "
            f"{type(kernel).__name__}. For a function of two points use gp.pointwise."
        )
    return pointwise(_Evaluate(kernel), positive=positive)


@module
class _Evaluate:
    """The method ``evaluate`` as a call."""

    kernel: Any

    def __call__(self, x: Float[Array, " D"], y: Float[Array, " D"]) -> Float[Array, ""]:
        return self.kernel.evaluate(x, y)
