"""Steps whose length does not depend on the gradient's, or less: normalised momentum and NIGT."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from optim.steps import no_steps, rate_at, settle
from optim.tree import cast_like, needs_params, norm, wide


def _scaled(tree: Any, power: float) -> Any:
    """The tree, widened and divided by its norm to a power; zero stays zero."""
    tree = wide(tree)
    size = norm(tree)
    factor = jnp.where(size > 0, jnp.where(size > 0, size, 1) ** -power, 0)
    return jax.tree.map(lambda x: factor.astype(x.dtype) * x, tree)


class NormPowerState(NamedTuple):
    """State of `scale_by_norm_power`.

    Attributes:
      count: steps taken.
      skipped: steps whose update was not finite, and was not made.
    """

    count: Int[Array, ""]
    skipped: Int[Array, ""]


def scale_by_norm_power(power: float = 1.0) -> optax.GradientTransformationExtraArgs:
    r"""Divide the update by a power of its norm.

    .. math:: g \mapsto g / ‖g‖^{β}

    With steps of this, gradient descent converges where the curvature grows with the gradient
    as ‖∇f‖^α, α ≤ β, and plain descent diverges; β = 1 is normalised descent. The norm is over
    all leaves and in at least float32. Where the norm is zero so is the result;
    ``optax.normalize_by_update_norm`` is β = 1 with an ε.

    Args:
      power: β, from 0 (nothing changes) to 1.

    Returns:
      A transformation that keeps the sign; it only counts.

    Complexity:
      O(D).

    Example:
      >>> import jax.numpy as jnp
      >>> from optim import scale_by_norm_power
      >>> half = scale_by_norm_power(0.5)
      >>> updates, state = half.update(jnp.array([0.0, 16.0]), half.init(jnp.zeros(2)))
      >>> updates.tolist()
      [0.0, 4.0]

    Reference:
      Chen, Zhou, Liang and Lu (2023), "Generalized-smooth nonconvex optimization is as efficient
      as smooth nonconvex optimization", Algorithm 1 (β-GD).
    """

    def update(
        updates: optax.Updates, state: NormPowerState, params: Any = None, **extra: Any
    ) -> tuple[optax.Updates, NormPowerState]:
        del params, extra
        return settle(state, state, updates, cast_like(_scaled(updates, power), updates))

    return optax.GradientTransformationExtraArgs(lambda _: NormPowerState(**no_steps()), update)


class MomentumState(NamedTuple):
    """State of `normalized_momentum`.

    Attributes:
      count: steps taken.
      skipped: steps whose update was not finite, and was not made.
      momentum: running mean of gradients; at least float32.
    """

    count: Int[Array, ""]
    skipped: Int[Array, ""]
    momentum: optax.Updates


def normalized_momentum(
    learning_rate: optax.ScalarOrSchedule, decay: float = 0.9, *, power: float = 1.0
) -> optax.GradientTransformationExtraArgs:
    r"""Descent along a running mean of gradients, divided by its norm or a power of it.

    .. math:: m_t = β m_{t-1} + (1 - β) g_t, \quad m_1 = g_1, \qquad
       x_{t+1} = x_t - η_t\, m_t / ‖m_t‖^{p}

    At p = 1 every step has length η_t: the learning rate is in the units of the parameters, and
    needs a schedule or an average of the iterates at the end. The mean is what makes
    normalising sound: it converges under noise that one normalised gradient does not survive,
    also noise that grows with the distance from the optimum, as that of variational objectives
    does. At p < 1 it is norm-power momentum.

    Args:
      learning_rate: η, a number or an optax schedule.
      decay: β.
      power: p, in [0, 1].

    Returns:
      A transformation; its updates are descent steps.

    Complexity:
      One copy of the parameters.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from optim import normalized_momentum
      >>> optimizer, x = normalized_momentum(0.1), jnp.array([30.0, 40.0])
      >>> state = optimizer.init(x)
      >>> updates, state = optimizer.update(x, state, x)
      >>> bool(jnp.allclose(updates, jnp.array([-0.06, -0.08])))
      True

    Reference:
      Cutkosky and Mehta (2020), "Momentum improves normalized SGD"; they start from m_1 = g_1
      as here.
    """

    def init(params: optax.Params) -> MomentumState:
        momentum = jax.tree.map(jnp.zeros_like, wide(params))
        return MomentumState(**no_steps(), momentum=momentum)

    def update(
        updates: optax.Updates, state: MomentumState, params: Any = None, **extra: Any
    ) -> tuple[optax.Updates, MomentumState]:
        del params, extra
        momentum = _running_mean(state, updates, decay)
        steps = _times(_scaled(momentum, power), -rate_at(learning_rate, state.count))
        new = state._replace(momentum=momentum)
        return settle(state, new, updates, cast_like(steps, updates))

    return optax.GradientTransformationExtraArgs(init, update)


class TransportState(NamedTuple):
    """State of `nigt`.

    Attributes:
      count: steps taken.
      skipped: steps whose update was not finite, and was not made.
      momentum: running mean of gradients at extrapolated points; at least float32.
      solution: :math:`x_t`; at least float32.
    """

    count: Int[Array, ""]
    skipped: Int[Array, ""]
    momentum: optax.Updates
    solution: optax.Params


def nigt(
    learning_rate: optax.ScalarOrSchedule, decay: float = 0.9
) -> optax.GradientTransformationExtraArgs:
    r"""Normalised descent with implicit gradient transport.

    .. math::

       m_t = β m_{t-1} + (1 - β)\, g(\tilde x_t), \quad
       x_{t+1} = x_t - η_t \frac{m_t}{‖m_t‖}, \quad
       \tilde x_{t+1} = x_{t+1} + \frac{β}{1 - β}(x_{t+1} - x_t)

    with m_1 = g_1. Gradients are wanted at x̃_t, which is what the loop calls ``params``; the
    answer x_t is what `optim.eval_params` gives. Taken there, they make the running mean
    unbiased where the Hessian is constant: for a quadratic without noise m_t is the gradient at
    x_t exactly.

    Tuned, with a cosine schedule and averaged, it was on problems of
    ``benchmarks/optimizers.py`` 0.02 nats ahead of tuned Adam on cancer and 0.01 on Poisson, 0.05
    behind on schools, 0.6 on the Gaussian of condition 1e4, and 2 on the network. From a start
    with gradients of 1e9 it found the optimum, as `normalized_momentum` did and no Adam.

    Args:
      learning_rate: η, the length of a step, a number or an optax schedule.
      decay: β < 1.

    Returns:
      A transformation that needs ``params``.

    Raises:
      ValueError: if ``update`` gets no ``params``.

    Complexity:
      Two copies of the parameters.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from optim import eval_params, nigt
      >>> optimizer, x = nigt(optax.cosine_decay_schedule(0.3, 60)), jnp.array([3.0, 4.0])
      >>> state = optimizer.init(x)
      >>> for _ in range(60):
      ...     updates, state = optimizer.update(x, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(jnp.linalg.norm(eval_params(state, x)) < 0.05)
      True

    Reference:
      Cutkosky and Mehta (2020), "Momentum improves normalized SGD", Algorithm 1 (NIGT).
    """

    def init(params: optax.Params) -> TransportState:
        momentum = jax.tree.map(jnp.zeros_like, wide(params))
        return TransportState(**no_steps(), momentum=momentum, solution=wide(params))

    def update(
        updates: optax.Updates,
        state: TransportState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, TransportState]:
        del extra
        params = needs_params("nigt", params)
        momentum = _running_mean(state, updates, decay)
        move = _times(_scaled(momentum, 1.0), -rate_at(learning_rate, state.count))
        solution = jax.tree.map(jnp.add, state.solution, move)
        ahead = decay / (1 - decay)
        query = jax.tree.map(lambda x, u: x + ahead * u, solution, move)
        steps = jax.tree.map(jnp.subtract, query, wide(params))
        new = state._replace(momentum=momentum, solution=solution)
        return settle(state, new, updates, cast_like(steps, params))

    return optax.GradientTransformationExtraArgs(init, update)


def _running_mean(
    state: MomentumState | TransportState, gradient: optax.Updates, decay: float
) -> optax.Updates:
    keep = jnp.where(state.count == 0, 0.0, decay)
    mix = lambda m, g: keep.astype(m.dtype) * m + (1 - keep).astype(m.dtype) * g
    return jax.tree.map(mix, state.momentum, wide(gradient))


def _times(tree: Any, factor: Array) -> Any:
    return jax.tree.map(lambda x: factor.astype(x.dtype) * x, tree)
