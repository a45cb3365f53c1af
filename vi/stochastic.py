"""Stochastic optimisation of any family under any objective, by any optax optimizer."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from optim import Oracle, eval_params, polynomial_average
from optim.tree import all_finite, norm
from vi.compile import quick_jit
from vi.program import Objective, Pathwise, with_estimator
from vi.provenance import data_digest, key_words, program_digest, tree_digest
from vi.random import fast_key
from vi.status import Status
from vi.structural import structural_key
from vi.targets import Target
from vi.targets.streamed import at_step, glance, minibatches, steps_at_once

CHUNK = 100  # steps
MAX_SKIPS = 50  # steps in a row that are not finite
LOOKS = (12, 18, 27, 40, 60, 90)  # chunks after which the stopping test looks
# Steps in a row that do not move though the gradient is not 0: what the first look compares.
MAX_RESTS = LOOKS[0] // 3 * CHUNK
TOLERANCE = 0.05  # nats by which the ELBO may still rise from one third of them to the next
DECAY = 0.3  # of the learning rate, each time the test finds that the ELBO has stopped rising
CONFIDENCE = 2.394  # one-sided 5 %, shared among the looks
_MAX_COMPILED = 32


class StochasticState(NamedTuple):
    """Everything the optimisation knows; a pytree, to be checkpointed."""

    step: Array
    q: Any
    optimizer: Any  # the state of polynomial_average
    skips: Array  # steps in a row that were not finite
    rests: Array  # steps in a row that did not move
    status: Array
    elbos: np.ndarray  # mean of each chunk
    steps: np.ndarray  # at the end of each chunk
    gradients: int
    decays: int  # of the learning rate so far
    since: int  # chunks before the last of them
    running: dict  # states of the objective's estimators, by site


class StochasticRun:
    """Minimises a loss over a family; a `vi.loop.Run`."""

    def __init__(
        self,
        target: Target,
        q: Any,
        key: Array,
        estimator: Callable,
        optimizer: optax.GradientTransformation,
        num_steps: int | None,
        gradients_per_step: int,
        decays: int = 0,
    ):
        """Set up.

        Args:
          target: the target.
          q: the family to start from.
          key: a key; step t uses ``fold_in(key, t)``.
          estimator: ``(key, q, target) -> (loss, gradient like q)``, a value: an objective or
            one of the estimators of `vi.gaussian`.
          optimizer: any optax transformation.
          num_steps: steps to take; if None, at most 10,000 and fewer if the test says so.
          gradients_per_step: gradients of the density an estimate takes, for the books.
          decays: how often the test lowers the learning rate before it ends the run; the
            optimizer must then be an `optax.inject_hyperparams` with a ``learning_rate``.
        """
        if num_steps is None and isinstance(estimator, Objective) and estimator.schedules:
            names = [name for name, _ in estimator.schedules]
            raise ValueError(
                f"vi.fit: expected num_steps with the scheduled options {names} of the objective, "
                "whose values are not comparable from step to step, so that nothing can tell when "
                "to stop. Give num_steps."
            )
        self.target, self.q, self.key = target, q, key
        self.estimator = estimator
        self.optimizer = polynomial_average(optimizer)
        self.testing = num_steps is None
        self.num_steps = 10_000 if num_steps is None else num_steps
        self.gradients_per_step = gradients_per_step
        self.decays = decays if self.testing else 0
        self.init, self.chunk = _compiled(structural_key(tuple(optimizer)), self.optimizer)

    def initial(self) -> StochasticState:
        """The state before the first step."""
        none = np.int32(0)
        running = np.int32(Status.RUNNING)
        state = self.init(self.q)
        nothing = np.zeros(0), np.zeros(0, int)
        states = self.estimator.running if isinstance(self.estimator, Objective) else {}
        return StochasticState(none, self.q, state, none, none, running, *nothing, 0, 0, 0, states)

    def advance(self, state: StochasticState) -> StochasticState:
        """Take up to `CHUNK` steps."""
        before = int(state.step)
        arrays, losses = self._steps(state)
        step, q, optimizer, skips, rests, status, running = arrays
        taken = int(step) - before
        kept = losses[np.isfinite(losses)]
        state = StochasticState(
            step=step,
            q=q,
            optimizer=optimizer,
            skips=skips,
            rests=rests,
            status=status,
            elbos=np.append(state.elbos, -kept.mean() if len(kept) else math.nan),
            steps=np.append(state.steps, int(step)),
            gradients=state.gradients + taken * self.gradients_per_step,
            decays=state.decays,
            since=state.since,
            running=running,
        )
        ending = int(state.step) >= self.num_steps
        if state.status == Status.NONFINITE:
            return state
        if state.status == Status.STALLED or (ending and int(state.rests) == int(state.step)):
            ended = Status.STALLED if self._could_move(state) else Status.CONVERGED
            return state._replace(status=np.int32(ended))
        rested = settled(state.elbos[state.since :])
        if not ending and not (self.testing and rested):
            return state
        if not ending and state.decays < self.decays:
            return self._slower(state)
        ended = Status.CONVERGED if rested and state.decays == self.decays else Status.MAX_STEPS
        return state._replace(status=np.int32(ended))

    def _steps(self, state: StochasticState) -> tuple[tuple, np.ndarray]:
        """A chunk of steps, in as many parts as the rows of its minibatches fit into memory."""
        arrays, first, seen = _arrays(state), int(state.step), []
        at_once = steps_at_once(self.target, CHUNK)
        for start in range(first, first + CHUNK, at_once):
            count = min(at_once, first + CHUNK - start)
            target = minibatches(self.target, tuple(key_words(self.key)), start, count)
            last = np.int32(min(self.num_steps, start + count))
            key = fast_key(self.key)
            arrays, losses = self.chunk(key, arrays, target, self.estimator, last)
            seen.append(np.asarray(losses, float)[: int(arrays[0]) - start])
            if int(arrays[0]) < start + count:
                break
        return arrays, np.concatenate(seen)

    def _slower(self, state: StochasticState) -> StochasticState:
        """Lower the learning rate; the average begins anew, free of the old rate's noise."""
        inner = state.optimizer.inner
        rate = inner.hyperparams["learning_rate"]
        rates = {**inner.hyperparams, "learning_rate": np.asarray(DECAY * rate, rate.dtype)}
        optimizer = state.optimizer._replace(
            count=np.int32(0), inner=inner._replace(hyperparams=rates)
        )
        return state._replace(optimizer=optimizer, decays=state.decays + 1, since=len(state.elbos))

    def _could_move(self, state: StochasticState) -> bool:
        """Whether an optimizer that does not move leaves more to gain than the tolerance.

        A line search at the optimum finds no step either; there the gradient is rounding.
        """
        key = jax.random.fold_in(fast_key(self.key), state.step)
        here = glance(self.target)
        return bool(_gain(key, state.q, here, self.estimator) > TOLERANCE)

    def done(self, state: StochasticState) -> bool:
        """Whether there is nothing left to do."""
        return int(state.status) != Status.RUNNING

    def info(self, state: StochasticState) -> dict[str, Any]:
        """Step, mean ELBO of the last chunk, and gradients so far."""
        elbo = float(state.elbos[-1]) if len(state.elbos) else math.nan
        return {"step": int(state.step), "elbo": elbo, "gradients": state.gradients}

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        return {
            "kind": "stochastic",
            "sites": [list(self.target.layout.names), list(map(list, self.target.layout.shapes))],
            "data": data_digest(self.target),
            "key": key_words(self.key),
            "start": tree_digest((self.q, self.init(self.q))),
            "program": self._program(),
            "num_steps": self.num_steps,
        }

    def _program(self) -> str:
        """A digest of model, family, objective, estimator and optimizer: of a chunk of steps."""
        state = self.initial()
        chunk = functools.partial(_chunk, self.optimizer)
        target = glance(self.target)
        arguments = _arrays(state), target, self.estimator, np.int32(self.num_steps)
        return program_digest(chunk, fast_key(self.key), *arguments)

    def result(self, state: StochasticState) -> Any:
        """The averaged iterate."""
        return eval_params(state.optimizer, state.q)


def settled(elbos: np.ndarray) -> bool:
    """Whether the ELBO has stopped rising, by a test on its chunk means.

    The rise from the last third but one of the chunks to the last third must be below `TOLERANCE`
    with confidence; means over chunks take care of the correlation of steps. It looks only
    after `LOOKS` chunks, and each look has its share of the 5 % with which the test may stop
    though there is more left to gain (Bonferroni).

    Args:
      elbos: mean of each chunk so far.

    Returns:
      False where it does not look.
    """
    if len(elbos) not in LOOKS:
        return False
    window = len(elbos) // 3
    before, after = elbos[-2 * window : -window], elbos[-window:]
    rise = after.mean() - before.mean()
    sem = math.sqrt((before.var(ddof=1) + after.var(ddof=1)) / window)
    # The quantile of Student's t, to the first order in its degrees of freedom.
    quantile = CONFIDENCE + (CONFIDENCE**3 + CONFIDENCE) / (8 * (window - 1))
    return bool(rise + quantile * sem < TOLERANCE)


_COMPILED: dict = {}


def _compiled(
    key: Any, optimizer: optax.GradientTransformationExtraArgs
) -> tuple[Callable, Callable]:
    """Compiled ``init`` and chunk, one for all optimizers of the same structure."""
    if key not in _COMPILED:
        if len(_COMPILED) >= _MAX_COMPILED:
            _COMPILED.pop(next(iter(_COMPILED)))
        chunk = functools.partial(_chunk, optimizer)
        _COMPILED[key] = quick_jit(optimizer.init), quick_jit(chunk)
    return _COMPILED[key]


def _oracle(key: Array, estimator: Any, target: Target) -> Oracle:
    """The loss at one key, for optimizers that ask for more than its gradient.

    Hessians are those of the pathwise loss: where an estimator stops gradients for less noise,
    second derivatives through what is left would be biased. Gradients are the estimator's, so
    that differences of them are consistent; line searches, which compare losses with gradients,
    are only so where the gradient is that of the sampled loss.
    """
    pathwise = (
        with_estimator(estimator, Pathwise()) if isinstance(estimator, Objective) else estimator
    )
    return Oracle(
        lambda q: pathwise(key, q, target)[0],
        value_and_grad=lambda q: estimator(key, q, target),
        fresh=lambda other: _oracle(other, estimator, target),
    )


@quick_jit
def _gain(key: Array, q: Any, target: Target, estimator: Any) -> Array:
    """What the loss falls by along its gradient, at one key, beyond its rounding."""
    loss = lambda q: estimator(key, q, target)[0]
    value, grads = estimator(key, q, target)
    length = (1 + norm(q)) / jnp.maximum(norm(grads), jnp.finfo(value.dtype).tiny)
    rates = length * 0.5 ** jnp.arange(_HALVINGS, dtype=value.dtype)
    at = lambda rate: loss(jax.tree.map(lambda x, g: x - rate * g, q, grads))
    lowest = jnp.nanmin(jax.lax.map(at, rates))
    return value - lowest - 8 * jnp.finfo(value.dtype).eps * jnp.abs(value)


_HALVINGS = 40


def _arrays(state: StochasticState) -> tuple:
    """What a chunk of steps changes."""
    counts = state.skips, state.rests, state.status
    return state.step, state.q, state.optimizer, *counts, state.running


def _chunk(
    optimizer: optax.GradientTransformationExtraArgs,
    key: Array,
    state: tuple,
    target: Target,
    estimator: Any,
    num_steps: Array,
) -> tuple[tuple, Array]:
    def step(state: tuple) -> tuple[tuple, Array]:
        count, q, opt_state, skips, rests, status, running = state
        step_key = jax.random.fold_in(key, count)
        now = estimator.at(count) if isinstance(estimator, Objective) else estimator
        now = now.with_running(running) if running else now
        here = at_step(target, count)
        loss, grads = now(step_key, q, here)
        updates, new_opt_state = optimizer.update(
            grads,
            opt_state,
            q,
            value=loss,
            grad=grads,
            value_fn=_oracle(step_key, now, here).restrict(q),
        )
        new_q = optax.apply_updates(q, updates)
        after: Any = new_opt_state
        done = after.skipped == opt_state.skipped  # polynomial_average lets no NaN through
        good = all_finite((loss, grads, new_q)) & done
        still = ~_any_entry(updates) & _any_entry(grads)
        q, opt_state = jax.tree.map(
            lambda new, old: jnp.where(good, new, old), (new_q, new_opt_state), (q, opt_state)
        )
        skips = jnp.where(good, 0, skips + 1)
        rests = jnp.where(good & ~still, 0, rests + 1)
        status = jnp.where(rests >= MAX_RESTS, jnp.int32(Status.STALLED), status)
        status = jnp.where(skips > MAX_SKIPS, jnp.int32(Status.NONFINITE), status)
        if running:
            seen = now.update(-loss).running
            running = jax.tree.map(lambda new, old: jnp.where(good, new, old), seen, running)
        return (count + 1, q, opt_state, skips, rests, status, running), loss

    def guarded(state: tuple, _: None) -> tuple[tuple, Array]:
        on = (state[0] < num_steps) & (state[5] == Status.RUNNING)
        nothing = jnp.asarray(jnp.nan, target.layout.dtype)
        return jax.lax.cond(on, step, lambda state: (state, nothing), state)

    return jax.lax.scan(guarded, state, None, length=CHUNK)


def _any_entry(tree: Any) -> Array:
    """Whether an entry is not zero."""
    return jnp.any(jnp.stack([jnp.any(x != 0) for x in jax.tree.leaves(tree)]))
