"""Wasserstein gradient flows of functionals of a distribution, without and with noise."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from samplers.particles.state import ParticleInfo, ParticleState, algorithm, moved, scheduled


def particle_descent(
    functional: Callable[[Array], Array],
    step_size: float | Array | optax.Schedule,
    *,
    noise: float | Array | optax.Schedule = 0.0,
) -> Any:
    r"""Gradient descent of a functional of a distribution, held as N equal particles.

    .. math:: w_i \leftarrow w_i - γ N \frac{∂}{∂ w_i} F\Big(\frac1N \sum_j δ_{w_j}\Big) + s ξ_i

    the Euler step of the Wasserstein gradient flow of F. Where F is displacement convex and
    Lipschitz, N = O(1/ε²) particles come within ε of its minimum (Daneshmand, Lee and Jin 2023,
    "Efficient displacement convex optimization with particle gradient descent"). The
    energy distance in one dimension is such an F, a maximum mean discrepancy with a Gaussian kernel
    is not. A little noise keeps particles apart that F would not part.

    Args:
      functional: F as a function of the particles, shape ``(N, D)``, and nothing else: a mean over
        them, or over pairs.
      step_size: γ, a number or a schedule of the step.
      noise: s, the standard deviation of what is added at every step, a number or a schedule.

    Returns:
      A `blackjax.SamplingAlgorithm`: ``init(particles)``, ``step(key, state)``. A particle whose
      move is not finite stays, and is counted in the info.

    Complexity:
      One gradient of F a step.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from samplers.particles import particle_descent
      >>> energy = lambda w: jnp.mean(jnp.sum((w - 2.0) ** 2, 1))
      >>> how = particle_descent(energy, 0.25)
      >>> state, _ = how.step(jax.random.key(0), how.init(jnp.zeros((3, 1))))
      >>> state.particles[:, 0].tolist()
      [1.0, 1.0, 1.0]
    """

    def step(rng_key: Array, state: ParticleState) -> tuple[ParticleState, ParticleInfo]:
        w = state.particles
        drift = len(w) * jax.grad(functional)(w)
        size = scheduled(noise, state.count)
        shaken = size * jax.random.normal(rng_key, w.shape, w.dtype)
        return moved(state, w - scheduled(step_size, state.count) * drift + shaken)

    return algorithm(step, "particle_descent", least=1)


def mean_field_langevin(
    functional: Callable[[Array], Array],
    step_size: float | Array | optax.Schedule,
    *,
    temperature: float | Array = 1.0,
) -> Any:
    r"""Langevin dynamics of particles that see each other through a functional.

    .. math:: x_i \leftarrow x_i - ε N \frac{∂}{∂ x_i} F\Big(\frac1N \sum_j δ_{x_j}\Big)
        + \sqrt{2 ε λ}\, ξ_i

    the minimiser of :math:`F(μ) + λ \int μ \log μ` in the limits of many particles and small steps:
    the fixed point :math:`μ \propto \exp(-\tfrac1λ \tfrac{δF}{δμ}(μ))`. With F(μ) = -E log p it is
    unadjusted Langevin sampling of p; with the loss of the mean output over neurons it trains an
    infinitely wide network.

    Args:
      functional: F, as for `particle_descent`.
      step_size: ε, a number or a schedule of the step.
      temperature: λ, of the entropy.

    Returns:
      A `blackjax.SamplingAlgorithm`, as `particle_descent`.

    Complexity:
      One gradient of F a step. The error is O(ε + 1/N), uniformly in time where F is convex and a
      logarithmic Sobolev inequality holds.

    Reference: Nitanda, Wu and Suzuki (2022), "Convex analysis of the mean field Langevin dynamics";
    Suzuki, Nitanda and Wu (2023), "Uniform-in-time propagation of chaos for the mean field gradient
    Langevin dynamics".

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from samplers.particles import mean_field_langevin
      >>> how = mean_field_langevin(lambda x: 0.5 * jnp.mean(jnp.sum(x**2, 1)), 0.1)
      >>> run = lambda state, key: how.step(key, state)
      >>> keys = jax.random.split(jax.random.key(0), 100)
      >>> state, _ = jax.lax.scan(run, how.init(jnp.zeros((2000, 1))), keys)
      >>> bool(jnp.abs(state.particles.var() - 1.05) < 0.1)
      True
    """

    def noise(count: Array) -> Array:
        return jnp.sqrt(2 * temperature * scheduled(step_size, count))

    return particle_descent(functional, step_size, noise=noise)
