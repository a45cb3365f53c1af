"""What all particle methods keep, and what they do with moves that are not finite."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class ParticleState(NamedTuple):
    """Particles, and how often they have moved.

    Attributes:
      particles: unconstrained.
      count: moves made.
    """

    particles: Float[Array, "N D"]
    count: Int[Array, ""]


class ParticleInfo(NamedTuple):
    """What is told of a step.

    Attributes:
      kept: particles that stayed, since their move was not finite.
      moved: root mean square of the moves.
    """

    kept: Int[Array, ""]
    moved: Float[Array, ""]


def moved(state: ParticleState, new: Float[Array, "N D"]) -> tuple[ParticleState, ParticleInfo]:
    """The state after a move; a particle whose move is not finite stays, and is counted."""
    finite = jnp.all(jnp.isfinite(new), axis=1, keepdims=True)
    particles = jnp.where(finite, new, state.particles).astype(state.particles.dtype)
    size = jnp.sqrt(jnp.mean(jnp.sum((particles - state.particles) ** 2, axis=1)))
    return ParticleState(particles, state.count + 1), ParticleInfo(jnp.sum(~finite), size)


def algorithm(step: Callable, owner: str, *, least: int = 2) -> Any:
    """A `blackjax.SamplingAlgorithm` whose state is a `ParticleState`.

    Args:
      step: ``(key, state) -> (state, info)``.
      owner: whose errors these are.
      least: number of particles that the method needs.
    """
    from blackjax.base import SamplingAlgorithm

    def init(position: Array, rng_key: Array | None = None) -> ParticleState:
        del rng_key
        check_particles(owner, position, least)
        return ParticleState(jnp.asarray(position), jnp.zeros((), jnp.int32))

    return SamplingAlgorithm(init, step)  # pyright: ignore[reportArgumentType]


def check_particles(owner: str, particles: Array, least: int) -> None:
    """Refuse what is no set of particles.

    Raises:
      ValueError: if the shape is not ``(N, D)`` with N at least ``least``.
    """
    if jnp.ndim(particles) != 2 or len(particles) < least:
        raise ValueError(
            f"{owner}: expected particles of shape (N, D), N at least {least}; got shape "
            f"{jnp.shape(particles)}. Draw them from a fit: posterior.q.sample(key, 100)."
        )


def scheduled(value: Any, count: Array) -> Any:
    """A number, or a schedule's value at this step."""
    return value(count) if callable(value) else value
