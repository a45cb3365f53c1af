"""Triangular square roots of covariances, Σ = L Lᵀ, and gradients with respect to them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def positive_qr(x: Float[Array, "... N P"]) -> tuple[Float[Array, "... N P"], Array]:
    """The QR decomposition whose R has no negative diagonal entry, and so is unique."""
    q, r = jnp.linalg.qr(x)
    sign = jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1.0, 1.0).astype(r.dtype)
    return q * sign[..., None, :], r * sign[..., :, None]


def lower_root(root: Float[Array, "... D D"]) -> Float[Array, "... D D"]:
    """The lower triangular root of the same covariance, without squaring the condition."""
    return jnp.swapaxes(positive_qr(jnp.swapaxes(root, -1, -2))[1], -1, -2)


def whitened_gradient(
    root: Float[Array, "... D D"], gradient: Float[Array, "... D D"]
) -> Float[Array, "... D D"]:
    """``Lᵀ (2 ∂f/∂Σ) L`` from the gradient of f in the lower triangle of L.

    Its lower triangle is that of ``Lᵀ ∂f/∂L``.
    """
    lower = jnp.tril(jnp.swapaxes(root, -1, -2) @ jnp.tril(gradient))
    return lower + jnp.swapaxes(jnp.tril(lower, -1), -1, -2)


def unwhitened(
    root: Float[Array, "... D D"], whitened: Float[Array, "... D D"]
) -> Float[Array, "... D D"]:
    """``L⁻ᵀ X L⁻¹`` of a symmetric X and a lower triangular L."""
    upper = jnp.swapaxes(root, -1, -2)
    half = jax.scipy.linalg.solve_triangular(upper, whitened, lower=False)
    return jax.scipy.linalg.solve_triangular(upper, jnp.swapaxes(half, -1, -2), lower=False)
