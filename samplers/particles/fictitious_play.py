"""Entropic fictitious play for finite sums of losses of a mean output."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from samplers.particles.state import ParticleInfo, check_particles


class FictitiousPlayState(NamedTuple):
    """Distribution so far, as particles and by its outputs, and the chains of the best response.

    Attributes:
      particles: of the mixture of all responses.
      outputs: mean output for every datum.
      response: chains, in the last Gibbs distribution.
      count: steps taken.
    """

    particles: Float[Array, "N D"]
    outputs: Float[Array, " n"]
    response: Float[Array, "N D"]
    count: Int[Array, ""]


def entropic_fictitious_play(
    output: Callable[[Array], Array],
    loss: Callable[[Array], Array],
    *,
    rate: float | Array = 0.1,
    temperature: float | Array = 0.01,
    decay: float | Array = 0.1,
    step_size: float | Array = 0.01,
    inner_steps: int = 50,
) -> Any:
    r"""Entropic fictitious play: a distribution over parameters that answers its own Gibbs measure.

    Minimises over distributions μ of parameters θ

    .. math:: L(μ) = \frac1n \sum_i ℓ_i(h_i) + λ' E_μ |θ|^2 + λ \int μ \log μ, \qquad
        h_i = E_μ h(θ, x_i)

    by :math:`μ \leftarrow (1 - γ) μ + γ p_μ` with the proximal Gibbs distribution

    .. math:: p_μ \propto \exp\Big(-\frac1λ \Big[\frac1n \sum_i ℓ_i'(h_i) h(θ, x_i)
        + λ' |θ|^2\Big]\Big).

    Only the n mean outputs of the mixture are needed for the next step, so memory does not grow:
    they move by γ towards the mean output of N Langevin chains in p_μ, which go on where they were.
    The mixture itself is held as N particles, of which each is replaced with probability γ by its
    chain's position, so that they have the mixture's distribution.

    The duality gap L(μ) less its lower bound is :math:`λ KL(μ \| p_μ)`. The Langevin chains have a
    bias of the order of their step size over λ.

    Args:
      output: h(θ, x_i) for all data, of one θ of shape ``(D,)``; shape ``(n,)``.
      loss: ℓ_i for all data, of the outputs; shape ``(n,)`` to ``(n,)``, each of its own output.
      rate: γ, in (0, 1].
      temperature: λ, of the entropy.
      decay: λ', of the squared norm.
      step_size: of the Langevin chains; stable below λ' and the curvature of the outputs' inverse.
      inner_steps: Langevin steps for each step of play.

    Returns:
      A `blackjax.SamplingAlgorithm`: ``init(particles)``, ``step(key, state)``. A chain whose move
      is not finite stays, and is counted in the info.

    Complexity:
      ``inner_steps`` N gradients of all outputs a step; O(N D + n) memory.

    Reference: Nitanda, Oko, Suzuki and Wu (2023), "Primal and dual analysis of entropic fictitious
    play for finite-sum problems", Algorithm 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from samplers.particles import entropic_fictitious_play
      >>> how = entropic_fictitious_play(lambda w: w, lambda h: 0.5 * (h - 2.0) ** 2, decay=0.5)
      >>> state = how.init(jnp.zeros((100, 1)))
      >>> run = lambda state, key: how.step(key, state)
      >>> state, _ = jax.lax.scan(run, state, jax.random.split(jax.random.key(0), 100))
      >>> round(float(state.outputs[0]), 1)
      1.0
    """
    from blackjax.base import SamplingAlgorithm

    outputs_of = lambda thetas: jnp.mean(jax.vmap(output)(thetas), axis=0)

    def init(position: Array, rng_key: Array | None = None) -> FictitiousPlayState:
        del rng_key
        check_particles("entropic_fictitious_play", position, 1)
        position = jnp.asarray(position)
        zero = jnp.zeros((), jnp.int32)
        return FictitiousPlayState(position, outputs_of(position), position, zero)

    def step(
        rng_key: Array, state: FictitiousPlayState
    ) -> tuple[FictitiousPlayState, ParticleInfo]:
        choose_key, move_key = jax.random.split(rng_key)
        slopes = jax.grad(lambda h: jnp.sum(loss(h)))(state.outputs)

        def potential(theta: Array) -> Array:
            return jnp.mean(slopes * output(theta)) + decay * jnp.sum(theta**2)

        def move(carry: tuple, key: Array) -> tuple[tuple, None]:
            thetas, kept = carry
            noise = jax.random.normal(key, thetas.shape, thetas.dtype)
            drift = step_size * jax.vmap(jax.grad(potential))(thetas)
            new = thetas - drift + jnp.sqrt(2 * step_size * temperature) * noise
            finite = jnp.all(jnp.isfinite(new), axis=1, keepdims=True)
            new = jnp.where(finite, new, thetas).astype(thetas.dtype)
            return (new, kept + jnp.sum(~finite)), None

        start = (state.response, jnp.zeros((), int))
        (response, kept), _ = jax.lax.scan(move, start, jax.random.split(move_key, inner_steps))
        gamma = jnp.asarray(rate, state.outputs.dtype)
        outputs = state.outputs + gamma * (outputs_of(response) - state.outputs)
        replaced = jax.random.bernoulli(choose_key, gamma, (len(response), 1))
        particles = jnp.where(replaced, response, state.particles)
        moved = jnp.sqrt(jnp.mean(jnp.sum((response - state.response) ** 2, axis=1)))
        new = FictitiousPlayState(particles, outputs, response, state.count + 1)
        return new, ParticleInfo(kept, moved)

    return SamplingAlgorithm(init, step)  # pyright: ignore[reportArgumentType]
