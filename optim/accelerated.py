"""Accelerated gradient descent without a learning rate: A-DoG."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from optim.distance import start_radius
from optim.normalized import scale_by_norm_power
from optim.steps import no_steps, settle
from optim.tree import accumulator_dtype, cast_like, difference, divide, needs_params, norm, wide


class AcceleratedDistanceState(NamedTuple):
    """State of `a_dog`.

    Attributes:
      count: steps taken.
      skipped: steps whose update was not finite, and was not made.
      start: the first parameters.
      anchor: w, the sequence of long steps; at least float32.
      solution: weighted average of the short steps; at least float32.
      total: sum of the weights of that average.
      distance: r̄, the largest distance from the start.
      distances: sum of r̄ over the steps.
      weight: α.
      root: √G, of the sum of weighted squared norms of gradients.
    """

    count: Int[Array, ""]
    skipped: Int[Array, ""]
    start: optax.Params
    anchor: optax.Params
    solution: optax.Params
    total: Float[Array, ""]
    distance: Float[Array, ""]
    distances: Float[Array, ""]
    weight: Float[Array, ""]
    root: Float[Array, ""]


def a_dog(
    initial_distance: float | None = None, *, normalize: bool = False
) -> optax.GradientTransformationExtraArgs:
    r"""A-DoG: accelerated stochastic gradient descent without a learning rate.

    .. math::

       G_t &= \sum_{k \le t} α_k^2 ‖g_k‖^2, \qquad η_t = \bar r_t / \sqrt{G_t} \\
       w_{t+1} &= w_t - α_t η_t g_t, \qquad y_{t+1} = x_t - η_t g_t \\
       \bar r_{t+1} &= \max(\bar r_t, ‖w_{t+1} - x_0‖), \qquad
       α_{t+1} = \max\Big(1, \tfrac12 \sum_{k \le t+1} \bar r_k / \bar r_{t+1}\Big) \\
       x_{t+1} &= (1 - 1/α_{t+1})\, y_{t+1} + w_{t+1} / α_{t+1}

    with the gradient g_t at x_t, which is what the loop calls ``params``, and r̄_0 = r_ε as in
    `optim.dog`. The answer is elsewhere: it is the average of y_{k+1} with weights α_k r̄_k, which
    `optim.eval_params` gives. The steps do not change if the loss is scaled.

    This is the variant with one gradient a step that the paper uses in practice, AcceleGrad with
    distance-over-gradient steps; the guarantee (error of order β d₀²/T² + σ d₀/√T for convex
    losses, up to logarithms, without knowing β, σ or d₀) is proved for its sibling of two
    gradients, U-DoG, which is left out. As in `optim.dog`, no momentum belongs before it.

    By itself it freezes when the first gradients are astronomic, and is thrown out by a single
    huge one, as variational objectives have them where a scale comes near zero: on two
    problems of ``benchmarks/optimizers.py`` some or all of its runs end so. After
    ``optim.clip_by_ema_norm(1.5)`` and averaged (`optim.polynomial_average`) it is the method
    that did best there without tuning, within 0.05 nats of tuned Adam on all problems of up to
    a thousand parameters (on one of which tuned Adam fails too). The factor 1.5 was singled out
    after early results on five of these problems, so they flatter it. It does not
    scale coordinates one by one: where their curvatures differ by 10⁵ and more, Adam is far ahead.

    Args:
      initial_distance: as in `optim.dog`.
      normalize: divide each gradient by its norm first. Nothing is as robust against huge
        gradients; but the mean of normalised noisy gradients is biased, no proof covers it, and
        it may end short of the optimum (by 1 nat on a full-rank logistic regression).

    Returns:
      A transformation that needs ``params``, the actual ones also in ``init``.

    Raises:
      ValueError: if ``update`` gets no ``params``.

    Complexity:
      Three copies of the parameters and five scalars.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from optim import a_dog, eval_params
      >>> scale = jnp.array([1.0, 100.0])
      >>> optimizer, x = a_dog(), jnp.array([1.0, 1.0])
      >>> state = optimizer.init(x)
      >>> for _ in range(300):
      ...     updates, state = optimizer.update(scale * x, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(jnp.sum(scale * eval_params(state, x) ** 2) < 1e-2)
      True

    Reference:
      Kreisler, Ivgi, Hinder and Carmon (2024), "Accelerated parameter-free stochastic
      optimization" (A-DoG); Levy, Yurtsever and Cevher (2018), "Online adaptive methods,
      universality and acceleration" (AcceleGrad).
    """

    def init(params: optax.Params) -> AcceleratedDistanceState:
        dtype = accumulator_dtype(params)
        radius = start_radius(params, initial_distance).astype(dtype)
        zero, one = jnp.zeros((), dtype), jnp.ones((), dtype)
        start = jax.tree.map(jnp.array, params)  # a copy: the caller may donate the parameters
        return AcceleratedDistanceState(
            **no_steps(),
            start=start,
            anchor=wide(params),
            solution=wide(params),
            total=zero,
            distance=radius,
            distances=radius,
            weight=one,
            root=zero,
        )

    def update(
        updates: optax.Updates,
        state: AcceleratedDistanceState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, AcceleratedDistanceState]:
        del extra
        params = needs_params("a_dog", params)
        gradient, point = wide(updates), wide(params)
        alpha, dtype = state.weight, state.root.dtype
        root = jnp.hypot(state.root, alpha * norm(gradient).astype(dtype))
        eta = divide(state.distance, root)
        anchor = _step(state.anchor, gradient, alpha * eta)
        short = _step(point, gradient, eta)
        share = alpha * state.distance
        total = state.total + share
        solution = _mix(state.solution, short, share / total)
        distance = jnp.maximum(state.distance, norm(difference(anchor, state.start)).astype(dtype))
        distances = state.distances + distance
        alpha = jnp.maximum(1, 0.5 * distances / distance)
        query = _mix(short, anchor, 1 / alpha)
        steps = cast_like(jax.tree.map(jnp.subtract, query, point), params)
        new = state._replace(
            anchor=anchor,
            solution=solution,
            total=total,
            distance=distance,
            distances=distances,
            weight=alpha,
            root=root,
        )
        return settle(state, new, updates, steps)

    plain = optax.GradientTransformationExtraArgs(init, update)
    return optax.chain(scale_by_norm_power(1.0), plain) if normalize else plain


def _step(x: optax.Params, gradient: optax.Updates, rate: Array) -> optax.Params:
    return jax.tree.map(lambda x, g: x - rate.astype(x.dtype) * g.astype(x.dtype), x, gradient)


def _mix(a: optax.Params, b: optax.Params, share: Array) -> optax.Params:
    return jax.tree.map(lambda a, b: a + share.astype(a.dtype) * (b - a), a, b)
