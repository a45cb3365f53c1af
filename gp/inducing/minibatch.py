"""Training by minibatches: a run of the loop, and how a user says what it is to be."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from gp.independent import IndependentPrior
from gp.inducing.coordinates import COORDINATES, Natural
from gp.inducing.steps import INDUCING, hold_as, take_steps
from gp.model import Data, Model
from gp.parameters import Values, constrained
from vi.compile import quick_jit
from vi.provenance import key_words, tree_digest
from vi.random import fast_key
from vi.status import Status
from vi.structural import structural_key

CHUNK = 50  # steps
_RISE = 2.4  # standard errors by which the ELBO's last third may be above the one before


@dataclasses.dataclass(frozen=True)
class Minibatches:
    """How `gp.fit` trains on parts of the data.

    Attributes:
      size: B, targets in a minibatch.
      rate: of the natural-gradient steps, at most; from 0 to 1.
      coordinates: in which q is held while hyperparameters move: ``"whitened"``, ``"plain"``, or
        ``"dual"``, in which q follows them most closely.
      move: whether inducing inputs are trained too, from where they were chosen.

    Raises:
      ValueError: for a size or a rate that cannot be, or unknown coordinates.

    Example:
      >>> import gp
      >>> gp.Minibatches(size=128).rate
      0.1
    """

    size: int = 256
    rate: float = 0.1
    coordinates: str = "whitened"
    move: bool = True

    def __post_init__(self) -> None:
        """Check."""
        if self.coordinates not in COORDINATES:
            raise ValueError(
                f"Minibatches: expected coordinates in {sorted(COORDINATES)}; got "
                f"{self.coordinates!r}."
            )
        if self.size < 1 or not 0 < self.rate <= 1:
            raise ValueError(
                f"Minibatches: expected size >= 1 and a rate in (0, 1]; got size {self.size}, "
                f"rate {self.rate}."
            )


class MinibatchState(NamedTuple):
    """Everything training knows; a pytree, to be checkpointed."""

    step: Array
    values: Values
    optimizer: Any
    held: Natural  # one for each latent function, on a first axis
    rate: Array  # of the natural steps
    skips: Array  # steps whose result was not finite
    status: Array
    elbos: np.ndarray  # mean of each chunk
    steps: np.ndarray  # at the end of each chunk


class MinibatchRun:
    r"""Maximises the ELBO over q(u) and hyperparameters at once; a `vi.loop.Run`.

    Each step draws B targets, with replacement (or takes all N), and does two things on them: a
    natural-gradient step of q,

    .. math::

       S^{-1} \leftarrow (1 - ρ) S^{-1} + ρ\, \Big( I + \tfrac{N}{B} \sum_b λ_{2b}\, a_b a_b^T
       \Big), \qquad λ_{2b} = E_q[-∂^2 \log p(y_b | f_b)],

    (the linear part alike), and at that new q one step of the optimizer on hyperparameters. The
    natural step keeps S positive definite, since curvatures count as at least a millionth of their
    mean; where it lowers the ELBO of its own minibatch, as it may where the likelihood is not
    Gaussian, the step is not taken and the rate halved; the rate doubles back to ``rate`` after.

    Cost of a step: O(B M² + M³), whatever N.
    """

    def __init__(
        self,
        model: Model,
        prior: Any,
        data: Data,
        values: Values,
        priors: dict[str, Any],
        key: Array,
        optimizer: optax.GradientTransformation | None,
        num_steps: int,
        minibatches: "Minibatches",
    ):
        """Set up.

        Args:
          model: hyperparameters to start from.
          prior: a `gp.inducing.InducingPrior`, or several side by side.
          data: targets.
          values: those to train, in the optimizer's coordinates.
          priors: distributions by full name.
          key: the key of the fit; step t uses ``fold_in(key, t)``.
          optimizer: any optax transformation; Adam of rate 0.01 if None.
          num_steps: how many.
          minibatches: how many targets, and how q moves.
        """
        self.model, self.data, self.priors = model, data, priors
        self.values = {
            **values,
            **({INDUCING: inducing_inputs(prior)} if minibatches.move else {}),
        }
        self.z, self.key, self.num_steps = inducing_inputs(prior), key, num_steps
        self.settings = (min(minibatches.size, len(data.y)), minibatches.coordinates)
        self.rate = np.asarray(minibatches.rate, data.y.dtype)
        optimizer = optax.with_extra_args_support(optimizer or optax.adam(0.01))
        self._init, self._chunk = _compiled(structural_key(tuple(optimizer)), optimizer)

    def initial(self) -> MinibatchState:
        """The state before the first step: q is the prior."""
        latents, count = self.model.likelihood.latents, len(self.z)
        dtype = self.data.y.dtype
        start = Natural(
            jnp.zeros((latents, count), dtype),
            jnp.broadcast_to(jnp.eye(count, dtype=dtype), (latents, count, count)),
        )
        held = hold_as(self.settings[1], self.model, self.z, start)
        zero, running = np.int32(0), np.int32(Status.RUNNING)
        nothing = np.zeros(0), np.zeros(0, int)
        return MinibatchState(
            zero, self.values, self._init(self.values), held, self.rate, zero, running, *nothing
        )

    def advance(self, state: MinibatchState) -> MinibatchState:
        """Take up to `CHUNK` steps."""
        fixed = self.model, self.z, self.data, self.priors, fast_key(self.key), self.rate
        count = min(CHUNK, self.num_steps - int(state.step))
        arrays, elbo = self._chunk(tuple(state[:7]), fixed, np.int32(count), self.settings)
        state = MinibatchState(
            *arrays,
            elbos=np.append(state.elbos, float(elbo)),
            steps=np.append(state.steps, int(arrays[0])),
        )
        if int(state.status) == Status.RUNNING and int(state.step) >= self.num_steps:
            return state._replace(status=np.int32(ended(state.elbos)))
        return state

    def done(self, state: MinibatchState) -> bool:
        """Whether there is nothing left to do."""
        return int(state.status) != Status.RUNNING

    def info(self, state: MinibatchState) -> dict[str, Any]:
        """Step, and the ELBO's estimate of the last chunk."""
        return {
            "step": int(state.step),
            "elbo": float(state.elbos[-1]),
            "gradients": int(state.step),
        }

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        return {
            "kind": "gaussian process by minibatches",
            "data": tree_digest(self.data),
            "model": tree_digest((self.model, self.values, self.z)),
            "priors": tree_digest(self.priors),
            "optimizer": tree_digest(self._init(self.values)),
            "key": key_words(self.key),
            "num_steps": self.num_steps,
            "settings": repr((*self.settings, float(self.rate))),
        }

    def result(self, state: MinibatchState) -> Model:
        """The model with the trained hyperparameters."""
        return constrained(self.model, state.values)

    def moved(self, prior: Any, state: MinibatchState) -> Any:
        """The prior with the inducing inputs of a state, if they were trained."""
        if INDUCING not in state.values:
            return prior
        if isinstance(prior, IndependentPrior):
            return dataclasses.replace(prior, prior=self.moved(prior.prior, state))
        return dataclasses.replace(prior, z=state.values[INDUCING], start="given")


def inducing_inputs(prior: Any) -> Any:
    """The inducing inputs of a prior, or of several side by side, which share them."""
    return prior.prior.z if isinstance(prior, IndependentPrior) else prior.z


def ended(elbos: np.ndarray) -> Status:
    """Whether the ELBO had stopped rising: its last third of chunks against the one before."""
    size = len(elbos) // 3
    if size < 2:
        return Status.MAX_STEPS
    last, before = elbos[-size:], elbos[-2 * size : -size]
    error = np.sqrt((last.var(ddof=1) + before.var(ddof=1)) / size)
    settled = last.mean() - before.mean() <= _RISE * error  # not so if any is NaN
    return Status.CONVERGED if settled else Status.MAX_STEPS


_COMPILED: dict = {}


def _compiled(key: Any, optimizer: Any) -> tuple[Callable, Callable]:
    """Compiled ``init`` and chunk, one for all optimizers of the same structure."""
    if key not in _COMPILED:
        chunk = functools.partial(take_steps, optimizer)
        _COMPILED[key] = quick_jit(optimizer.init), quick_jit(chunk, static_argnums=3)
    return _COMPILED[key]
