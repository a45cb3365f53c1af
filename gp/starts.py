"""Training from several starts side by side: which optimum is the best, and how many found it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gp.model import Data, Model
from gp.parameters import Values, constrained, positive_names
from gp.sites import Sites
from gp.training import CHUNK, TrainingRun, chunk_of, follow_from, loss_of
from vi.compile import quick_jit
from vi.random import fast_key
from vi.status import Status
from vi.structural import structural_key

SPREAD = 1.5  # standard deviation of the logarithms of hyperparameters over starts
AGREE = 1.0  # nats within which two ends are the same


class Ends(NamedTuple):
    """Where several starts ended.

    Attributes:
      model: of the best.
      sites: of the best.
      elbos: the objective at each end, nats; that of the given start first.
    """

    model: Model
    sites: Sites
    elbos: Float[np.ndarray, " S"]

    @property
    def agreeing(self) -> int:
        """How many ended within `AGREE` nats of the best."""
        return int(np.sum(self.elbos >= self.elbos.max() - AGREE))

    def note(self) -> str:
        """A sentence for the verdict."""
        best, first = self.elbos.max(), self.elbos[0]
        said = f"{self.agreeing} of {len(self.elbos)} starts ended within {AGREE} nats of the best"
        if first < best - AGREE:
            below = f"{best - first:.1f} nats below" if np.isfinite(first) else "nowhere"
            return f"{said}; the given one ended {below}."
        return said + "."

    def cautions(self) -> list[str]:
        """What speaks against the best being the best there is."""
        if self.agreeing > 1:
            return []
        return [
            f"Only one of {len(self.elbos)} starts reached this optimum of the hyperparameters, so "
            "there may be better ones. Give more starts, or priors."
        ]


def drawn_starts(
    key: Array, model: Model, values: Values, priors: dict[str, Any], count: int
) -> Values:
    """Hyperparameters to start from, stacked: those given, then draws.

    Those with a prior that can be sampled are drawn from it; the logarithms of the other positive
    ones are normal about the given ones; the rest stays.
    """
    positive = positive_names(model)
    found = {}
    for number, (name, value) in enumerate(sorted(values.items())):
        own = jax.random.fold_in(key, number)
        shape = (count - 1, *value.shape)
        if name in priors and hasattr(priors[name], "sample"):
            prior = priors[name]
            own_shape = (*getattr(prior, "batch_shape", ()), *getattr(prior, "event_shape", ()))
            wide = shape[: len(shape) - len(own_shape)]
            draws = jnp.broadcast_to(prior.sample(own, wide), shape).astype(value.dtype)
            if name in positive:  # what the prior puts below zero cannot be a start
                draws = jnp.where(draws > 0, jnp.log(jnp.where(draws > 0, draws, 1.0)), value)
        elif name in positive:
            draws = value + SPREAD * jax.random.normal(fast_key(own), shape, value.dtype)
        else:
            draws = jnp.broadcast_to(value, shape)
        found[name] = jnp.concatenate([value[None], draws])
    return found


def train_several(run: TrainingRun, count: int) -> Ends:
    """Train from several starts in one compiled loop.

    Args:
      run: of the given start.
      count: S; the others are drawn by the run's key.

    Returns:
      Where they ended.

    Complexity:
      That of S runs, side by side, until the last has converged; one compilation for all.
    """
    values = drawn_starts(run.key, run.model, run.values, run.priors, count)
    fixed = run.model, run.prior, run.data, run.priors
    init, look, chunk = _mapped(structural_key(tuple(run.optimizer)), run.optimizer)
    sites = jax.tree.map(lambda a: jnp.broadcast_to(a, (count, *a.shape)), run.sites)
    loss, grads = look(values, sites, fixed)
    status = jnp.where(jnp.isfinite(loss), Status.RUNNING, Status.NONFINITE).astype(jnp.int32)
    zeros = jnp.zeros(count, jnp.int32)
    arrays = zeros, values, init(values), loss, grads, zeros, status
    for _ in range(-(-run.num_steps // CHUNK)):
        arrays = chunk(arrays, sites, fixed, np.int32(run.num_steps))
        if not run.model.likelihood.conjugate:
            sites = _followed(run.model, run.prior, run.data, arrays[1], sites)
        if not np.any(np.asarray(arrays[6]) == Status.RUNNING):
            break
    elbos = -np.asarray(arrays[3], float)
    elbos = np.where(np.isfinite(elbos), elbos, -np.inf)
    best = int(np.argmax(elbos))
    pick = lambda tree: jax.tree.map(lambda a: a[best], tree)
    return Ends(constrained(run.model, pick(arrays[1])), pick(sites), elbos)


_MAPPED: dict = {}


def _mapped(key: Any, optimizer: Any) -> tuple[Callable, Callable, Callable]:
    """Compiled ``init``, first look and chunk over starts."""
    if key not in _MAPPED:
        chunk = functools.partial(chunk_of, optimizer)
        _MAPPED[key] = (
            quick_jit(jax.vmap(optimizer.init)),
            quick_jit(jax.vmap(jax.value_and_grad(loss_of), (0, 0, None))),
            quick_jit(jax.vmap(chunk, (0, 0, None, None))),
        )
    return _MAPPED[key]


@quick_jit
def _followed(model: Model, prior: Any, data: Data, values: Values, sites: Sites) -> Sites:
    one = lambda v, s: follow_from(constrained(model, v), prior, data, s).sites
    return jax.vmap(one)(values, sites)
