r"""The four coordinate systems of a Gaussian, dense or diagonal.

======================  =========================================  ======================
coordinates             fields                                     relation
======================  =========================================  ======================
mean and covariance     ``loc`` m, ``covariance`` Σ
natural                 ``shift`` η = Σ⁻¹ m, ``precision`` Λ       Λ = Σ⁻¹
expectation             ``mean`` E z, ``second_moment`` E z zᵀ     E z zᵀ = Σ + m mᵀ
square root             ``loc`` m, ``root`` L, lower triangular    Σ = L Lᵀ
======================  =========================================  ======================

A natural-gradient step in natural coordinates is a gradient step in expectation coordinates
(Khan and Rue 2023, "The Bayesian learning rule"); a Bures-Wasserstein step moves the
root. Matrices of shape ``(D, D)`` are dense; vectors of shape ``(D,)`` in their place stand
for diagonal ones. All conversions go through `MeanCovariance`, cost O(D³) dense and O(D)
diagonal, and are inverse to each other up to rounding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array


class MeanCovariance(NamedTuple):
    """Mean and covariance.

    Attributes:
      loc: the mean, shape ``(D,)``.
      covariance: shape ``(D, D)``, or variances, ``(D,)``.
    """

    loc: Array
    covariance: Array


class Natural(NamedTuple):
    """Precision times mean, and precision.

    Attributes:
      shift: precision times mean, shape ``(D,)``.
      precision: the inverse of the covariance, shape ``(D, D)``, or of the variances, ``(D,)``.
    """

    shift: Array
    precision: Array


class Expectation(NamedTuple):
    """First and second moments; for a diagonal Gaussian, of each coordinate.

    Attributes:
      mean: shape ``(D,)``.
      second_moment: :math:`E[z z^T]`, shape ``(D, D)``, or :math:`E[z^2]`, ``(D,)``.
    """

    mean: Array
    second_moment: Array


class SquareRoot(NamedTuple):
    """Mean and lower triangular root of the covariance; standard deviations if diagonal.

    Attributes:
      loc: the mean, shape ``(D,)``.
      root: lower triangular, shape ``(D, D)``, or standard deviations, ``(D,)``.
    """

    loc: Array
    root: Array


def _inverse(matrix: Array) -> Array:
    if matrix.ndim == 1:
        return 1 / matrix
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), eye)


def _times(matrix: Array, x: Array) -> Array:
    return matrix * x if matrix.ndim == 1 else matrix @ x


def _outer(x: Array, like: Array) -> Array:
    return x**2 if like.ndim == 1 else jnp.outer(x, x)


def to_natural(q: MeanCovariance) -> Natural:
    """Natural coordinates."""
    precision = _inverse(q.covariance)
    return Natural(_times(precision, q.loc), precision)


def from_natural(q: Natural) -> MeanCovariance:
    """Mean and covariance from natural coordinates."""
    covariance = _inverse(q.precision)
    return MeanCovariance(_times(covariance, q.shift), covariance)


def to_expectation(q: MeanCovariance) -> Expectation:
    """Expectation coordinates."""
    return Expectation(q.loc, q.covariance + _outer(q.loc, q.covariance))


def from_expectation(q: Expectation) -> MeanCovariance:
    """Mean and covariance from expectation coordinates."""
    return MeanCovariance(q.mean, q.second_moment - _outer(q.mean, q.second_moment))


def to_square_root(q: MeanCovariance) -> SquareRoot:
    """Square-root coordinates."""
    if q.covariance.ndim == 1:
        return SquareRoot(q.loc, jnp.sqrt(q.covariance))
    return SquareRoot(q.loc, jnp.linalg.cholesky(q.covariance))


def from_square_root(q: SquareRoot) -> MeanCovariance:
    """Mean and covariance from square-root coordinates."""
    return MeanCovariance(q.loc, q.root**2 if q.root.ndim == 1 else q.root @ q.root.T)
