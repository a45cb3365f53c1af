"""Manifolds of covariances: the affine-invariant and the Bures-Wasserstein geometry."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from optim.manifold import Manifold, symmetric
from optim.roots import lower_root, positive_qr, unwhitened, whitened_gradient


class _Square(Manifold):
    def check(self, shape: tuple[int, ...]) -> None:
        """Two axes of the same length."""
        met = len(shape) >= 2 and shape[-2] == shape[-1]
        self._expect("square matrices", shape, met=met)


class _Covariance(_Square):
    def project(self, x: Array) -> Array:
        """The symmetric part, eigenvalues no less than a rounding unit of the largest."""
        values, vectors = jnp.linalg.eigh(symmetric(x))
        largest = jnp.max(jnp.abs(values), axis=-1, keepdims=True)
        floor = jnp.finfo(x.dtype).eps * jnp.where(largest > 0, largest, 1)
        return (vectors * jnp.maximum(values, floor)[..., None, :]) @ jnp.swapaxes(vectors, -1, -2)

    def deviation(self, x: Array) -> Array:
        """Relative asymmetry; infinite where there is no Cholesky factor."""
        skew = jnp.max(jnp.abs(x - jnp.swapaxes(x, -1, -2)), initial=0)
        size = jnp.max(jnp.abs(x), initial=0)
        positive = jnp.all(jnp.isfinite(jnp.linalg.cholesky(symmetric(x))))
        return jnp.where(positive, skew / jnp.where(size > 0, size, 1), jnp.inf)


@dataclasses.dataclass(frozen=True)
class AffineInvariant(_Covariance):
    """Positive definite matrices with the metric that no linear change of variables alters.

    With the Cholesky factor L of Σ, a tangent U is kept as ``L⁻¹ U L⁻ᵀ``: orthonormal
    coordinates, in which exponential map and parallel transport are exact. An
    eigendecomposition, a Cholesky and a QR decomposition a step, O(D³).
    """

    def gradient(self, x: Array, gradient: Array) -> Array:
        """Of ``Σ G Σ``: ``Lᵀ G L``."""
        root = jnp.linalg.cholesky(x)
        return jnp.swapaxes(root, -1, -2) @ symmetric(gradient) @ root

    def inner(self, x: Array, u: Array, v: Array) -> Array:
        """``tr(Σ⁻¹ U Σ⁻¹ V)``."""
        del x
        return jnp.sum(u * v, axis=(-2, -1), keepdims=True)

    def move(self, x: Array, step: Array, tangent: Array) -> tuple[Array, Array]:
        """``L exp(W) Lᵀ``."""
        root = jnp.linalg.cholesky(x)
        values, vectors = jnp.linalg.eigh(step)
        half = (vectors * jnp.exp(0.5 * values)[..., None, :]) @ jnp.swapaxes(vectors, -1, -2)
        frame, upper = positive_qr(half @ jnp.swapaxes(root, -1, -2))
        new = symmetric(jnp.swapaxes(upper, -1, -2) @ upper)
        return new, symmetric(jnp.swapaxes(frame, -1, -2) @ tangent @ frame)


def _limited(step: Array) -> Array:
    """The step, at most ½ in spectral norm: I + M stays well inside the positive matrices."""
    size = jnp.max(jnp.abs(jnp.linalg.eigvalsh(step)), axis=-1)[..., None, None]
    return step * jnp.minimum(1, 0.5 / jnp.where(size > 0, size, 1))


@dataclasses.dataclass(frozen=True)
class BuresWasserstein(_Covariance):
    """Positive definite matrices with the metric of optimal transport between Gaussians.

    A tangent ``M Σ + Σ M`` is kept as the symmetric M, the linear part of the transport map.
    Steps are along geodesics, ``(I + M) Σ (I + M)``, no longer than ½ in the spectral norm of M;
    tangents are carried by keeping M, which is not parallel transport (that has no closed form).
    O(D³).
    """

    def gradient(self, x: Array, gradient: Array) -> Array:
        """``M = 2 G``."""
        del x
        return 2 * symmetric(gradient)

    def inner(self, x: Array, u: Array, v: Array) -> Array:
        """``tr(M Σ M')``."""
        return jnp.sum((u @ x) * v, axis=(-2, -1), keepdims=True)

    def move(self, x: Array, step: Array, tangent: Array) -> tuple[Array, Array]:
        """``(I + M) Σ (I + M)``."""
        factor = jnp.eye(x.shape[-1], dtype=x.dtype) + _limited(step)
        return symmetric(factor @ x @ factor), tangent


@dataclasses.dataclass(frozen=True)
class BuresWassersteinRoot(_Square):
    """`BuresWasserstein` for covariances given by their lower triangular roots.

    That is how full-rank Gaussian families hold them, for instance
    ``vi.Gaussian(Euclidean(), DenseScale(BuresWassersteinRoot()))``; standard deviations need
    nothing, since this geometry is flat in them (`Euclidean`). O(D³).
    """

    def gradient(self, x: Array, gradient: Array) -> Array:
        """``M = 2 ∂f/∂Σ``, from the lower triangle of ``∂f/∂L``."""
        return unwhitened(x, whitened_gradient(x, gradient))

    def inner(self, x: Array, u: Array, v: Array) -> Array:
        """``tr(M Σ M')``."""
        return jnp.sum((u @ x) * (v @ x), axis=(-2, -1), keepdims=True)

    def move(self, x: Array, step: Array, tangent: Array) -> tuple[Array, Array]:
        """The triangular root of ``(I + M) Σ (I + M)``."""
        return lower_root(x + _limited(step) @ x), tangent

    def project(self, x: Array) -> Array:
        """The lower triangle, its diagonal made positive by turning columns round."""
        lower = jnp.tril(x)
        diagonal = jnp.diagonal(lower, axis1=-2, axis2=-1)
        lower = lower * jnp.where(diagonal < 0, -1, 1).astype(x.dtype)[..., None, :]
        size = jnp.max(jnp.abs(lower), axis=(-2, -1), keepdims=True)
        floor = jnp.finfo(x.dtype).eps * jnp.where(size > 0, size, 1)
        eye = jnp.eye(x.shape[-1], dtype=bool)
        return jnp.where(eye, jnp.maximum(lower, floor), lower)

    def deviation(self, x: Array) -> Array:
        """Relative size of the upper triangle; infinite where the diagonal is not positive."""
        size = jnp.max(jnp.abs(x), initial=0)
        above = jnp.max(jnp.abs(jnp.triu(x, 1)), initial=0) / jnp.where(size > 0, size, 1)
        positive = jnp.all(jnp.diagonal(x, axis1=-2, axis2=-1) > 0)
        return jnp.where(positive, above, jnp.inf)
