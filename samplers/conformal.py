"""Online conformal calibration: the width of predictions, learned as the stream goes on."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

SLOTS = 128  # experts alive at once: at most 4 log₂ t + 8, enough for 2³⁰ steps
LIFETIME = 8  # steps of an expert that starts at an odd time


class ConformalState(NamedTuple):
    """The radius of the next prediction, and the experts K that it is mixed of.

    Attributes:
      radius: of the next prediction.
      time: observations seen.
      start: when each expert began; 0 if it was never used.
      end: when it ends.
      guess: its radius.
      squares: sum of its squared gradients.
      gain: sum of its advantages over the mixture.
      wealth: weighted sum of the same.
      weight: its bet; the mixture is by prior times bet, where that is positive.
    """

    radius: Float[Array, ""]
    time: Int[Array, ""]
    start: Int[Array, " K"]
    end: Int[Array, " K"]
    guess: Float[Array, " K"]
    squares: Float[Array, " K"]
    gain: Float[Array, " K"]
    wealth: Float[Array, " K"]
    weight: Float[Array, " K"]


class OnlineConformal(NamedTuple):
    """What `online_conformal` returns.

    Attributes:
      init: gives the first state.
      update: from a state and the score of an observation to the next state, and whether the score
        was within the radius.
    """

    init: Callable[[], ConformalState]
    update: Callable[[ConformalState, Array], tuple[ConformalState, Bool[Array, ""]]]


def online_conformal(scale: float | Array, *, alpha: float | Array = 0.1) -> OnlineConformal:
    r"""Strongly adaptive online conformal prediction.

    A radius for each prediction of a stream, so that a share of about α of the residuals
    :math:`|y - \hat y|`, or of other scores, is beyond it, whatever made the predictions, also
    when the stream changes. At each time an expert starts, at the radius of that time, and lives
    the longer the more often two divides its time; each follows the pinball loss of its residuals
    by gradient steps

    .. math:: s \leftarrow \max\big(0, s - \tfrac{D}{\sqrt 3}\, ∂ℓ / \sqrt{\Sigma\, ∂ℓ^2}\big),

    and they are mixed by what they would have won over the mixture, by coin betting.

    Long steps of young experts make the radius noisy and the coverage a little high: on 40,000
    normal residuals it was 0.905, 0.722 and 0.538 for α = 0.1, 0.3 and 0.5, with a scale of 3
    standard deviations; on a stream of scales 1, 5, 1 it was 0.915, 0.899 and 0.896 for a scale of
    15, 7 and 4.

    Args:
      scale: :math:`D/\sqrt3`, about the largest residual to be expected, for instance of a
        calibration set; steps of the radius are in proportion to it.
      alpha: α, the share that may be missed.

    Returns:
      ``init()``, a state whose ``radius`` is for the first prediction; and
      ``update(state, residual)``, which returns the next state and whether the radius covered the
      residual. Both run under `jax.jit` and `jax.lax.scan`. A residual that is NaN changes nothing
      and is not covered.

    Raises:
      ValueError: if α is not between 0 and 1.

    Complexity:
      O(1) a step: 128 experts at most are alive in 2³⁰ steps.

    Reference: Bhatnagar, Wang, Xiong and Bai (2023), "Improved online conformal prediction via
    strongly adaptive online learning", Algorithm 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from samplers import online_conformal
      >>> how = online_conformal(3.0, alpha=0.1)
      >>> residuals = jnp.abs(jax.random.normal(jax.random.key(0), (3000,)))
      >>> _, covered = jax.lax.scan(how.update, how.init(), residuals)
      >>> bool(abs(covered.mean() - 0.9) < 0.02)
      True
    """
    if isinstance(alpha, float) and not 0 < alpha < 1:
        raise ValueError(f"online_conformal: expected alpha between 0 and 1; got {alpha}.")
    dtype = jnp.result_type(float)

    def init() -> ConformalState:
        zero, none = jnp.zeros(SLOTS, dtype), jnp.zeros(SLOTS, jnp.int32)
        state = ConformalState(
            jnp.zeros((), dtype), jnp.zeros((), jnp.int32), none, none, zero, zero, zero, zero, zero
        )
        return _begin(state)

    def update(state: ConformalState, residual: Array) -> tuple[ConformalState, Bool[Array, ""]]:
        seen = jnp.minimum(jnp.asarray(residual, dtype), jnp.finfo(dtype).max)
        level = 1 - jnp.asarray(alpha, dtype)
        loss = lambda s: jnp.maximum(level * (seen - s), (1 - level) * (s - seen))
        range_ = math.sqrt(3) * scale * jnp.maximum(level, 1 - level)
        ahead = (loss(state.radius) - loss(state.guess)) / range_
        ahead = jnp.clip(ahead, jnp.where(state.weight > 0, -1, 0), 1)
        slope = jnp.where(seen > state.guess, -level, 1 - level)
        squares = state.squares + slope**2
        guess = jnp.maximum(state.guess - scale * slope / jnp.sqrt(squares), 0)
        gain, wealth = state.gain + ahead, state.wealth + state.weight * ahead
        age = jnp.maximum(state.time - state.start + 1, 1)
        weight = gain / age * (1 + wealth)
        moved = state._replace(
            guess=guess, squares=squares, gain=gain, wealth=wealth, weight=weight
        )
        moved = _begin(moved._replace(radius=_mixture(moved)))
        known = ~jnp.isnan(seen)
        moved = jax.tree.map(lambda a, b: jnp.where(known, a, b), moved, state)
        return moved, seen <= state.radius

    return OnlineConformal(init, update)


def _alive(state: ConformalState) -> Bool[Array, " K"]:
    return (state.start > 0) & (state.time < state.end)


def _mixture(state: ConformalState) -> Float[Array, ""]:
    """Radius of the experts alive, by their prior times their weight if any has some."""
    start = jnp.maximum(state.start, 1).astype(state.guess.dtype)
    prior = jnp.where(_alive(state), 1 / (start**2 * (1 + jnp.floor(jnp.log2(start)))), 0)
    prior = prior / jnp.maximum(jnp.max(prior), jnp.finfo(prior.dtype).tiny)
    bet = prior * jnp.maximum(state.weight, 0)
    shares = jnp.where(jnp.sum(bet) > 0, bet, prior)
    total = jnp.sum(shares)
    mixed = shares @ state.guess / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, mixed, state.radius)


def _begin(state: ConformalState) -> ConformalState:
    """The next time step: one expert more, in the slot that is free for longest."""
    time = state.time + 1
    slot = jnp.argmin(state.end)
    lowest_bit = time & -time  # the largest power of two that divides the time
    put = lambda x, value: x.at[slot].set(jnp.asarray(value, x.dtype))
    return ConformalState(
        radius=state.radius,
        time=time,
        start=put(state.start, time),
        end=put(state.end, time + LIFETIME * lowest_bit),
        guess=put(state.guess, state.radius),
        squares=put(state.squares, 0),
        gain=put(state.gain, 0),
        wealth=put(state.wealth, 0),
        weight=put(state.weight, 0),
    )
