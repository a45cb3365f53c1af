"""Clipping against what the norm of the gradient usually is."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from optim.steps import no_steps, settle
from optim.tree import accumulator_dtype, cast_like, divide, norm, wide


class ClipState(NamedTuple):
    """State of `clip_by_ema_norm`.

    Attributes:
      count: steps taken.
      skipped: steps whose update was not finite, and was not made.
      seen: steps whose norm was not zero.
      mean: running mean of clipped norms, biased towards zero.
    """

    count: Int[Array, ""]
    skipped: Int[Array, ""]
    seen: Int[Array, ""]
    mean: Float[Array, ""]


def clip_by_ema_norm(
    factor: float = 3.0, decay: float = 0.99
) -> optax.GradientTransformationExtraArgs:
    r"""Clip the update at a multiple of the running mean of its own norm.

    .. math::

       g_t \mapsto \tilde g_t = g_t \min\Big(1, κ \frac{\hat m_t}{‖g_t‖}\Big), \qquad
       m_{t+1} = ρ m_t + (1 - ρ) ‖\tilde g_t‖, \quad \hat m_t = \frac{m_t}{1 - ρ^{t}}

    The mean is of norms after clipping, so in the long run an outlier raises the threshold by a
    factor of 1 + (κ - 1)(1 - ρ) at most; at step t by (κ (1 - ρ) + ρ (1 - ρ^{t-1}))/(1 - ρ^t),
    which is more while t is below 1/(1 - ρ). A lasting change is followed within a few times that.
    Nothing is clipped until a gradient other than zero was seen. With a fixed threshold it is
    ``optax.clip_by_global_norm``. Under skewed noise the mean of clipped gradients is biased:
    keep κ well above 1.

    Args:
      factor: κ > 1.
      decay: ρ.

    Returns:
      A transformation that keeps the direction.

    Complexity:
      O(D) time, two scalars.

    Example:
      >>> import jax.numpy as jnp
      >>> from optim import clip_by_ema_norm
      >>> clip = clip_by_ema_norm(factor=2.0)
      >>> state = clip.init(jnp.zeros(2))
      >>> for _ in range(3):
      ...     small, state = clip.update(jnp.array([0.6, 0.8]), state)
      >>> large, state = clip.update(jnp.array([600.0, 800.0]), state)
      >>> bool(jnp.allclose(large, jnp.array([1.2, 1.6])))
      True

    Reference:
      Sadiev et al. (2023), "High-probability bounds for stochastic optimization and variational
      inequalities: the case of unbounded variance", for what clipping is worth under heavy
      tails; its threshold needs the noise's scale, the running mean here does not.
    """

    def init(params: optax.Params) -> ClipState:
        zero = jnp.zeros((), accumulator_dtype(params))
        return ClipState(**no_steps(), seen=jnp.zeros((), jnp.int32), mean=zero)

    def update(
        updates: optax.Updates, state: ClipState, params: Any = None, **extra: Any
    ) -> tuple[optax.Updates, ClipState]:
        del params, extra
        dtype = state.mean.dtype
        size = norm(updates).astype(dtype)
        any_seen = state.seen > 0
        usual = state.mean / jnp.where(any_seen, 1 - decay ** state.seen.astype(dtype), 1)
        clipped = jnp.where(any_seen, jnp.minimum(size, factor * usual), size)
        share = jnp.where(size > 0, divide(clipped, size), 1)
        steps = jax.tree.map(lambda x: share.astype(x.dtype) * x, wide(updates))
        counts = size > 0
        mean = jnp.where(counts, decay * state.mean + (1 - decay) * clipped, state.mean)
        new = state._replace(seen=state.seen + counts, mean=mean)
        return settle(state, new, updates, cast_like(steps, updates))

    return optax.GradientTransformationExtraArgs(init, update)
