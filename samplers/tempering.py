"""A run of tempered SMC as the loop sees it: one temperature of every population at a time."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from samplers.algorithms import Algorithm
from samplers.coordinates import NoiseTarget, fingerprint
from vi.compile import quick_jit
from vi.errors import NonFiniteTargetError
from vi.random import host_generator, host_words
from vi.status import Status
from vi.targets.mesh import on_host, plain
from vi.targets.points import over_points

LEAST = -1e30  # log density of what has none: no weight, and no NaN at a temperature of zero
ACCEPTANCE = 0.8  # that step sizes go to
GAIN = 1.5  # of the log step size, for a difference in acceptance


class TemperingState(NamedTuple):
    """All that a run knows; a pytree of arrays and numbers, to be checkpointed."""

    step: int
    particles: np.ndarray  # (C, N, D), in the noise
    weights: np.ndarray  # (C, N)
    temperatures: np.ndarray  # (T + 1, C), inverse
    roots: np.ndarray  # (C, N), of the first particles
    log_evidences: np.ndarray  # (C,)
    log_steps: np.ndarray  # (C,)
    metric: np.ndarray  # (C, D)
    acceptance: float
    divergences: int
    undefined: int
    gradients: int
    status: int


class _Density(NamedTuple):
    """What an algorithm asks of a target."""

    log_density: Any


def _ratio(target: NoiseTarget, scale: Array, x: Array) -> Array:
    """Log of the target over N(0, scale²)."""
    value = target.log_density(x) - _start(scale, x)
    return jnp.where(jnp.isfinite(value), value, LEAST)


def _start(scale: Array, x: Array) -> Array:
    return jnp.sum(jax.scipy.stats.norm.logpdf(x, 0, scale))


@partial(quick_jit, static_argnames=("mesh",))
def ratios(target: NoiseTarget, scale: Array, x: Array, *, mesh: Mesh | None = None) -> Array:
    """Log ratios of target and start at particles, ``(C, N)``; devices of a mesh share the C."""
    run = lambda shared, x: jax.lax.map(jax.vmap(partial(_ratio, *shared)), x)
    return over_points(run, (target, scale), x, mesh)


@quick_jit
def images(target: NoiseTarget, x: Array) -> Array:
    """Particles of the noise as points of the base target, ``(C, N, D)``."""
    return jax.lax.map(jax.vmap(target.point), x)


@partial(quick_jit, static_argnames=("num_moves", "mesh"))
def temperature(
    words: Array,
    state: tuple[Array, Array, Array],
    log_steps: Array,
    metric: Array,
    scale: Array,
    least: Array,
    target: NoiseTarget,
    algorithm: Algorithm,
    *,
    num_moves: int,
    mesh: Mesh | None = None,
) -> tuple[tuple, tuple]:
    """Resample, move, and weight every population for the next temperature: blackjax's kernel.

    Args:
      words: key data, shape ``(C, 4)``, ``uint32``.
      state: particles, weights and inverse temperatures.
      log_steps: of the moves, ``(C,)``.
      metric: inverse mass of the moves, ``(C, D)``.
      scale: of the start.
      least: share of particles that are to be effective at the next temperature.
      target: in the coordinates of the particles.
      algorithm: of the moves.
      num_moves: how many for each particle.
      mesh: devices that share the populations, if there are several.

    Returns:
      The state; and ancestors, increments of the evidence, acceptance, divergences, gradients.
    """
    from blackjax.mcmc import hmc
    from blackjax.smc.adaptive_tempered import build_kernel
    from blackjax.smc.resampling import systematic
    from blackjax.smc.tempered import TemperedSMCState

    def move(key: Array, state: Any, density: Any, step_size: Array, metric: Array) -> tuple:
        state, told = algorithm.transition(key, state, _Density(density), step_size, metric)  # type: ignore[arg-type]
        return state, jax.tree.map(jnp.asarray, told)

    def one(target: NoiseTarget, scale: Array, least: Array, given: tuple) -> tuple:
        ends = partial(_start, scale), partial(_ratio, target, scale)
        kernel = build_kernel(*ends, move, hmc.init, systematic, least)
        words, particles, weights, heat, log_step, metric = given
        key = jax.random.wrap_key_data(words, impl="rbg")
        shared = {"step_size": jnp.exp(log_step)[None], "metric": metric[None]}
        before = TemperedSMCState(particles, weights, heat)
        new, info = kernel(key, before, num_moves, shared)
        told = info.update_info
        looks = jnp.mean(told.acceptance), jnp.sum(told.divergent), jnp.sum(told.evaluations)
        return tuple(new), (info.ancestors, info.log_likelihood_increment, *looks)

    def run(shared: tuple, given: tuple) -> tuple:
        return jax.lax.map(partial(one, *shared), given)

    populations = words, *state, log_steps, metric
    return over_points(run, (target, scale, least), populations, mesh)


class TemperingRun:
    """Populations from a wide start to the target; a `vi.loop.Run`."""

    def __init__(
        self,
        target: NoiseTarget,
        key: Array,
        *,
        num_particles: int,
        num_populations: int,
        num_moves: int,
        spread: float,
        effective: float,
        max_temperatures: int,
        algorithm: Algorithm,
        mesh: Mesh | None = None,
    ):
        """Set up. Arguments as of `samplers.smc`."""
        self.mesh = None if mesh is None else plain(mesh)
        self.target, self.key, self.words = target, key, host_words(key)
        self.shape = num_populations, num_particles, target.dim
        self.dtype = np.dtype(target.layout.dtype)
        self.num_moves, self.algorithm, self.max = num_moves, algorithm, max_temperatures
        self.scale, self.effective = self.dtype.type(spread), self.dtype.type(effective)

    def initial(self) -> TemperingState:
        """Particles of the start.

        Raises:
          NonFiniteTargetError: if the density is not finite at any of them.
        """
        count, num, dim = self.shape
        noise = host_generator(self.words, 0).standard_normal(self.shape)
        x = self.scale * noise.astype(self.dtype)
        found = ratios(self.target, self.scale, x, mesh=self.mesh)
        undefined = int(np.sum(on_host(found) <= LEAST))
        if undefined == count * num:
            raise NonFiniteTargetError(
                f"samplers.smc: expected a finite log density at a start; at {undefined} draws "
                "around the approximation it is not. Look at vi.fit(model, ...).verdict."
            )
        return TemperingState(
            step=0,
            particles=x,
            weights=np.full((count, num), 1 / num, self.dtype),
            temperatures=np.zeros((1, count), self.dtype),
            roots=np.tile(np.arange(num), (count, 1)),
            log_evidences=np.zeros(count),
            log_steps=np.full(count, np.log(self.scale * dim**-0.25), self.dtype),
            metric=np.ones((count, dim), self.dtype),
            acceptance=1.0,
            divergences=0,
            undefined=undefined,
            gradients=count * num,
            status=int(Status.RUNNING),
        )

    def advance(self, state: TemperingState) -> TemperingState:
        """One temperature; the last is the target's, where the particles move once more."""
        generator = host_generator(self.words, 1, state.step)
        words = generator.integers(0, 2**32, (self.shape[0], 4), dtype=np.uint32)
        heat = state.temperatures[-1]
        new, told = temperature(
            words, (state.particles, state.weights, heat), state.log_steps, state.metric,
            self.scale, self.effective, self.target, self.algorithm, num_moves=self.num_moves,
            mesh=self.mesh,
        )  # fmt: skip
        particles, weights, after = map(on_host, new)
        ancestors, increments, acceptance, divergent, gradients = map(on_host, told)
        ended = bool(np.all(heat >= 1))
        late = state.step + 1 >= self.max
        status = Status.CONVERGED if ended else Status.MAX_STEPS if late else Status.RUNNING
        variance = particles.astype(float).var(1) / float(self.scale) ** 2 + 1e-6
        log_steps = state.log_steps + np.clip(GAIN * (acceptance - ACCEPTANCE), -1, 0.3)
        return TemperingState(
            step=state.step + 1,
            particles=particles,
            weights=weights,
            temperatures=np.concatenate([state.temperatures, after[None]]),
            roots=np.take_along_axis(state.roots, ancestors, 1),
            log_evidences=state.log_evidences + np.where(heat < 1, increments, 0),
            log_steps=log_steps.astype(self.dtype),
            metric=variance.astype(self.dtype),
            acceptance=float(acceptance.mean()),
            divergences=state.divergences + int(divergent.sum()),
            undefined=state.undefined,
            gradients=state.gradients + int(gradients.sum()) + particles.shape[0] * self.shape[1],
            status=int(status),
        )

    def done(self, state: TemperingState) -> bool:
        """Whether there is nothing left to do."""
        return state.status != Status.RUNNING

    def info(self, state: TemperingState) -> dict[str, Any]:
        """Step, gradients so far, and the lowest inverse temperature."""
        heat = float(state.temperatures[-1].min())
        return {"step": state.step, "gradients": state.gradients, "temperature": heat}

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        return {
            "kind": "smc",
            **fingerprint(self.target, self.algorithm, self.key),
            "plan": [*self.shape, self.num_moves, float(self.scale), float(self.effective)],
        }
