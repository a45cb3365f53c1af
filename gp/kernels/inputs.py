"""Kernels of what is made of the inputs: some coordinates, or features of a network."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from gp.function import Function
from gp.kernels.kernel import Kernel
from vi.module import module, static


@module
class ActiveDimensions(Kernel):
    r"""A kernel of some of the coordinates, :math:`k(x_A, x'_A)`.

    Args:
      kernel: of as many coordinates as are named.
      dimensions: their numbers A, from 0.

    Raises:
      ValueError: when evaluated, if an input has no such coordinate.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> space = gp.ActiveDimensions(gp.Matern(), (0, 1))
      >>> time = gp.ActiveDimensions(gp.Periodic(), (2,))
      >>> (space * time)(jnp.ones((4, 3)), jnp.ones((5, 3))).shape
      (4, 5)
    """

    kernel: Any
    dimensions: tuple[int, ...] = static()

    def _pick(self, x: Array) -> Array:
        if not all(0 <= i < x.shape[-1] for i in self.dimensions):
            raise ValueError(
                f"ActiveDimensions: expected dimensions from 0 to {x.shape[-1] - 1} for inputs of "
                f"D = {x.shape[-1]} coordinates; got {self.dimensions}."
            )
        return x[..., jnp.asarray(self.dimensions)]

    def __call__(self, a: Float[Array, "*B N D"], b: Float[Array, "*B M D"]) -> Array:
        """The block of covariances."""
        return self.kernel(self._pick(a), self._pick(b))

    def diagonal(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N"]:
        """Variances."""
        return self.kernel.diagonal(self._pick(x))

    def metric(self, x: Float[Array, "N D"]) -> Float[Array, "N E"]:
        """The kernel's, of those coordinates."""
        return self.kernel.metric(self._pick(x))


@module
class Deep(Kernel):
    r"""A kernel of features, :math:`k(φ(x), φ(x'))`; made by `deep`.

    Attributes:
      kernel: of the features.
      features: φ.
    """

    kernel: Any
    features: Function

    def __call__(self, a: Float[Array, "*B N D"], b: Float[Array, "*B M D"]) -> Array:
        """The block of covariances."""
        return self.kernel(self.features(a), self.features(b))

    def diagonal(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N"]:
        """Variances."""
        return self.kernel.diagonal(self.features(x))

    def metric(self, x: Float[Array, "N D"]) -> Float[Array, "N E"]:
        """The kernel's, of the features."""
        return self.kernel.metric(self.features(x))


def deep(kernel: Kernel, features: Callable) -> Deep:
    r"""A kernel of features of the inputs: deep kernel learning where they are a network's.

    .. math:: k(x, x') = k_0(φ(x), φ(x'))

    Args:
      kernel: :math:`k_0`.
      features: φ, any callable that maps ``(*B, N, D)`` to ``(*B, N, E)``: a function, or a pytree
        with ``__call__`` such as a network, whose arrays are trained with the kernel's.

    Returns:
      The kernel.

    Raises:
      TypeError: if ``features`` cannot be called.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> kernel = gp.deep(gp.Matern(), lambda x: jnp.tanh(x @ jnp.ones((3, 2))))
      >>> kernel(jnp.ones((4, 3)), jnp.ones((5, 3))).shape
      (4, 5)

    Reference: Wilson, Hu, Salakhutdinov and Xing (2016), "Deep kernel learning", equation 5.
    """
    return Deep(kernel, Function.of(features))
