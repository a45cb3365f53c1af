"""Training of sparse within sparse: hyperparameters and q(u) at once, on minibatches."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from gp.inducing.minibatch import ended
from gp.model import Data
from gp.parameters import Values, constrained, log_prior
from gp.within.family import Within, elbo
from gp.within.neighbours import Neighbours, nearest, points_of
from optim.tree import all_finite
from vi.compile import quick_jit
from vi.provenance import key_words, tree_digest
from vi.random import fast_key
from vi.status import Status
from vi.structural import structural_key
from vi.threads import blas_threads

CHUNK = 50  # steps, between which neighbours are looked for
_MAX_SKIPS = 50


class WithinState(NamedTuple):
    """Everything training knows; a pytree, to be checkpointed."""

    step: Array
    values: Values
    optimizer: Any
    skips: Array  # steps whose result was not finite
    status: Array
    near: tuple[np.ndarray, np.ndarray]  # `Neighbours.points` and `Neighbours.before`
    elbos: np.ndarray
    steps: np.ndarray


class WithinRun:
    r"""Maximises the ELBO of sparse within sparse; a `vi.loop.Run`.

    .. math:: \frac{N}{B} \sum_b E_q[\log p(y_b | f_b)] - \frac{M}{C} \sum_c D_c

    over B data and, with the divergence ``"chain"``, C = B/2 inducing variables, at random. Before
    each chunk of steps the data that it will look at look for their nearest inducing inputs, in the
    kernel's metric as it is by then.

    Cost of a step: O((B + C) H³), whatever N and M, but for the optimizer's own pass over M numbers
    and the search, which grows with log M.
    """

    def __init__(
        self,
        family: Within,
        data: Data,
        values: Values,
        priors: dict[str, Any],
        key: Array,
        optimizer: optax.GradientTransformation,
        num_steps: int,
        *,
        num_neighbors: int,
        batch_size: int,
        average: bool,
        before: Neighbours | None = None,
    ):
        """Set up.

        Args:
          family: to start from.
          data: targets.
          values: what is trained, in the optimizer's coordinates.
          priors: distributions by full name.
          key: of the fit.
          optimizer: any optax transformation.
          num_steps: how many.
          num_neighbors: H.
          batch_size: B.
          average: whether divergences are those of the data's blocks, averaged.
          before: neighbours of the inducing inputs, if they are known.
        """
        self.family, self.data, self.values, self.priors = family, data, values, priors
        self.key, self.num_steps, self.num_neighbors = key, num_steps, num_neighbors
        self.average, size = average, len(family.z)
        self.shape = min(batch_size, len(data.y)), min(max(batch_size // 2, 1), size)
        self.neighbours = before or Neighbours.of(
            points_of(family.model.kernel, family.z), num_neighbors
        )
        optimizer = optax.with_extra_args_support(optimizer)
        self._init, self._chunk = _compiled(structural_key(tuple(optimizer)), optimizer)

    def initial(self) -> WithinState:
        """The state before the first step."""
        zero, running = np.int32(0), np.int32(Status.RUNNING)
        nothing = np.zeros(0), np.zeros(0, int)
        first = zero, self.values, self._init(self.values), zero, running
        return WithinState(*first, tuple(self.neighbours), *nothing)

    def advance(self, state: WithinState) -> WithinState:
        """Look for neighbours, and take up to `CHUNK` steps."""
        family = self.result(state)
        metric = functools.partial(points_of, family.model.kernel)
        points = metric(family.z)
        neighbours = Neighbours(*state.near).refreshed(points, self.num_neighbors)
        count = min(CHUNK, self.num_steps - int(state.step))
        shapes = *self.shape, len(self.data.y), len(family.z)
        rows, some = _drawn(fast_key(self.key), state.step, shapes)
        seen = self.data.x[self.data.index[rows]]
        near = nearest(points, metric(seen.reshape(-1, seen.shape[-1])), self.num_neighbors)
        tables = rows, near.reshape(*rows.shape, -1), neighbours.before[np.asarray(some)]
        fixed = self.family, self.data, self.priors
        with blas_threads(self.num_neighbors):
            arrays, value = self._chunk(
                tuple(state[:5]), fixed, tables, np.int32(count), average=self.average
            )
            value = float(value)
        new = WithinState(
            *arrays,
            near=tuple(neighbours),
            elbos=np.append(state.elbos, value),
            steps=np.append(state.steps, int(arrays[0])),
        )
        if int(new.status) == Status.RUNNING and int(new.step) >= self.num_steps:
            return new._replace(status=np.int32(ended(new.elbos)))
        return new

    def done(self, state: WithinState) -> bool:
        """Whether there is nothing left to do."""
        return int(state.status) != Status.RUNNING

    def info(self, state: WithinState) -> dict[str, Any]:
        """Step, and the ELBO's estimate of the last chunk."""
        step = int(state.step)
        return {"step": step, "elbo": float(state.elbos[-1]), "gradients": step}

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        return {
            "kind": "sparse within sparse",
            "data": tree_digest(self.data),
            "family": tree_digest((self.family, self.values)),
            "priors": tree_digest(self.priors),
            "optimizer": tree_digest(self._init(self.values)),
            "key": key_words(self.key),
            "num_steps": self.num_steps,
            "settings": repr((self.shape, self.num_neighbors, self.average)),
        }

    def result(self, state: WithinState) -> Within:
        """The family with what was trained."""
        return constrained(self.family, state.values)


@quick_jit(static_argnums=2)
def _drawn(key: Array, step: Array, shapes: tuple[int, int, int, int]) -> tuple[Array, Array]:
    """Data and inducing variables of the next steps; all in order where all are wanted."""
    batch, part, count, size = shapes

    def one(time: Array) -> tuple[Array, Array]:
        first, second = jax.random.split(jax.random.fold_in(key, time))
        pick = lambda key, some, of: (
            jnp.arange(of) if some == of else jax.random.randint(key, (some,), 0, of)
        )
        return pick(first, batch, count), pick(second, part, size)

    return jax.lax.map(one, step + jnp.arange(CHUNK))


def _take_steps(
    optimizer: Any, arrays: tuple, fixed: tuple, tables: tuple, count: Array, *, average: bool
) -> tuple:
    """Up to so many steps, and the mean ELBO of those at which it is finite."""
    family, data, priors = fixed
    rows, near, before = tables

    def step(number: Array, state: tuple) -> tuple:
        (time, values, opt_state, skips, status), total = state
        some = rows[number]
        x, y = data.x[data.index[some]], data.y[some]

        def loss(values: Values) -> tuple[Array, Array]:
            here = constrained(family, values)
            parts = here.parts(x, y, near[number], None if average else before[number])
            found = elbo(parts, len(data.y), len(here.z), average=average)
            return -found - log_prior(here, priors), found

        grads, found = jax.grad(loss, has_aux=True)(values)
        updates, new_opt = optimizer.update(grads, opt_state, values)
        moved = optax.apply_updates(values, updates)
        finite = jnp.isfinite(found) & all_finite(moved)
        pick = lambda new, old: jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        values, opt_state = pick((moved, new_opt), (values, opt_state))
        skips = jnp.where(finite, 0, skips + 1)
        status = jnp.where(skips > _MAX_SKIPS, Status.NONFINITE, status).astype(jnp.int32)
        total = total + jnp.stack([jnp.where(finite, found, 0), finite.astype(found.dtype)])
        return (time + 1, values, opt_state, skips, status), total

    start = arrays, jnp.zeros(2, data.y.dtype)
    arrays, (total, seen) = jax.lax.fori_loop(0, count, step, start)
    return arrays, total / seen


_COMPILED: dict = {}


def _compiled(key: Any, optimizer: Any) -> tuple[Callable, Callable]:
    """Compiled ``init`` and chunk, one for all optimizers of the same structure."""
    if key not in _COMPILED:
        chunk = functools.partial(_take_steps, optimizer)
        _COMPILED[key] = quick_jit(optimizer.init), quick_jit(chunk, static_argnames="average")
    return _COMPILED[key]
