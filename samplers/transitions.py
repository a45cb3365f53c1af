"""The one jitted function of a run: some transitions of every chain."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.adaptation.step_size import DualAveragingAdaptationState, dual_averaging_adaptation
from blackjax.mcmc.hmc import HMCState
from jax.sharding import Mesh
from jaxtyping import Array, Float

from samplers.algorithms import Algorithm
from samplers.coordinates import NoiseTarget
from samplers.kept import Transition
from vi.compile import quick_jit
from vi.targets.points import over_points


class Tuning(NamedTuple):
    """What warm-up adapts: a step size for each chain, one metric for all."""

    averaging: DualAveragingAdaptationState
    inverse_mass: Float[Array, " D"]


@quick_jit
def states_at(x: Float[Array, "C D"], target: NoiseTarget) -> HMCState:
    """The states of chains at given points of the noise."""
    return jax.lax.map(lambda x: HMCState(x, *jax.value_and_grad(target.log_density)(x)), x)


@partial(quick_jit, static_argnames=("mesh",))
def transitions(
    words: Array,
    chains: HMCState,
    tuning: Tuning,
    adapting: Array,
    acceptance: Array,
    target: NoiseTarget,
    algorithm: Algorithm,
    *,
    mesh: Mesh | None = None,
) -> tuple[HMCState, DualAveragingAdaptationState, Transition, Float[Array, "C T D"]]:
    """T transitions of every chain.

    Chains in turns do only the work that each needs; side by side every one would wait for the
    longest trajectory. Where trajectories are of one length, side by side is faster.

    Args:
      words: key data of each transition, shape ``(C, T, 4)``, ``uint32``; splitting one key costs
        a good part of the compilation.
      chains: the states, leading axis C.
      tuning: step sizes and metric.
      adapting: whether step sizes move by dual averaging; if not, their averages are used.
      acceptance: rate that the adaptation aims at.
      target: in the coordinates of the chains.
      algorithm: what moves the chains.
      mesh: devices that share the chains, if there are several.

    Returns:
      States, averaging, what is kept, and the positions in the chains' coordinates.
    """

    def run(shared: tuple, given: tuple) -> tuple:
        one = partial(_one_chain, *shared)
        return jax.lax.map(one, given) if algorithm.in_turns else jax.vmap(one)(given)

    shared = tuning.inverse_mass, adapting, acceptance, target, algorithm
    return over_points(run, shared, (words, chains, tuning.averaging), mesh)


def _one_chain(
    inverse_mass: Array,
    adapting: Array,
    acceptance: Array,
    target: NoiseTarget,
    algorithm: Algorithm,
    given: tuple,
) -> tuple:
    """The transitions of one chain, of their keys' words, its state and averaging."""
    words, state, averaging = given
    _, adapted, _ = dual_averaging_adaptation(acceptance)

    def step(carry: tuple, words: Array) -> tuple:
        state, averaging = carry
        key = jax.random.wrap_key_data(words, impl="rbg")
        log_step = jnp.where(adapting, averaging.log_step_size, averaging.log_step_size_avg)
        size = jnp.exp(log_step)
        state, told = algorithm.transition(key, state, target, size, inverse_mass)
        moved = adapted(averaging, told.acceptance)
        averaging = jax.tree.map(
            lambda new, old: jnp.where(adapting, new, old).astype(old.dtype), moved, averaging
        )
        told = jax.tree.map(jnp.asarray, told)
        return (state, averaging), (state.position, state.logdensity, *told)

    carry, (x, value, *kept) = jax.lax.scan(step, (state, averaging), words)
    z, log_det = jax.vmap(target.image)(x)
    log_density = value - log_det if algorithm.exact else jax.vmap(target.base.log_density)(z)
    return *carry, Transition(z, log_density, *kept), x


def tuned(step_size: Any, inverse_mass: np.ndarray, num_chains: int) -> Tuning:
    """Tuning that begins at one step size, about which dual averaging may search by a factor.

    NumPy in and out: nothing is compiled.
    """
    log_step = np.full(num_chains, np.log(step_size), inverse_mass.dtype)
    averaging = DualAveragingAdaptationState(
        log_step,
        log_step,
        np.ones(num_chains, np.int32),
        np.zeros_like(log_step),
        log_step + inverse_mass.dtype.type(np.log(2.0)),
    )
    return Tuning(averaging, inverse_mass)
