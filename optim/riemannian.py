"""Adam, AMSGrad and AdaGrad for parameters on manifolds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Int

from optim.manifold import Manifold
from optim.steps import no_steps, rate_at, settle
from optim.tree import divide, needs_params, wide

ON, PROJECTED, OFF = 0, 1, 2


class ManifoldError(ValueError):
    """Parameters left their manifold between updates."""


class Moments(NamedTuple):
    """What is kept of the gradients of one leaf."""

    mean: Array  # a tangent, at least float32
    second: Array  # mean or sum of squared lengths, one number a point
    largest: Array  # the largest corrected second moment so far; of size 0 but for AMSGrad


class RiemannianState(NamedTuple):
    """State of `riemannian_adam`, `riemannian_amsgrad` and `riemannian_adagrad`.

    Attributes:
      count: steps taken.
      skipped: steps whose update was not finite, and was not made.
      status: ON, PROJECTED once, or OFF the manifold again: then updates are NaN.
      moments: of gradients, for each leaf.
    """

    count: Int[Array, ""]
    skipped: Int[Array, ""]
    status: Int[Array, ""]
    moments: list[Moments]


# moments, squared length of the gradient, step number -> second, largest, what to divide by
Accumulate = Callable[[Moments, Array, Array], tuple[Array, Array, Array]]


def _transformation(
    owner: str,
    learning_rate: optax.ScalarOrSchedule,
    manifolds: Any,
    b1: Any,
    accumulate: Accumulate,
    eps: Any,
    *,
    keeps_largest: bool = False,
) -> optax.GradientTransformationExtraArgs:
    def points_of(params: optax.Params) -> list[tuple[Manifold, Array]]:
        def spread(manifold: Manifold, part: Any) -> list:
            return [(manifold, x) for x in jax.tree.leaves(wide(part))]

        matched = jax.tree.map(spread, manifolds, params, is_leaf=_is_manifold)
        return jax.tree.leaves(matched, is_leaf=_is_point)

    def init(params: optax.Params) -> RiemannianState:
        moments = []
        for manifold, x in points_of(params):
            manifold.check(x.shape)
            second = jnp.zeros_like(manifold.inner(x, x, x))
            largest = second if keeps_largest else second.ravel()[:0]
            moments.append(Moments(jnp.zeros_like(x), second, largest))
        return RiemannianState(**no_steps(), status=jnp.asarray(ON, jnp.int32), moments=moments)

    def update(
        updates: optax.Updates,
        state: RiemannianState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, RiemannianState]:
        del extra
        points = points_of(needs_params(owner, params))
        leaves, structure = jax.tree.flatten(params)
        status = _new_status(state.status, points, leaves)
        kept_points = lambda: [x for _, x in points]
        projected = lambda: [m.project(x) for m, x in points]
        if isinstance(status, Tracer):
            here = jax.lax.cond(status > state.status, projected, kept_points)
        elif status == OFF:
            raise ManifoldError(
                f"{owner}: expected parameters on their manifolds; they left them again after "
                "having been projected once. Put nothing that changes updates after it in a "
                "chain, and nothing else that changes these parameters in the loop."
            )
        else:
            here = projected() if status > state.status else kept_points()
        count = state.count + 1
        rate = rate_at(learning_rate, state.count) / (1 - b1**count)
        steps, moments = [], []
        parts = zip(points, here, jax.tree.leaves(wide(updates)), state.moments, strict=True)
        for (manifold, old), x, gradient, kept in parts:
            tangent = manifold.gradient(x, gradient)
            square = manifold.inner(x, tangent, tangent)
            second, largest, scale = accumulate(kept, square, count)
            mean = b1 * kept.mean + (1 - b1) * tangent
            size = jnp.sqrt(scale) + eps
            step = -rate * divide(mean, size)
            new, mean = manifold.move(x, step.astype(x.dtype), mean)
            steps.append(new - old)
            new_moments = Moments(mean, second, largest)
            moments.append(jax.tree.map(lambda a, b: a.astype(b.dtype), new_moments, kept))
        steps = [u.astype(jnp.result_type(p)) for u, p in zip(steps, leaves, strict=True)]
        steps, new = settle(state, state._replace(moments=moments), updates, steps)
        steps = [jnp.where(status == OFF, jnp.nan, u) for u in steps]
        done = (new.count > state.count) | (status == OFF)  # a skipped step projects nothing
        status = jnp.where(done, status, state.status)
        return jax.tree.unflatten(structure, steps), new._replace(status=status)

    return optax.GradientTransformationExtraArgs(init, update)


def _is_manifold(node: Any) -> bool:
    return isinstance(node, Manifold)


def _is_point(node: Any) -> bool:
    return isinstance(node, tuple) and len(node) == 2 and _is_manifold(node[0])


def _new_status(old: Array, points: list[tuple[Manifold, Array]], leaves: list) -> Array:
    """Whether the parameters, up to rounding of their own dtype, are where they should be."""
    off = [jnp.zeros((), bool)]
    for (manifold, x), leaf in zip(points, leaves, strict=True):
        off.append(manifold.deviation(x) > jnp.finfo(jnp.result_type(leaf)).eps ** 0.5)
    return jnp.where(jnp.any(jnp.stack(off)), jnp.minimum(old + 1, OFF), old)


def riemannian_adam(
    learning_rate: optax.ScalarOrSchedule,
    manifolds: Any,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam on a product of manifolds, adaptive across its factors.

    .. math::

       m_t = β_1 τ_{t-1} + (1 - β_1) g_t, \quad v_t = β_2 v_{t-1} + (1 - β_2) ‖g_t‖_{x_t}^2,
       \quad x_{t+1} = R_{x_t}\Big(-η_t \frac{\hat m_t}{\sqrt{\hat v_t} + ε}\Big)

    with g the Riemannian gradient, R the manifold's retraction, τ_t the mean m_t carried to
    x_{t+1}, and hats for Adam's bias corrections (which the paper does without). Each point has
    *one* second moment, since one an entry would not be a property of the manifold; on
    `Euclidean` leaves every entry is a point and this is ``optax.adam``.

    The updates lead from x to the new point, so that ``optax.apply_updates`` lands on the
    manifold: nothing that changes updates belongs behind this in a chain. Parameters found off
    their manifold, by more than rounding, are projected once; if they leave it again, that is
    an error. ``state.status`` is 0, 1 or 2 accordingly. (``optax.radam`` is *rectified* Adam.)

    Args:
      learning_rate: η, a number or an optax schedule.
      manifolds: a `Manifold`, or a tree of them whose leaves stand for leaves or subtrees of
        the parameters.
      b1: β₁.
      b2: β₂.
      eps: ε.

    Returns:
      A transformation that needs ``params``.

    Raises:
      ValueError: in ``init``, if a leaf has a shape its manifold does not allow; in ``update``,
        if there are no ``params``.
      ManifoldError: in an ``update`` outside of ``jit``, if parameters that were projected once
        are off their manifold again. Inside, the updates are NaN and the status says why.

    Complexity:
      A tangent and a number a point; time is the manifold's.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from optim import Sphere, riemannian_adam
      >>> matrix = jnp.diag(jnp.array([3.0, 2.0, 1.0]))
      >>> x = jnp.array([0.6, 0.0, 0.8])
      >>> optimizer = riemannian_adam(optax.exponential_decay(0.3, 20, 0.5), Sphere())
      >>> state = optimizer.init(x)
      >>> for _ in range(100):
      ...     updates, state = optimizer.update(-matrix @ x, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(abs(x[0]) > 0.999)
      True

    Reference:
      Bécigneul and Ganea (2019), "Riemannian adaptive optimization methods" (RAdam).
    """
    accumulate = _exponential(b2)
    return _transformation("riemannian_adam", learning_rate, manifolds, b1, accumulate, eps)


def riemannian_amsgrad(
    learning_rate: optax.ScalarOrSchedule,
    manifolds: Any,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """AMSGrad on a product of manifolds: `riemannian_adam` whose steps never grow back.

    It divides by the root of the largest v̂ so far. This is the variant with a proof of
    convergence (for geodesically convex losses and decaying η and β₁); in practice huge first
    gradients slow it down for good. The paper's RAMSGrad, with bias corrections as in
    ``optax.amsgrad``.

    Args:
      learning_rate: η, a number or an optax schedule.
      manifolds: a `Manifold`, or a tree of them, as of `riemannian_adam`.
      b1: β₁.
      b2: β₂.
      eps: ε.

    Returns:
      A transformation that needs ``params``; errors are those of `riemannian_adam`.

    Complexity:
      A tangent and two numbers a point; time is the manifold's.

    Reference:
      Bécigneul and Ganea (2019), "Riemannian adaptive optimization methods".
    """
    accumulate = _largest(_exponential(b2))
    return _transformation(
        "riemannian_amsgrad", learning_rate, manifolds, b1, accumulate, eps, keeps_largest=True
    )


def riemannian_adagrad(
    learning_rate: optax.ScalarOrSchedule, manifolds: Any, *, eps: float = 1e-8
) -> optax.GradientTransformationExtraArgs:
    r"""AdaGrad on a product of manifolds.

    .. math:: v_t = v_{t-1} + ‖g_t‖_{x_t}^2, \qquad
       x_{t+1} = R_{x_t}\Big(-η_t \frac{g_t}{\sqrt{v_t} + ε}\Big)

    Args:
      learning_rate: η, a number or an optax schedule.
      manifolds: a `Manifold`, or a tree of them, as of `riemannian_adam`.
      eps: ε.

    Returns:
      A transformation that needs ``params``; errors are those of `riemannian_adam`.

    Complexity:
      A tangent and a number a point; time is the manifold's.

    Reference:
      Bécigneul and Ganea (2019), "Riemannian adaptive optimization methods".
    """
    return _transformation("riemannian_adagrad", learning_rate, manifolds, 0.0, _total, eps)


def _exponential(b2: Any) -> Accumulate:
    def accumulate(kept: Moments, square: Array, count: Array) -> tuple[Array, Array, Array]:
        second = b2 * kept.second + (1 - b2) * square
        return second, kept.largest, second / (1 - b2**count)

    return accumulate


def _largest(inner: Accumulate) -> Accumulate:
    def accumulate(kept: Moments, square: Array, count: Array) -> tuple[Array, Array, Array]:
        second, largest, corrected = inner(kept, square, count)
        largest = jnp.maximum(largest, corrected)
        return second, largest, largest

    return accumulate


def _total(kept: Moments, square: Array, count: Array) -> tuple[Array, Array, Array]:
    del count
    second = kept.second + square
    return second, kept.largest, second
