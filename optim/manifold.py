"""Manifolds that parameters may live on: flat space, spheres, and orthonormal frames."""

import abc
import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from optim.roots import positive_qr


def symmetric(x: Array) -> Array:
    """The symmetric part of the last two axes."""
    return 0.5 * (x + jnp.swapaxes(x, -1, -2))


class Manifold(abc.ABC):
    """What `optim.riemannian_adam` and its relatives need to know of a manifold.

    A leaf of the parameters is one point, or along its leading axes many points of one manifold.
    Tangent vectors are arrays of the leaf's shape, in coordinates that the manifold chooses.
    """

    def check(self, shape: tuple[int, ...]) -> None:  # noqa: B027
        """Raise ValueError if a leaf of this shape cannot hold points; by default, any can."""

    @abc.abstractmethod
    def gradient(self, x: Array, gradient: Array) -> Array:
        """The Riemannian gradient at x from the ordinary gradient there."""

    @abc.abstractmethod
    def inner(self, x: Array, u: Array, v: Array) -> Array:
        """The inner product of tangents at x; one number a point, with its axes kept as 1."""

    @abc.abstractmethod
    def move(self, x: Array, step: Array, tangent: Array) -> tuple[Array, Array]:
        """The point that a step leads to, and another tangent at x carried there."""

    @abc.abstractmethod
    def project(self, x: Array) -> Array:
        """A point near x that is on the manifold."""

    @abc.abstractmethod
    def deviation(self, x: Array) -> Array:
        """How far off the manifold x is, relative to its size; shape ``()``."""

    def _expect(self, requirement: str, shape: tuple[int, ...], *, met: bool) -> None:
        if not met:
            raise ValueError(
                f"{type(self).__name__}: expected {requirement}; got a leaf with shape {shape}."
            )


@dataclasses.dataclass(frozen=True)
class Euclidean(Manifold):
    """Numbers without a constraint; every entry is a point of its own."""

    def gradient(self, x: Array, gradient: Array) -> Array:
        """The gradient."""
        del x
        return gradient

    def inner(self, x: Array, u: Array, v: Array) -> Array:
        """The product, entry by entry."""
        del x
        return u * v

    def move(self, x: Array, step: Array, tangent: Array) -> tuple[Array, Array]:
        """``x + step``."""
        return x + step, tangent

    def project(self, x: Array) -> Array:
        """Itself."""
        return x

    def deviation(self, x: Array) -> Array:
        """Zero."""
        return jnp.zeros((), x.dtype)


@dataclasses.dataclass(frozen=True)
class Sphere(Manifold):
    """Unit vectors along the last axis, with the metric of the space around them.

    Steps are taken in the tangent plane and drawn back by normalising; tangents are carried by
    projection. O(D).
    """

    def check(self, shape: tuple[int, ...]) -> None:
        """A last axis that is not empty."""
        met = len(shape) >= 1 and shape[-1] > 0
        self._expect("vectors of at least one entry along a last axis", shape, met=met)

    def gradient(self, x: Array, gradient: Array) -> Array:
        """``g - ⟨x, g⟩ x``."""
        return gradient - self.inner(x, x, gradient) * x

    def inner(self, x: Array, u: Array, v: Array) -> Array:
        """``⟨u, v⟩``."""
        del x
        return jnp.sum(u * v, axis=-1, keepdims=True)

    def move(self, x: Array, step: Array, tangent: Array) -> tuple[Array, Array]:
        """``(x + step) / ‖x + step‖``."""
        new = self.project(x + step)
        return new, self.gradient(new, tangent)

    def project(self, x: Array) -> Array:
        """``x / ‖x‖``, the nearest; the first axis vector for zero."""
        size = jnp.linalg.norm(x, axis=-1, keepdims=True)
        pole = jnp.zeros_like(x).at[..., 0].set(1)
        return jnp.where(size > 0, x / jnp.where(size > 0, size, 1), pole)

    def deviation(self, x: Array) -> Array:
        """Largest ``|‖x‖ - 1|``."""
        return jnp.max(jnp.abs(jnp.linalg.norm(x, axis=-1) - 1), initial=0)


@dataclasses.dataclass(frozen=True)
class Stiefel(Manifold):
    """Matrices ``(..., N, P)`` with orthonormal columns, N ≥ P, and the metric around them.

    Steps are drawn back by a QR decomposition with positive diagonal; tangents are carried by
    projection. O(N P²).
    """

    def check(self, shape: tuple[int, ...]) -> None:
        """Two axes, the first no shorter than the second."""
        met = len(shape) >= 2 and shape[-2] >= shape[-1]
        self._expect("matrices with at least as many rows as columns", shape, met=met)

    def gradient(self, x: Array, gradient: Array) -> Array:
        """``G - X sym(Xᵀ G)``."""
        return gradient - x @ symmetric(jnp.swapaxes(x, -1, -2) @ gradient)

    def inner(self, x: Array, u: Array, v: Array) -> Array:
        """``tr(Uᵀ V)``."""
        del x
        return jnp.sum(u * v, axis=(-2, -1), keepdims=True)

    def move(self, x: Array, step: Array, tangent: Array) -> tuple[Array, Array]:
        """The orthonormal factor of ``X + step``."""
        new, _ = positive_qr(x + step)
        return new, self.gradient(new, tangent)

    def project(self, x: Array) -> Array:
        """The nearest, ``U Vᵀ`` of the singular value decomposition."""
        u, _, vt = jnp.linalg.svd(x, full_matrices=False)
        return u @ vt

    def deviation(self, x: Array) -> Array:
        """Largest entry of ``|Xᵀ X - I|``."""
        gram = jnp.swapaxes(x, -1, -2) @ x
        return jnp.max(jnp.abs(gram - jnp.eye(x.shape[-1], dtype=x.dtype)), initial=0)
