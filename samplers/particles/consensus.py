"""Particles that move towards their weighted mean: optimisation and sampling without gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from samplers.particles.state import ParticleInfo, ParticleState, algorithm, moved


def _consensus(log_density: Callable, x: Array, beta: Array | float) -> tuple[Array, Array]:
    """Weights of the particles, and their weighted mean; what is not finite has no weight."""
    values = jax.vmap(log_density)(x)
    values = jnp.where(jnp.isfinite(values), values, -jnp.inf)
    weights = jax.nn.softmax(beta * values)
    weights = jnp.where(jnp.any(jnp.isfinite(values)), weights, 1 / len(x)).astype(x.dtype)
    return weights, weights @ x


def consensus_optimization(
    log_density: Callable[[Array], Array],
    step_size: float | Array,
    *,
    beta: float | Array = 30.0,
    drift: float | Array = 1.0,
    diffusion: float | Array = 1.0,
) -> Any:
    r"""Consensus-based optimisation: the particles gather where the density is largest.

    .. math:: x_i \leftarrow x_i - λ Δ (x_i - m) + σ \sqrtΔ\, (x_i - m) \odot ξ_i, \qquad
        m = \frac{\sum_j x_j p(x_j)^β}{\sum_j p(x_j)^β}

    with noise by coordinate, in proportion to the distance from consensus, so that the dimension
    does not enter. For small steps it gathers in mean square where :math:`2λ > σ^2`; a larger σ
    explores more, and nearly all particles gather still. It finds global maxima of densities with
    many, without gradients.

    Args:
      log_density: log p of one particle, shape ``(D,)``; minus a loss.
      step_size: Δ.
      beta: β, large: 1/β is the resolution in nats.
      drift: λ.
      diffusion: σ.

    Returns:
      A `blackjax.SamplingAlgorithm`: ``init(particles)``, ``step(key, state)``. Particles where the
      density is not finite have no weight.

    Complexity:
      N density evaluations a step.

    Reference: Carrillo, Jin, Li and Zhu (2021), "A consensus-based global optimization method for
    high dimensional machine learning problems"; Pinnau, Totzeck, Tse and Martin
    (2017), "A consensus-based model for global optimization and its mean-field limit".

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from samplers.particles import consensus_optimization
      >>> wells = lambda x: -jnp.sum((x - 1.0) ** 2 - 2 * jnp.cos(6 * (x - 1.0)))
      >>> how = consensus_optimization(wells, 0.05)
      >>> state = how.init(3 * jax.random.normal(jax.random.key(0), (200, 2)))
      >>> run = lambda state, key: how.step(key, state)
      >>> state, _ = jax.lax.scan(run, state, jax.random.split(jax.random.key(1), 300))
      >>> bool(jnp.all(jnp.abs(state.particles.mean(0) - 1.0) < 0.02))
      True
    """

    def step(rng_key: Array, state: ParticleState) -> tuple[ParticleState, ParticleInfo]:
        x = state.particles
        _, mean = _consensus(log_density, x, beta)
        away = x - mean
        shake = diffusion * jnp.sqrt(step_size) * jax.random.normal(rng_key, x.shape, x.dtype)
        return moved(state, x - drift * step_size * away + shake * away)

    return algorithm(step, "consensus_optimization")


def consensus_sampling(
    log_density: Callable[[Array], Array],
    step_size: float | Array,
    *,
    beta: float | Array = 1.0,
) -> Any:
    r"""Consensus-based sampling: particles in the shape of the density, without gradients.

    .. math:: x_i \leftarrow m + α (x_i - m) + \sqrt{(1 - α^2)(1 + β)\, C}\; ξ_i, \qquad α = e^{-Δ}

    with m and C the mean and covariance of the particles weighted by :math:`p^β`. In the limit of
    many particles a Gaussian target is invariant, for every β and step size, and approached
    exponentially; for other targets the particles end as a Gaussian near the mode or modes that the
    start covers.

    Args:
      log_density: log p of one particle, shape ``(D,)``.
      step_size: Δ; infinity draws afresh at every step.
      beta: β > 0; weights are uneven where it is large.

    Returns:
      A `blackjax.SamplingAlgorithm`: ``init(particles)``, ``step(key, state)``. Particles where the
      density is not finite have no weight.

    Complexity:
      N density evaluations and O(N D² + D³) a step; N well above D.

    Reference: Carrillo, Hoffmann, Stuart and Vaes (2022), "Consensus-based sampling".

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from samplers.particles import consensus_sampling
      >>> how = consensus_sampling(lambda x: -0.5 * jnp.sum((x - 5.0) ** 2), 1.0)
      >>> state = how.init(jax.random.normal(jax.random.key(0), (2000, 2)))
      >>> run = lambda state, key: how.step(key, state)
      >>> state, _ = jax.lax.scan(run, state, jax.random.split(jax.random.key(1), 50))
      >>> bool(jnp.all(jnp.abs(state.particles.mean(0) - 5.0) < 0.2))
      True
    """

    def step(rng_key: Array, state: ParticleState) -> tuple[ParticleState, ParticleInfo]:
        x = state.particles
        weights, mean = _consensus(log_density, x, beta)
        keep = jnp.exp(-jnp.asarray(step_size, x.dtype))
        away = x - mean
        values, vectors = jnp.linalg.eigh((weights[:, None] * away).T @ away)
        root = vectors * jnp.sqrt(jnp.maximum(values, 0))
        shake = jax.random.normal(rng_key, x.shape, x.dtype) @ root.T
        size = jnp.sqrt((1 - keep**2) * (1 + beta))
        return moved(state, mean + keep * away + size * shake)

    return algorithm(step, "consensus_sampling")
