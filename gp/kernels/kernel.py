"""What a kernel is, and the arithmetic of kernels."""

import abc
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.module import module


class Kernel(abc.ABC):
    """A covariance function k(x, x'), evaluated on blocks; its hyperparameters are its leaves.

    A kernel is a `vi.module.module` derived from this class. ``kernel(a, b)`` takes blocks of
    inputs with the same leading axes, so that one call serves a dense matrix and a thousand small
    ones alike. Kernels add and multiply, and a number times a kernel is a kernel.

    To write one, give it ``__call__``; `diagonal` and `metric` have defaults, the first of which
    costs a call on blocks of one point. ``positive`` names the fields that must stay positive:
    training moves their logarithms.
    """

    positive: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def __call__(self, a: Float[Array, "*B N D"], b: Float[Array, "*B M D"]) -> Array:
        """The block of covariances k(a_i, b_j), shape ``(*B, N, M)``."""
        ...

    def diagonal(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N"]:
        """Variances k(x_i, x_i)."""
        points = x[..., None, :]
        return self(points, points)[..., 0, 0]

    def metric(self, x: Float[Array, "N D"]) -> Float[Array, "N E"]:
        """Coordinates in which Euclidean distance orders points as the kernel does, roughly.

        Neighbours are looked for in them. The default is the input itself.
        """
        return x

    def __add__(self, other: "Kernel") -> "Sum":
        """The sum of two kernels."""
        return Sum((*_terms(self), *_terms(other)))

    def __mul__(self, other: Any) -> "Kernel":
        """The product of two kernels, or of a kernel and a positive number."""
        if isinstance(other, Kernel):
            return Product((*_factors(self), *_factors(other)))
        return Scaled(self, other)

    def __rmul__(self, other: Any) -> "Kernel":
        """A positive number times a kernel."""
        return Scaled(self, other)


@module
class Sum(Kernel):
    r"""The sum of kernels, :math:`k = \sum_i k_i`; made by ``+``.

    Its metric joins those of its terms, each weighted by the root of its share of the variance, so
    that a term that explains little does not decide who is whose neighbour.

    Attributes:
      kernels: the terms.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> x = jnp.asarray([[0.0], [1.0]])
      >>> kernel = gp.Matern(lengthscale=2.0) + 0.5 * gp.Periodic(period=1.0)
      >>> kernel(x, x).shape, kernel.metric(x).shape
      ((2, 2), (2, 3))
    """

    kernels: tuple[Any, ...]

    def __call__(self, a: Float[Array, "*B N D"], b: Float[Array, "*B M D"]) -> Array:
        """The block of covariances."""
        total = self.kernels[0](a, b)
        for kernel in self.kernels[1:]:
            total = total + kernel(a, b)
        return total

    def diagonal(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N"]:
        """Variances."""
        total = self.kernels[0].diagonal(x)
        for kernel in self.kernels[1:]:
            total = total + kernel.diagonal(x)
        return total

    def metric(self, x: Float[Array, "N D"]) -> Float[Array, "N E"]:
        """The terms' coordinates, weighted and side by side."""
        variances = jnp.stack([jnp.mean(kernel.diagonal(x)) for kernel in self.kernels])
        weights = jnp.sqrt(variances / jnp.sum(variances))
        pairs = zip(weights, self.kernels, strict=True)
        return jnp.concatenate([w * kernel.metric(x) for w, kernel in pairs], -1)


@module
class Product(Kernel):
    r"""The product of kernels, :math:`k = \prod_i k_i`; made by ``*``.

    Its metric joins those of its factors: logarithms of correlations add, as squared distances do.

    Attributes:
      kernels: the factors.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> x = jnp.asarray([[0.0], [1.0]])
      >>> decaying = gp.SquaredExponential(lengthscale=10.0) * gp.Periodic(period=1.0)
      >>> round(float(decaying(x, x)[0, 1]), 3)
      0.995
    """

    kernels: tuple[Any, ...]

    def __call__(self, a: Float[Array, "*B N D"], b: Float[Array, "*B M D"]) -> Array:
        """The block of covariances."""
        total = self.kernels[0](a, b)
        for kernel in self.kernels[1:]:
            total = total * kernel(a, b)
        return total

    def diagonal(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N"]:
        """Variances."""
        total = self.kernels[0].diagonal(x)
        for kernel in self.kernels[1:]:
            total = total * kernel.diagonal(x)
        return total

    def metric(self, x: Float[Array, "N D"]) -> Float[Array, "N E"]:
        """The factors' coordinates, side by side."""
        return jnp.concatenate([kernel.metric(x) for kernel in self.kernels], -1)


@module
class Scaled(Kernel):
    r"""A kernel times a positive number, :math:`s\, k`; made by ``*``.

    Attributes:
      kernel: the kernel.
      variance: s.
    """

    positive: ClassVar[tuple[str, ...]] = ("variance",)

    kernel: Any
    variance: Float[Array, ""] | float

    def __call__(self, a: Float[Array, "*B N D"], b: Float[Array, "*B M D"]) -> Array:
        """The block of covariances."""
        return self.variance * self.kernel(a, b)

    def diagonal(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N"]:
        """Variances."""
        return self.variance * self.kernel.diagonal(x)

    def metric(self, x: Float[Array, "N D"]) -> Float[Array, "N E"]:
        """The kernel's own."""
        return self.kernel.metric(x)


def _terms(kernel: Kernel) -> tuple:
    return kernel.kernels if isinstance(kernel, Sum) else (kernel,)


def _factors(kernel: Kernel) -> tuple:
    return kernel.kernels if isinstance(kernel, Product) else (kernel,)
