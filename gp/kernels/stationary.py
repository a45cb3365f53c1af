"""Kernels that depend on a scaled distance: Matérn, squared exponential and their relatives."""

import abc
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from gp.kernels.distance import matern_profile, squared_distance
from gp.kernels.kernel import Kernel
from vi.module import module, static


class Stationary(Kernel):
    """A variance times a profile of the squared distance in the kernel's metric."""

    positive: ClassVar[tuple[str, ...]] = ("lengthscale", "variance")

    lengthscale: Float[Array, "*D"] | float
    variance: Float[Array, ""] | float

    @abc.abstractmethod
    def profile(self, square: Array) -> Array:
        """The correlation at squared distances in the metric."""
        ...

    def metric(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N E"]:
        """Inputs divided by the length scales."""
        return x / _fitting(self, x)

    def __call__(self, a: Float[Array, "*B N D"], b: Float[Array, "*B M D"]) -> Array:
        """The block of covariances, by differences of coordinates."""
        return self.variance * self.profile(squared_distance(self.metric(a), self.metric(b)))

    def diagonal(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N"]:
        """The variance."""
        return jnp.broadcast_to(jnp.asarray(self.variance, x.dtype), x.shape[:-1])


def _fitting(kernel: Stationary, x: Array) -> Array | float:
    """The length scales, if there is one or one for each coordinate."""
    shape = jnp.shape(kernel.lengthscale)
    if shape not in ((), (1,), x.shape[-1:]):
        raise ValueError(
            f"{type(kernel).__name__}: expected lengthscale of shape () or (D,) for inputs of "
            f"D = {x.shape[-1]} coordinates; got shape {shape}. Give one length scale for each "
            "coordinate, or wrap the kernel in gp.ActiveDimensions."
        )
    return kernel.lengthscale


@module
class Matern(Stationary):
    r"""The Matérn kernel of half-integer smoothness.

    .. math::

       k(x, x') = σ^2 M_ν(\sqrt{2ν}\, r), \qquad r^2 = \sum_d (x_d - x'_d)^2 / ℓ_d^2,

    with :math:`M_{1/2} = e^{-s}`, :math:`M_{3/2} = (1 + s) e^{-s}`,
    :math:`M_{5/2} = (1 + s + s^2/3) e^{-s}` and so on; draws are ν - ½ times differentiable.

    Args:
      lengthscale: ℓ, one number or one for each of D coordinates, in the units of the inputs.
      variance: σ², in squared units of the function.
      nu: ν, one of 0.5, 1.5, 2.5, ...

    Raises:
      ValueError: when evaluated, if ν is not a half-integer.

    Complexity:
      O(N M (D + ν)).

    Example:
      >>> import gp, jax.numpy as jnp
      >>> kernel = gp.Matern(lengthscale=jnp.asarray([1.0, 3.0]), variance=2.0, nu=2.5)
      >>> kernel(jnp.zeros((4, 2)), jnp.ones((5, 2))).shape
      (4, 5)

    Reference: Rasmussen and Williams (2006), "Gaussian processes for machine learning",
    equation 4.16.
    """

    lengthscale: Float[Array, "*D"] | float = 1.0
    variance: Float[Array, ""] | float = 1.0
    nu: float = static(default=1.5)

    def profile(self, square: Array) -> Array:
        """The correlation."""
        order = self.nu - 0.5
        if order < 0 or order != int(order):
            raise ValueError(
                f"Matern: expected nu in 0.5, 1.5, 2.5, ...; got {self.nu}. For other smoothness "
                "use the nearest of these, or gp.RationalQuadratic."
            )
        return matern_profile(int(order), 2 * self.nu * square)


@module
class SquaredExponential(Stationary):
    r"""The squared exponential kernel, whose draws are infinitely smooth.

    .. math:: k(x, x') = σ^2 \exp(-r^2/2), \qquad r^2 = \sum_d (x_d - x'_d)^2 / ℓ_d^2

    Its matrices are nearly singular where points are dense: in 32-bit floats prefer `Matern`.

    Args:
      lengthscale: ℓ, one number or one for each of D coordinates.
      variance: σ².

    Complexity:
      O(N M D).

    Example:
      >>> import gp, jax.numpy as jnp
      >>> x = jnp.asarray([[0.0], [1.0]])
      >>> round(float(gp.SquaredExponential()(x, x)[0, 1]), 3)
      0.607

    Reference: Rasmussen and Williams (2006), equation 4.9.
    """

    lengthscale: Float[Array, "*D"] | float = 1.0
    variance: Float[Array, ""] | float = 1.0

    def profile(self, square: Array) -> Array:
        """The correlation."""
        return jnp.exp(-0.5 * square)


@module
class RationalQuadratic(Stationary):
    r"""A mixture of squared exponentials over length scales.

    .. math:: k(x, x') = σ^2 \left(1 + \frac{r^2}{2α}\right)^{-α}, \qquad
              r^2 = \sum_d (x_d - x'_d)^2 / ℓ_d^2

    Args:
      lengthscale: ℓ, one number or one for each of D coordinates.
      variance: σ².
      alpha: α; large is the squared exponential, small mixes widely.

    Complexity:
      O(N M D).

    Example:
      >>> import gp, jax.numpy as jnp
      >>> x = jnp.asarray([[0.0], [1.0]])
      >>> round(float(gp.RationalQuadratic(alpha=1.0)(x, x)[0, 1]), 3)
      0.667

    Reference: Rasmussen and Williams (2006), equation 4.19.
    """

    positive: ClassVar[tuple[str, ...]] = ("lengthscale", "variance", "alpha")

    lengthscale: Float[Array, "*D"] | float = 1.0
    variance: Float[Array, ""] | float = 1.0
    alpha: Float[Array, ""] | float = 1.0

    def profile(self, square: Array) -> Array:
        """The correlation."""
        return jnp.exp(-self.alpha * jnp.log1p(square / (2 * self.alpha)))


@module
class Periodic(Stationary):
    r"""The squared exponential on a circle for each coordinate: draws repeat exactly.

    .. math:: k(x, x') = σ^2 \exp\left(-2 \sum_d \sin^2(π (x_d - x'_d) / p_d) / ℓ_d^2\right)

    Args:
      lengthscale: ℓ, one number or one for each coordinate; relative to a circle of radius one.
      variance: σ².
      period: p, one number or one for each coordinate, in the units of the inputs.

    Complexity:
      O(N M D).

    Example:
      >>> import gp, jax.numpy as jnp
      >>> x = jnp.asarray([[0.0], [0.25], [1.0]])
      >>> [round(float(v), 3) for v in gp.Periodic(period=1.0)(x, x)[0]]
      [1.0, 0.368, 1.0]

    Reference: Rasmussen and Williams (2006), equation 4.31.
    """

    positive: ClassVar[tuple[str, ...]] = ("lengthscale", "variance", "period")

    lengthscale: Float[Array, "*D"] | float = 1.0
    variance: Float[Array, ""] | float = 1.0
    period: Float[Array, "*D"] | float = 1.0

    def metric(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N E"]:
        """Points of the circles, whose chord is 2 sin(π (x - x') / p), divided by ℓ."""
        scale, angle = _fitting(self, x), 2 * jnp.pi * x / self.period
        return jnp.concatenate([jnp.cos(angle) / scale, jnp.sin(angle) / scale], -1)

    def profile(self, square: Array) -> Array:
        """The correlation."""
        return jnp.exp(-0.5 * square)
