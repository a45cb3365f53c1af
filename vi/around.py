"""A Gaussian first, then a family that starts as that Gaussian and can only improve on it."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array

from vi.compile import quick_jit
from vi.families import Gaussian
from vi.random import fast_key
from vi.status import Status
from vi.stochastic import StochasticRun, StochasticState
from vi.targets import Target
from vi.targets.affine import AffineTarget

_COMPARED = 2048  # draws by which a trained family is compared with its start
_STREAM = 2**30  # of the key: steps fold in small numbers


class AroundState(NamedTuple):
    """Two phases: the run that finds the Gaussian, then the training of the family around it."""

    polishing: bool
    solve: Any  # the first run's state, or () where the Gaussian was given
    polish: StochasticState
    gain: float  # nats over the Gaussian, by common draws; NaN while it is not known
    status: int


class AroundRun:
    """Trains a family around a Gaussian, in that Gaussian's coordinates; a `vi.loop.Run`.

    There the target is near a standard normal, whatever its units, so that one learning rate
    serves all. Where the ELBO is what is maximised, the result is the trained family if its ELBO is
    above that of its start by common draws, else the start.
    """

    def __init__(
        self,
        target: Target,
        key: Array,
        first: Any,
        q: Any,
        estimator: Any,
        optimizer: optax.GradientTransformation,
        num_steps: int,
        gradients_per_step: int,
        *,
        guarded: bool,
    ):
        """Set up.

        Args:
          target: the target.
          key: a key.
          first: a `vi.loop.Run` that finds a Gaussian, ``result(state)``; None where ``q.affine``
            is given.
          q: the family: ``q.around(gaussian)`` is one that starts as the Gaussian, with
            ``q.affine`` the Gaussian; ``q.whitened()`` is the same in its coordinates.
          estimator: as of `StochasticRun`.
          optimizer: as of `StochasticRun`.
          num_steps: as of `StochasticRun`.
          gradients_per_step: as of `StochasticRun`.
          guarded: whether the start is kept where training did not raise the ELBO. A family
            trained by another objective is kept as long as its ELBO is finite.
        """
        self.target, self.key, self.first = target, key, first
        self.given, self.guarded = q.affine, guarded
        self.start = q.whitened()
        self._options = (estimator, optimizer, num_steps, gradients_per_step)
        self._trained: tuple[Any, StochasticRun] | None = None

    def initial(self) -> AroundState:
        """The state before the first chunk."""
        solve = () if self.first is None else self.first.initial()
        polish = self._trainer(solve).initial()
        return AroundState(self.first is None, solve, polish, math.nan, int(Status.RUNNING))

    def begun(self, state: AroundState) -> tuple[Any, Any]:
        """The search that it began with, None where the Gaussian was given, and its state."""
        return self.first, state.solve

    def _gaussian(self, solve: Any) -> Gaussian:
        return self.given if self.first is None else self.first.result(solve)

    def _trainer(self, solve: Any) -> StochasticRun:
        if self._trained is None or self._trained[0] is not solve:
            q = self._gaussian(solve)
            whitened = AffineTarget(self.target, q.loc, q.scale)
            start = self.start.around(q).whitened()  # in its precision
            run = StochasticRun(whitened, start, self.key, *self._options)
            self._trained = solve, run
        return self._trained[1]

    def advance(self, state: AroundState) -> AroundState:
        """Run one chunk of the phase that is on."""
        if not state.polishing:
            solve = self.first.advance(state.solve)
            if not self.first.done(solve):
                return state._replace(solve=solve)
            if Status(int(solve.status)).failed:
                return state._replace(solve=solve, status=int(solve.status))
            return state._replace(polishing=True, solve=solve)
        run = self._trainer(state.solve)
        state = state._replace(polish=run.advance(state.polish))
        if not run.done(state.polish):
            return state
        state = state._replace(gain=self._gain(state), status=int(state.polish.status))
        if self.first is not None and not self._kept(state) and Status(state.status).failed:
            return state._replace(status=int(state.solve.status))  # of what is handed over
        return state

    def _kept(self, state: AroundState) -> bool:
        """Whether the trained family is the result."""
        gain = self._gain(state) if state.polishing and math.isnan(state.gain) else state.gain
        return gain > 0 if self.guarded else gain > -math.inf

    def _gain(self, state: AroundState) -> float:
        """Nats by which training has raised the ELBO, by common draws."""
        run = self._trainer(state.solve)
        before, after = (
            np.asarray(_log_weights(fast_key(self.key), q, run.target), float)
            for q in (run.q, run.result(state.polish))
        )
        return float(np.mean(after - before)) if np.isfinite(after).all() else -math.inf

    def done(self, state: AroundState) -> bool:
        """Whether there is nothing left to do."""
        return state.status != Status.RUNNING

    def info(self, state: AroundState) -> dict[str, Any]:
        """Step, ELBO as the last chunk saw it, and gradients so far."""
        polish = self._trainer(state.solve).info(state.polish)
        if self.first is None:
            return polish
        solve = self.first.info(state.solve)
        shown = polish if state.polishing else solve
        total = {name: solve[name] + polish[name] for name in ("step", "gradients")}
        return {**shown, **total}

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        first = None if self.first is None else self.first.fingerprint()
        training = self._trainer(self.initial().solve).fingerprint()
        return {**training, "kind": "around", "first": first}

    def result(self, state: AroundState) -> Any:
        """The trained family, or its start where training gained nothing."""
        run, gaussian = self._trainer(state.solve), self._gaussian(state.solve)
        return (run.result(state.polish) if self._kept(state) else run.q).around(gaussian)

    def notes(self, state: AroundState) -> list[str]:
        """What to say of the training."""
        if not state.polishing or math.isnan(state.gain):
            return []
        if self._kept(state):
            return [f"Training changed the ELBO by {state.gain:+.3f} nats from its start."]
        broke = (
            "broke down" if Status(int(state.polish.status)).failed else "did not raise the ELBO"
        )
        return [f"Training {broke}: this is the start itself."]


@quick_jit
def _log_weights(key: Array, q: Any, target: Target) -> Array:
    z, log_q = q.sample_and_log_prob(jax.random.fold_in(key, _STREAM), _COMPARED)
    return jax.lax.map(target.log_density, z, batch_size=256) - log_q
