"""A NUTS run as the loop sees it: warm-up in windows, then draws."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from blackjax.mcmc.hmc import HMCState
from jax.sharding import Mesh
from jaxtyping import Array

from samplers.algorithms import Algorithm
from samplers.coordinates import NoiseTarget, fingerprint
from samplers.kept import Transition
from samplers.transitions import Tuning, states_at, transitions, tuned
from vi.errors import NonFiniteTargetError
from vi.random import host_generator, host_words
from vi.status import Status
from vi.targets.mesh import on_host, plain

WINDOW = 50  # transitions of each chain in one call of the compiled function
STARTS = 32  # noise draws for each chain, of which its start is chosen by weight
PRIOR_DRAWS = 20.0  # as how many independent draws a unit metric counts
THINNED = 4.0  # transitions that count as one independent draw


class McmcState(NamedTuple):
    """All that a run knows; a pytree of arrays and numbers, to be checkpointed."""

    step: int  # transitions of each chain so far
    chains: HMCState
    tuning: Tuning
    kept: Transition  # after warm-up, NumPy, (C, S, ...)
    gradients: int
    warmup_gradients: int
    status: int


class McmcRun:
    """Chains over a target in a family's noise; a `vi.loop.Run`."""

    def __init__(
        self,
        target: NoiseTarget,
        key: Array,
        *,
        num_samples: int,
        num_chains: int,
        num_warmup: int,
        acceptance: float,
        algorithm: Algorithm,
        mesh: Mesh | None = None,
    ):
        """Set up. Arguments as of `samplers.mcmc`."""
        self.mesh = None if mesh is None else plain(mesh)
        self.algorithm = algorithm
        self.target, self.key, self.words = target, key, host_words(key)
        self.num_samples, self.num_chains = num_samples, num_chains
        self.num_warmup = -(-num_warmup // WINDOW) * WINDOW
        self.num_steps = self.num_warmup + num_samples
        self.dtype = np.dtype(target.layout.dtype)
        self.acceptance = self.dtype.type(acceptance)

    def initial(self) -> McmcState:
        """Chains at draws of the family, chosen by their importance weights.

        Raises:
          NonFiniteTargetError: if the density is not finite at any of them.
        """
        dim, chains = self.target.dim, self.num_chains
        generator = host_generator(self.words, 0)
        noise = generator.standard_normal((STARTS * chains, dim)).astype(self.dtype)
        states = jax.tree.map(np.asarray, states_at(noise, self.target))
        log_w = states.logdensity.astype(float) + 0.5 * np.sum(noise.astype(float) ** 2, axis=1)
        log_w = np.where(np.isfinite(log_w), log_w, -np.inf)
        if not np.isfinite(log_w).any():
            raise NonFiniteTargetError(
                f"samplers: expected a finite log density at a start; at {len(noise)} draws "
                "of the approximation it is not. Look at vi.fit(model, ...).verdict."
            )
        weights = np.exp(log_w - log_w.max())
        apart = np.count_nonzero(weights) >= chains
        chosen = generator.choice(len(noise), chains, replace=not apart, p=weights / weights.sum())
        tuning = tuned(dim**-0.25, np.ones(dim, self.dtype), chains)
        nothing = lambda *shape, dtype=self.dtype: np.zeros((chains, 0, *shape), dtype)
        kept = Transition(
            nothing(dim), nothing(), nothing(), nothing(dtype=bool), nothing(dtype=int), nothing()
        )
        states = jax.tree.map(lambda x: x[chosen], states)
        return McmcState(0, states, tuning, kept, len(noise), 0, int(Status.RUNNING))

    def advance(self, state: McmcState) -> McmcState:
        """One window of warm-up, or of draws."""
        warming = state.step < self.num_warmup
        adapting = warming and self.algorithm.adaptive
        generator = host_generator(self.words, 1, state.step)
        words = generator.integers(0, 2**32, (self.num_chains, WINDOW, 4), dtype=np.uint32)
        chains, averaging, new, x = transitions(
            words, state.chains, state.tuning, adapting, self.acceptance, self.target,
            self.algorithm, mesh=self.mesh,
        )  # fmt: skip
        chains, averaging, new, x = jax.tree.map(on_host, (chains, averaging, new, x))
        gradients = int(new.leapfrogs.sum())
        state = state._replace(
            step=state.step + WINDOW, chains=chains, gradients=state.gradients + gradients
        )
        if warming:
            state = state._replace(warmup_gradients=state.gradients)
            return self._adapted(state, averaging, np.asarray(x)) if adapting else state
        left = self.num_samples - state.kept.z.shape[1]
        kept = jax.tree.map(
            lambda old, more: np.concatenate([old, more[:, :left]], axis=1), state.kept, new
        )
        done = kept.z.shape[1] >= self.num_samples
        return state._replace(kept=kept, status=int(Status.CONVERGED if done else Status.RUNNING))

    def _adapted(self, state: McmcState, averaging: Any, x: np.ndarray) -> McmcState:
        """The end of a window of warm-up: one step size for all chains, and a new metric.

        The metric is the pooled variance of the window's second half, as much as its draws count
        against the unit metric that the approximation promises. The last window keeps the metric,
        so that the step size is right for it.
        """
        log_steps = np.asarray(averaging.log_step_size_avg, float)
        step_size = self.dtype.type(math.exp(log_steps.mean()))
        inverse_mass = np.asarray(state.tuning.inverse_mass)
        if state.step < self.num_warmup:
            late = x[:, x.shape[1] // 2 :].reshape(-1, x.shape[-1]).astype(float)
            count = len(late) / THINNED
            variance = (count * late.var(0) + PRIOR_DRAWS) / (count + PRIOR_DRAWS)
            inverse_mass = variance.astype(self.dtype)
        tuning = tuned(step_size, inverse_mass, self.num_chains)
        return state._replace(tuning=tuning)

    def done(self, state: McmcState) -> bool:
        """Whether there is nothing left to do."""
        return state.status != Status.RUNNING

    def info(self, state: McmcState) -> dict[str, Any]:
        """Step, gradients so far, and the mean acceptance rate of the draws."""
        rate = float(state.kept.acceptance.mean()) if state.kept.acceptance.size else math.nan
        return {"step": state.step, "gradients": state.gradients, "acceptance": rate}

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        return {
            "kind": "mcmc",
            **fingerprint(self.target, self.algorithm, self.key),
            "plan": [self.num_samples, self.num_chains, self.num_warmup, float(self.acceptance)],
        }
