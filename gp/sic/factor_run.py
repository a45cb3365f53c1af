"""Training of a free sparse factor on minibatches, by the rows that each of them touches."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from gp.sic.double_kl import DoubleKL, LatentProcess, SparseGaussian
from optim import eval_params, init_rows, polynomial_average, step_rows
from optim.tree import all_finite
from vi.compile import quick_jit
from vi.loop import LoopOptions, iterate
from vi.provenance import key_words, tree_digest
from vi.random import fast_key
from vi.status import Status
from vi.structural import structural_key

CHUNK = 100  # steps
MAX_SKIPS = 50  # steps in a row that are not finite
RATE = 1e-3  # of Adam


class FactorState(NamedTuple):
    """Everything training knows; a pytree, to be checkpointed.

    Attributes:
      step: steps taken, shape ``()``.
      q: mean and sparse factor of q(f), and hyperparameters.
      rows: state of the optimizer of q, one for each of its rows.
      values: state of the optimizer of hyperparameters.
      skips: steps in a row that were not finite.
      status: a `vi.Status`, as a number.
      elbos: mean of each chunk, nats.
      steps: at the end of each chunk.
    """

    step: Array
    q: SparseGaussian
    rows: Any
    values: Any
    skips: Array
    status: Array
    elbos: np.ndarray
    steps: np.ndarray


class FactorRun:
    """Minimises `DoubleKL` over mean, factor and hyperparameters; a `vi.loop.Run`.

    A step reads and writes those rows of q and of the optimizer's state that its groups touch
    (`optim.step_rows`): its cost depends on n through their number only. `advance` uses up the
    state that it is given; an interrupt ends the run after the chunk.
    """

    def __init__(
        self,
        target: LatentProcess,
        q: SparseGaussian,
        key: Array,
        estimator: DoubleKL,
        optimizer: optax.GradientTransformation | None,
        num_steps: int,
    ):
        """Set up.

        Args:
          target: model and data.
          q: the start.
          key: step t uses ``fold_in(key, t)``.
          estimator: of the loss.
          optimizer: an optax transformation of gradients, for each row of mean and factor and for
            the hyperparameters; Adam if None. Its iterates are averaged.
          num_steps: how many.
        """
        optimizer = optax.adam(RATE) if optimizer is None else optimizer
        self.target, self.q, self.key, self.estimator = target, q, key, estimator
        self.num_steps, self.optimizer = num_steps, polynomial_average(optimizer)
        self._init, self._chunk = _compiled(structural_key(tuple(optimizer)), self.optimizer)

    def initial(self) -> FactorState:
        """The state before the first step, in arrays of its own."""
        rows, values, q = self._init(self.q)
        zero, running = np.int32(0), np.int32(Status.RUNNING)
        nothing = np.zeros(0), np.zeros(0, int)
        return FactorState(zero, q, rows, values, zero, running, *nothing)

    def advance(self, state: FactorState) -> FactorState:
        """Take up to `CHUNK` steps."""
        count, interrupted = min(CHUNK, self.num_steps - int(state.step)), False
        moving = (state.q, state.rows, state.values)
        fixed = fast_key(self.key), self.target, self.estimator
        step, moving, skips, status, elbo = self._chunk(
            moving,
            tuple(map(jnp.asarray, (state.step, state.skips, state.status))),
            *fixed,
            np.int32(count),
        )
        try:
            elbo = float(elbo)
        except KeyboardInterrupt:  # the state before is gone
            elbo, interrupted = float(elbo), True
        if int(status) == Status.RUNNING and int(step) >= self.num_steps:
            status = np.int32(Status.MAX_STEPS)
        if interrupted:
            status = np.int32(Status.INTERRUPTED)
        elbos, steps = np.append(state.elbos, elbo), np.append(state.steps, int(step))
        q, rows, values = moving
        return FactorState(step, q, rows, values, skips, status, elbos, steps)

    def done(self, state: FactorState) -> bool:
        """Whether there is nothing left to do."""
        return int(state.status) != Status.RUNNING

    def info(self, state: FactorState) -> dict[str, Any]:
        """Step, and the ELBO's estimate of the last chunk."""
        step = int(state.step)
        return {"step": step, "elbo": float(state.elbos[-1]), "gradients": step}

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        return {
            "kind": "sparse factor by minibatches",
            "data": tree_digest(self.target),
            "start": tree_digest((self.q, self.optimizer.init(self.q.values))),
            "key": key_words(self.key),
            "num_steps": self.num_steps,
            "groups": self.estimator.num_groups,
        }

    def result(self, state: FactorState) -> SparseGaussian:
        """The averaged iterate."""
        mean, columns = _solution(state.rows, (state.q.mean, state.q.columns))
        return SparseGaussian(mean, columns, eval_params(state.values, state.q.values))


def train_factor(
    target: LatentProcess,
    q: SparseGaussian,
    *,
    key: Array,
    num_steps: int,
    num_groups: int = 8,
    optimizer: optax.GradientTransformation | None = None,
    loop: LoopOptions | None = None,
) -> tuple[SparseGaussian, FactorState]:
    r"""Train a sparse Gaussian on minibatches of the double Kullback-Leibler objective.

    .. math:: \min_{ν, V, θ} KL(N(ν, (V V^T)^{-1}) \,\|\, p_θ(f | y)) - \log p_θ(y)

    Args:
      target: of `double_kl`.
      q: where to start, of `double_kl`.
      key: a key.
      num_steps: how many.
      num_groups: groups of up to 16 points in a minibatch.
      optimizer: an optax transformation, applied to each row of q on the steps that touch it, and
        to the hyperparameters on all; Adam of rate 1e-3 if None.
      loop: progress, callback and checkpoint. A state that a callback gets is used up by the next
        chunk: copy what is to be kept.

    Returns:
      q, averaged over the last steps (`optim.polynomial_average`), and the state at the end with
      the history of the ELBO.

    Raises:
      ValueError: for a number of steps or groups below one.

    Complexity:
      A step as of `DoubleKL.on_rows`, whatever n; one copy of q and of the optimizer's state.

    Example:
      >>> import gp, jax, jax.numpy as jnp
      >>> from gp.sic import double_kl, train_factor
      >>> x, key = jnp.linspace(0.0, 6.0, 64), jax.random.key(0)
      >>> options = {"num_neighbors": 4}
      >>> at = gp.fit(x, jnp.sin(x), key=key, method="sic", method_options=options, train=False)
      >>> target, q = double_kl(at.prior, at.model, at.data, at.q, ["kernel.lengthscale"])
      >>> q, state = train_factor(target, q, key=key, num_steps=20)
      >>> q.columns.shape, state.elbos.shape
      ((64, 5), (1,))

    Reference: Cao, Kang, Jimenez, Sang, Schäfer and Katzfuss (2023), "Variational sparse inverse
    Cholesky approximation for latent Gaussian processes via double Kullback-Leibler minimization",
    section 3.2.
    """
    for name, value in (("num_steps", num_steps), ("num_groups", num_groups)):
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"train_factor: expected {name} to be an integer >= 1; got {value!r}.")
    run = FactorRun(target, q, key, DoubleKL(int(num_groups)), optimizer, int(num_steps))
    state, stopped = iterate(run, loop or LoopOptions(), total=num_steps)
    if stopped != Status.RUNNING:
        state = state._replace(status=np.int32(stopped))
    return run.result(state), state


_COMPILED: dict = {}


def _compiled(key: Any, optimizer: Any) -> tuple[Callable, Callable]:
    """Compiled ``init`` and chunk, one for all optimizers of the same structure."""
    if key not in _COMPILED:
        init = quick_jit(lambda q: (*_states(optimizer, q), jax.tree.map(jnp.copy, q)))
        chunk = functools.partial(_chunk, optimizer)
        _COMPILED[key] = init, quick_jit(chunk, donate_argnums=0)
    return _COMPILED[key]


_solution = quick_jit(jax.vmap(eval_params))


def _states(optimizer: Any, q: SparseGaussian) -> tuple:
    return init_rows(optimizer, (q.mean, q.columns)), optimizer.init(q.values)


def _chunk(
    optimizer: Any,
    moving: tuple,
    counts: tuple,
    key: Array,
    target: LatentProcess,
    estimator: DoubleKL,
    num_steps: Array,
) -> tuple:
    n = len(target.inputs)

    def step(_: Array, carry: tuple) -> tuple:
        (q, rows, values), (count, skips, status), (total, taken) = carry
        loss, index, grads = estimator.on_rows(jax.random.fold_in(key, count), q, target)
        updates, new_values = optimizer.update(grads.values, values, q.values)
        new = optax.apply_updates(q.values, updates)
        good = all_finite((loss, grads, new)) & (status == Status.RUNNING)
        # A step that does not count has no rows: whole tables are never selected between.
        index, some = jnp.where(good, index, n), (grads.mean, grads.columns)
        table, rows = step_rows(optimizer, index, some, rows, (q.mean, q.columns))
        pick = lambda a, b: jax.tree.map(lambda a, b: jnp.where(good, a, b), a, b)
        new, values = pick((new, new_values), (q.values, values))
        skips = jnp.where(good, 0, skips + 1)
        status = jnp.where(skips > MAX_SKIPS, jnp.int32(Status.NONFINITE), status)
        moving = SparseGaussian(table[0], table[1], new), rows, values
        sums = total - jnp.where(good, loss, 0), taken + good
        return moving, (count + 1, skips, status), sums

    start = moving, counts, (jnp.zeros((), target.y.dtype), jnp.int32(0))
    moving, counts, (total, taken) = jax.lax.fori_loop(0, num_steps, step, start)
    return counts[0], moving, *counts[1:], total / taken
