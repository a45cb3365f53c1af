"""Kernels of directions: inputs with a one appended, by their lengths and their angles."""

import abc
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from gp.kernels.distance import matern_profile, squared_distance
from gp.kernels.kernel import Kernel
from vi.module import module, static


class Zonal(Kernel):
    r"""Lengths to a power, times a profile of the angle θ between directions.

    .. math:: k(x, x') = σ^2 ‖\tilde x‖^n ‖\tilde x'‖^n κ(\cos θ), \qquad \tilde x = (x / ℓ, 1)
    """

    positive: ClassVar[tuple[str, ...]] = ("lengthscale", "variance")

    lengthscale: Float[Array, "*D"] | float
    variance: Float[Array, ""] | float

    @property
    @abc.abstractmethod
    def power(self) -> int:
        """N."""
        ...

    @abc.abstractmethod
    def profile(self, square: Array) -> Array:
        """κ at squared chords 2(1 - cos θ), from 0 to 4; one at 0."""
        ...

    def __call__(self, a: Float[Array, "*B N D"], b: Float[Array, "*B M D"]) -> Array:
        """The block of covariances."""
        (u, p), (v, q) = self.directions(a), self.directions(b)
        lengths = (p[..., :, None] * q[..., None, :]) ** self.power
        return self.variance * lengths * self.profile(squared_distance(u, v))

    def diagonal(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N"]:
        """Variances."""
        return self.variance * self.directions(x)[1] ** (2 * self.power)

    def directions(self, x: Float[Array, "*B N D"]) -> tuple[Array, Array]:
        """Unit vectors of inputs with a one appended, ``(*B, N, D + 1)``, and their lengths."""
        one = jnp.ones((*x.shape[:-1], 1), x.dtype)
        scaled = jnp.concatenate([x / self.lengthscale, one], -1)
        length = jnp.sqrt(jnp.sum(scaled**2, -1))
        return scaled / length[..., None], length


@module
class ZonalMatern(Zonal):
    r"""A Matérn kernel of the chord between directions, growing linearly along them.

    .. math::

       k(x, x') = σ^2 ‖\tilde x‖ ‖\tilde x'‖\, M_ν(\sqrt{2ν}\, c / s), \qquad
       \tilde x = (x / ℓ, 1), \quad c = 2 \sin(θ/2),

    where θ is the angle between :math:`\tilde x` and :math:`\tilde x'`. Like `ArcCosine` it
    is a sum over levels of spherical harmonics, but with all levels, and as smooth as ν says.

    Args:
      lengthscale: ℓ, one number or one for each coordinate: inputs of that size are at 45 degrees
        from the origin.
      variance: σ².
      chord: s, the length scale on the sphere.
      nu: ν, one of 0.5, 1.5, 2.5, ...

    Complexity:
      O(N M D).

    Example:
      >>> import gp, jax.numpy as jnp
      >>> x = jnp.asarray([[1.0], [-1.0]])
      >>> [round(float(v), 3) for v in gp.ZonalMatern(nu=0.5)(x, x)[0]]
      [2.0, 0.486]

    Reference: Tiao, Dutordoir and Picheny (2023), "Spherical inducing features for
    orthogonally-decoupled Gaussian processes", section 2.3, for kernels of this form.
    """

    positive: ClassVar[tuple[str, ...]] = ("lengthscale", "variance", "chord")

    lengthscale: Float[Array, "*D"] | float = 1.0
    variance: Float[Array, ""] | float = 1.0
    chord: Float[Array, ""] | float = 1.0
    nu: float = static(default=1.5)

    @property
    def power(self) -> int:
        """One."""
        return 1

    def profile(self, square: Array) -> Array:
        """The correlation of directions."""
        order = self.nu - 0.5
        if order < 0 or order != int(order):
            raise ValueError(f"ZonalMatern: expected nu in 0.5, 1.5, 2.5, ...; got {self.nu}.")
        return matern_profile(int(order), 2 * self.nu * square / self.chord**2)
