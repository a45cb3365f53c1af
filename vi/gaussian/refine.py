"""Natural-gradient refinement of a Gaussian: fresh rotations, momentum, averaging, a test."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi.gaussian.natural_gradient import limited_move, limited_rate
from vi.gaussian.root import DenseRoot, Root, scaled
from vi.gaussian.spherical import Estimate
from vi.status import Status

MOMENTUM = 0.7
GAIN = 0.5  # before any turn
MAX_CHANGE = 1.0  # of the whitened precision in one step
MAX_SKIPS = 25  # steps in a row whose gradients are not finite


class RefineState(NamedTuple):
    """A Gaussian on its way to the best one, and the gain of its steps."""

    step: Array
    loc: Float[Array, " D"]
    root: Root
    log_det: Array
    metric: DenseRoot | None  # of the location's steps; None: the root itself
    last: Array  # residual of the step before
    velocity: tuple[Array, Root]  # of gradient and excess, with momentum
    turns: Array  # how often two estimates in a row pointed in opposite directions
    averaging: Array  # whether the iterate is being averaged rather than moved
    gain: Array
    skips: Array
    status: Array


def init(
    loc: np.ndarray, root: Root, log_det: float, metric: DenseRoot | None = None
) -> RefineState:
    """Start refining N(loc, root rootᵀ). NumPy in and out: nothing is compiled.

    Args:
      loc: m, shape ``(D,)``.
      root: the root L.
      log_det: ``log |det L|``.
      metric: for a root that is not dense, a dense root of about the posterior's covariance.
        Steps of the location in its metric are Newton's, however correlated the posterior.

    Returns:
      The state before the first step.
    """
    real, count = loc.dtype.type, np.int32
    still = scaled(root, real(0))
    return RefineState(
        step=count(0),
        loc=loc,
        root=root,
        log_det=real(log_det),
        metric=metric,
        last=np.zeros(residual_size(root), loc.dtype),
        velocity=(np.zeros_like(loc), still),
        turns=count(0),
        averaging=np.False_,
        gain=real(GAIN),
        skips=count(0),
        status=count(Status.RUNNING),
    )


def update(seen: Estimate, state: RefineState) -> tuple[RefineState, Array]:
    """One natural-gradient step.

    While moving, steps have momentum, which carries them along directions in which the ELBO is
    flat, and their gain falls as (1 + 0.3 k)^-0.6 with the number k of turns, estimates that
    point against the one before: it stays high until noise is all that is left (Kesten 1958,
    "Accelerated stochastic approximation"). While averaging there is no momentum and the
    reciprocal of the gain grows by one a step, which makes the iterate a plain average.

    Args:
      seen: the rule at ``(loc, root)``, with a fresh rotation.
      state: the state.

    Returns:
      The next state, and the residual: a vector whose squared norm is twice the nats that a
      step of rate one would gain, to second order. If the step was skipped, since the estimate
      is not finite, the state has moved on by one skip and the residual is NaN.

    Complexity:
      One Cholesky factorisation and one triangular solve.
    """
    dtype = state.loc.dtype
    metric = state.root if state.metric is None else state.metric
    gradient = metric.transpose_matmul(seen.score)
    excess = state.root.part(seen.excess)
    flat = (x.reshape(-1) / math.sqrt(2) for x in jax.tree.leaves(excess))
    residual = jnp.concatenate([gradient, *flat])

    turned = residual @ state.last < 0
    turns = state.turns + turned
    moving_gain = GAIN * (1 + 0.3 * turns.astype(dtype)) ** -0.6
    gain = jnp.where(state.averaging, 1 / (1 / state.gain + 1), moving_gain)
    momentum = jnp.where(state.averaging, 0.0, MOMENTUM)
    velocity = jax.tree.map(lambda v, x: momentum * v + x, state.velocity, (gradient, excess))
    rate = limited_rate(gain, velocity[1], MAX_CHANGE)
    root, move, change = state.root.natural_update(velocity[1], velocity[0], rate)
    if state.metric is None:
        offset = root.matmul(limited_move(move))
    else:
        offset = state.metric.matmul(limited_move(rate * velocity[0]))
    moved = RefineState(
        step=state.step + 1,
        loc=state.loc + offset,
        root=root,
        log_det=state.log_det + change,
        metric=state.metric,
        last=residual,
        velocity=velocity,
        turns=turns,
        averaging=state.averaging,
        gain=gain,
        skips=jnp.zeros_like(state.skips),
        status=state.status,
    )
    skips = state.skips + 1
    lost = jnp.where(skips > MAX_SKIPS, jnp.asarray(Status.NONFINITE, jnp.int32), state.status)
    stayed = state._replace(step=state.step + 1, skips=skips, status=lost)
    good = seen.finite & jnp.isfinite(change)
    new = jax.tree.map(lambda a, b: jnp.where(good, a, b), moved, stayed)
    return new, jnp.where(good, residual, jnp.nan)


def residual_size(root: Root) -> int:
    """Length of the residual for a root."""
    dim = sum(leaf.shape[-1] for leaf in jax.tree.leaves(root))
    return dim + sum(leaf.size for leaf in jax.tree.leaves(root))
