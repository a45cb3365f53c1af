"""Kernels of dot products: constant, linear, and arc-cosine."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from gp.kernels.distance import arc_cosine_profile
from gp.kernels.kernel import Kernel
from gp.kernels.zonal import Zonal
from vi.module import module, static


@module
class Constant(Kernel):
    r"""A random constant, :math:`k(x, x') = σ^2`.

    Args:
      variance: σ².

    Example:
      >>> import gp, jax.numpy as jnp
      >>> affine = gp.Constant(4.0) + gp.Linear()
      >>> float(affine(jnp.ones((1, 2)), jnp.ones((1, 2)))[0, 0])
      6.0
    """

    positive: ClassVar[tuple[str, ...]] = ("variance",)

    variance: Float[Array, ""] | float = 1.0

    def __call__(self, a: Float[Array, "*B N D"], b: Float[Array, "*B M D"]) -> Array:
        """The block of covariances."""
        batch = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        shape = (*batch, a.shape[-2], b.shape[-2])
        return jnp.broadcast_to(jnp.asarray(self.variance, a.dtype), shape)

    def diagonal(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N"]:
        """The variance."""
        return jnp.broadcast_to(jnp.asarray(self.variance, x.dtype), x.shape[:-1])


@module
class Linear(Kernel):
    r"""Linear functions through the origin with normal weights.

    .. math:: k(x, x') = \sum_d σ_d^2 x_d x'_d

    Args:
      variance: σ², of each weight; one number or one for each coordinate.

    Complexity:
      O(N M D).

    Example:
      >>> import gp, jax.numpy as jnp
      >>> x = jnp.asarray([[1.0, 2.0]])
      >>> float(gp.Linear(jnp.asarray([1.0, 0.5]))(x, x)[0, 0])
      3.0

    Reference: Rasmussen and Williams (2006), section 4.2.2.
    """

    positive: ClassVar[tuple[str, ...]] = ("variance",)

    variance: Float[Array, "*D"] | float = 1.0

    def __call__(self, a: Float[Array, "*B N D"], b: Float[Array, "*B M D"]) -> Array:
        """The block of covariances."""
        return jnp.einsum("...id,...jd->...ij", a * self.variance, b)

    def diagonal(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N"]:
        """Variances."""
        return jnp.sum(self.variance * x**2, -1)


@module
class ArcCosine(Zonal):
    r"""The kernel of an infinitely wide layer of rectified units.

    .. math::

       k(x, x') = σ^2 ‖\tilde x‖^n ‖\tilde x'‖^n J_n(θ), \qquad \tilde x = (x / ℓ, 1),

    where θ is the angle between :math:`\tilde x` and :math:`\tilde x'`, and J of angle 0 is 1:
    order 0 is of step functions, 1 of rectified linear units, 2 of their squares. (Cho and Saul's
    constant for n = 2, 3, is part of σ² here.)

    Args:
      lengthscale: ℓ, one number or one for each coordinate: weights are of size 1/ℓ where biases
        are of size one.
      variance: σ².
      order: n, one of 0, 1, 2.

    Raises:
      ValueError: when evaluated, if the order is another.

    Complexity:
      O(N M D).

    Example:
      >>> import gp, jax.numpy as jnp
      >>> x = jnp.asarray([[1.0], [-1.0]])
      >>> [round(float(v), 3) for v in gp.ArcCosine(order=1)(x, x)[0]]
      [2.0, 0.637]

    Reference: Cho and Saul (2009), "Kernel methods for deep learning", equations 1 to 6.
    """

    positive: ClassVar[tuple[str, ...]] = ("lengthscale", "variance")

    lengthscale: Float[Array, "*D"] | float = 1.0
    variance: Float[Array, ""] | float = 1.0
    order: int = static(default=1)

    @property
    def power(self) -> int:
        """The order."""
        return self.order

    def profile(self, square: Array) -> Array:
        """The angular part."""
        if self.order not in (0, 1, 2):
            raise ValueError(f"ArcCosine: expected order in 0, 1, 2; got {self.order}.")
        return arc_cosine_profile(self.order, square)
