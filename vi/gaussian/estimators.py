r"""Gradients of the Gaussian ELBO by Stein's, Bonnet's and Price's identities.

For q = N(m, Σ) and f = log p,

.. math::

   \nabla_m E_q[f] = E_q[\nabla f], \qquad
   \nabla_Σ E_q[f] = \tfrac12 E_q[\nabla^2 f] = \tfrac12 Σ^{-1} E_q[(z-m)\nabla f^T]

(Bonnet 1964; Price 1958; Stein 1981; Lin, Khan and Schmidt 2019, "Stein's lemma for the
reparameterization trick with exponential family mixtures"). Each estimator is a value, called
as ``(key, q, target)``, that returns the loss (minus the ELBO, entropy in closed form) and its
gradient as a pytree of q's own structure, for any optax transformation.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vi.families.gaussian import Gaussian
from vi.gaussian.spherical import directions_of
from vi.module import module, static


class Density(Protocol):
    """What an estimator asks of a target: the log density at one point."""

    def log_density(self, z: Array, key: Array | None = None) -> Array:
        """Log density at ``z``, on a minibatch drawn with ``key`` if given."""
        ...


def _antithetic(q: Gaussian, key: Array, num_samples: int) -> Array:
    half = q.noise(key, (num_samples + 1) // 2)
    return jnp.concatenate([half, -half])[:num_samples]


def _along_paths(
    q: Gaussian, noise: Array, weights: Array, target: Density, batch_key: Array
) -> tuple[Array, Gaussian]:
    """Loss and gradient with expectations over weighted noise, differentiated along the paths."""

    def loss(q: Gaussian) -> Array:
        z = q.loc + q.scale.apply(noise)
        values = jax.vmap(lambda x: target.log_density(x, batch_key))(z)
        return -weights @ values - q.entropy()

    return jax.value_and_grad(loss)(q)


@module
class Stein:
    """Gradients only, at normal draws: the pathwise gradient with the entropy in closed form.

    Unbiased; S gradients a call. Antithetic draws remove the noise of even terms.

    Attributes:
      num_samples: S, draws a call.
      antithetic: whether they come in pairs that mirror each other at the mean.
    """

    num_samples: int = static(default=16)
    antithetic: bool = static(default=True)

    def __call__(self, key: Array, q: Gaussian, target: Density) -> tuple[Array, Gaussian]:
        """Loss, shape ``()``, and its gradient, a pytree like ``q``."""
        noise_key, batch_key = jax.random.split(key)
        draw = _antithetic if self.antithetic else Gaussian.noise
        noise = draw(q, noise_key, self.num_samples)
        weights = jnp.full(self.num_samples, 1 / self.num_samples, noise.dtype)
        return _along_paths(q, noise, weights, target, batch_key)


@module
class SphericalRadial:
    """Gradients only, at the points of the spherical-radial rule (`vi.gaussian.spherical`).

    2D + 1 gradients a call; exact for quadratic log densities. With ``random_radius`` unbiased
    for any density, otherwise exact in the mean for polynomials of degree five, with less noise.
    For scales with as much noise as coordinates (not low rank).

    Attributes:
      random_radius: whether the radius of the points is drawn, instead of fixed.
    """

    random_radius: bool = static(default=False)

    def __call__(self, key: Array, q: Gaussian, target: Density) -> tuple[Array, Gaussian]:
        """Loss, shape ``()``, and its gradient, a pytree like ``q``."""
        if q.scale.noise_dim != q.dim:
            raise TypeError(
                "SphericalRadial: expected a scale with D noise coordinates (diagonal, dense or "
                f"block); got {type(q.scale).__name__}. Use Stein for low-rank scales."
            )
        noise_key, batch_key = jax.random.split(key)
        rotation_key, radius_key = jax.random.split(noise_key)
        dim, dtype = q.dim, q.loc.dtype
        squared = jnp.full(dim, dim + 2.0, dtype)
        if self.random_radius:  # chi-squared with D + 2 degrees of freedom, one for a direction
            normal = jax.random.normal(radius_key, (dim, dim + 2), dtype)
            squared = jnp.sum(normal**2, axis=1)
        directions = directions_of(jax.random.normal(rotation_key, (dim, dim), dtype))
        offsets = jnp.sqrt(squared)[:, None] * directions
        noise = jnp.concatenate([jnp.zeros((1, dim), dtype), offsets, -offsets])
        ring = 0.5 / squared
        centre = 1 - jnp.sum(1 / squared, keepdims=True)
        return _along_paths(q, noise, jnp.concatenate([centre, ring, ring]), target, batch_key)


@module
class BonnetPrice:
    """Gradients and Hessians at normal draws; unbiased, D Hessian-vector products a draw.

    The estimate of E[∇²f] does not divide by the covariance, so it is stable where q is narrow;
    it sees curvature at the draws only, and on smooth targets has more noise for its cost than
    `SphericalRadial`.

    Attributes:
      num_samples: S, draws a call.
      antithetic: whether they come in pairs that mirror each other at the mean.
    """

    num_samples: int = static(default=8)
    antithetic: bool = static(default=True)

    def __call__(self, key: Array, q: Gaussian, target: Density) -> tuple[Array, Gaussian]:
        """Loss, shape ``()``, and its gradient, a pytree like ``q``."""
        noise_key, batch_key = jax.random.split(key)
        draw = _antithetic if self.antithetic else Gaussian.noise
        noise = draw(q, noise_key, self.num_samples)
        z, _ = q.draw(noise)

        def one(x: Array) -> tuple[Array, Array, Array]:
            f = lambda y: target.log_density(y, batch_key)
            return f(x), jax.grad(f)(x), jax.hessian(f)(x)

        value, gradient, hessian = jax.tree.map(
            lambda a: jax.lax.stop_gradient(jnp.mean(a, axis=0)), jax.vmap(one)(z)
        )

        def surrogate(q: Gaussian) -> Array:  # has the gradient of E[f] by the identities above
            energy = gradient @ q.loc + 0.5 * jnp.sum(hessian * q.covariance())
            return -energy - q.entropy()

        return -value - q.entropy(), jax.grad(surrogate)(q)
