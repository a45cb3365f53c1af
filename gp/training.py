"""Training of hyperparameters: any optimizer on the optimised ELBO, as a run of the loop."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from gp.evidence import evidence
from gp.independent import with_functions
from gp.model import Data, Model
from gp.natural_gradient import Ascent, ascend
from gp.parameters import Values, constrained, largest_factor, log_prior
from gp.sites import Sites
from optim import Oracle
from optim.tree import all_finite
from vi.compile import quick_jit
from vi.provenance import key_words, tree_digest
from vi.status import Status
from vi.structural import structural_key
from vi.threads import blas_threads

CHUNK = 5  # steps
TOLERANCE = 1e-3  # nats by which steps may still raise the objective, this many in a row:
PATIENCE = 3
LONGEST = 5.0  # log of the factor that one step may move a hyperparameter by
_INNER = 1e-4  # nats, of the ascent over sites at each hyperparameter


class TrainingState(NamedTuple):
    """Everything training knows; a pytree, to be checkpointed."""

    step: Array
    values: Values
    optimizer: Any
    loss: Array  # minus the objective at the values, nats
    grads: Values
    small: Array  # steps in a row that lowered it by less than the tolerance
    status: Array
    sites: Sites  # from which the ascents of the next chunk begin
    elbos: np.ndarray  # the objective after each chunk
    steps: np.ndarray  # at the end of each chunk


class TrainingRun:
    """Maximises the optimised ELBO plus log priors over hyperparameters; a `vi.loop.Run`."""

    def __init__(
        self,
        model: Model,
        prior: Any,
        data: Data,
        values: Values,
        sites: Sites,
        priors: dict[str, Any],
        key: Array,
        optimizer: optax.GradientTransformation,
        num_steps: int,
    ):
        """Set up.

        Args:
          model: hyperparameters to start from.
          prior: the back-end.
          data: targets.
          values: those to train, in the optimizer's coordinates (`gp.parameters.unconstrained`).
          sites: to begin from.
          priors: distributions by full name.
          key: the key of the fit, which names it.
          optimizer: any optax transformation; one that searches lines is given the objective.
          num_steps: steps at most.
        """
        self.model, self.prior, self.data, self.priors = model, prior, data, priors
        self.values, self.sites, self.key, self.num_steps = values, sites, key, num_steps
        self.optimizer = optax.with_extra_args_support(optimizer)
        self._init, self._chunk = _compiled(structural_key(tuple(optimizer)), self.optimizer)

    def initial(self) -> TrainingState:
        """The state before the first step; its loss says whether there is anything to train."""
        zero, running = np.int32(0), np.int32(Status.RUNNING)
        loss, grads = self._start
        nothing = np.zeros(0), np.zeros(0, int)
        state = self._init(self.values)
        return TrainingState(
            zero, self.values, state, loss, grads, zero, running, self.sites, *nothing
        )

    @functools.cached_property
    def _start(self) -> tuple[Array, Values]:
        with blas_threads(len(self.data.x)):
            return _first_look(self.values, self.sites, self._fixed)

    @property
    def _fixed(self) -> tuple:
        return self.model, self.prior, self.data, self.priors

    def advance(self, state: TrainingState) -> TrainingState:
        """Take up to `CHUNK` steps."""
        with blas_threads(len(self.data.x)):
            steps = np.int32(self.num_steps)
            arrays = self._chunk(tuple(state[:7]), state.sites, self._fixed, steps)
            sites = state.sites
            if not self.model.likelihood.conjugate:
                model = constrained(self.model, arrays[1])
                sites = follow(model, self.prior, self.data, sites).sites
        new = TrainingState(
            *arrays,
            sites=sites,
            elbos=np.append(state.elbos, -float(arrays[3])),
            steps=np.append(state.steps, int(arrays[0])),
        )
        if int(new.status) == Status.RUNNING and int(new.step) >= self.num_steps:
            return new._replace(status=np.int32(Status.MAX_STEPS))
        return new

    def done(self, state: TrainingState) -> bool:
        """Whether there is nothing left to do."""
        return int(state.status) != Status.RUNNING

    def info(self, state: TrainingState) -> dict[str, Any]:
        """Step and objective; a step counts as one gradient, searches of lines take more."""
        best = float(state.elbos[-1]) if len(state.elbos) else math.nan
        return {"step": int(state.step), "elbo": best, "gradients": int(state.step)}

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        return {
            "kind": "gaussian process",
            "data": tree_digest(self.data),
            "model": tree_digest((self.model, self.values, self.prior)),
            "priors": tree_digest(self.priors),
            "optimizer": tree_digest(self._init(self.values)),
            "key": key_words(self.key),
            "num_steps": self.num_steps,
        }

    def result(self, state: TrainingState) -> Model:
        """The model with the trained hyperparameters."""
        return constrained(self.model, state.values)


def line_searching() -> optax.GradientTransformation:
    """The default optimizer: L-BFGS that halves its step until the objective rises.

    Rises smaller than what the ascent over sites leaves open, or rounding, count as such.
    """
    search = optax.scale_by_backtracking_linesearch(
        max_backtracking_steps=20,
        decrease_factor=0.5,
        increase_factor=math.inf,
        atol=2 * _INNER,
        rtol=1e-6,
        store_grad=True,
    )
    return optax.lbfgs(linesearch=search)


_COMPILED: dict = {}


def _compiled(key: Any, optimizer: Any) -> tuple[Callable, Callable]:
    """Compiled ``init`` and chunk, one for all optimizers of the same structure."""
    if key not in _COMPILED:
        chunk = functools.partial(chunk_of, optimizer)
        _COMPILED[key] = quick_jit(optimizer.init), quick_jit(chunk)
    return _COMPILED[key]


def loss_of(values: Values, sites: Sites, fixed: tuple) -> Array:
    """What is minimised: minus the sum of ELBO and log prior, shape ``()``, nats.

    Args:
      values: unconstrained hyperparameters, by name.
      sites: from which the search for the posterior begins.
      fixed: model, prior, data, and priors by name.
    """
    model, prior, data, priors = fixed
    new = constrained(model, values)
    found = evidence(new, prior, data, sites, tolerance=_INNER)
    return -(found.elbo + log_prior(new, priors)).astype(jnp.result_type(float))


_first_look = quick_jit(jax.value_and_grad(loss_of))


def follow_from(model: Model, prior: Any, data: Data, sites: Sites) -> Ascent:
    """The best sites at a model, from those at another."""
    prior = with_functions(prior, model.kernel, model.mean)
    return ascend(prior, model.likelihood, data, sites)


follow = quick_jit(follow_from)  # compiled once for a fit


def chunk_of(optimizer: Any, arrays: tuple, sites: Sites, fixed: tuple, num_steps: Array) -> tuple:
    """Up to `CHUNK` steps from the arrays of a `TrainingState`."""

    def step(arrays: tuple) -> tuple:
        count, values, opt_state, value, grads, small, status = arrays
        # Far away, matrices are so ill-conditioned that the objective may be anything.
        near = lambda new: largest_factor(fixed[0], new, values) <= LONGEST
        at = lambda new: jnp.where(near(new), loss_of(new, sites, fixed), jnp.nan)
        updates, new_state = optimizer.update(
            grads, opt_state, values, value=value, grad=grads, value_fn=Oracle(at).restrict(values)
        )
        new = optax.apply_updates(values, updates)
        seen = optax.tree.get(new_state, "value", None), optax.tree.get(new_state, "grad", None)
        look = jax.value_and_grad(at)(new) if None in seen else seen  # by the search of a line
        good = all_finite((new, look))
        pick = lambda new, old: jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
        values, opt_state, (new_value, grads) = pick(
            (new, new_state, look), (values, opt_state, (value, grads))
        )
        slack = 32 * jnp.finfo(fixed[2].y.dtype).eps * jnp.abs(value)
        small = jnp.where(value - new_value < TOLERANCE + slack, small + 1, 0)
        status = jnp.where(small >= PATIENCE, Status.CONVERGED, status)
        status = jnp.where(good, status, Status.NONFINITE).astype(jnp.int32)
        return count + 1, values, opt_state, new_value, grads, small, status

    def guarded(_: Array, arrays: tuple) -> tuple:
        on = (arrays[0] < num_steps) & (arrays[6] == Status.RUNNING)
        return jax.lax.cond(on, step, lambda arrays: arrays, arrays)

    return jax.lax.fori_loop(0, CHUNK, guarded, arrays)
