"""Step sizes from distances and gradients alone: DoG, layer-wise DoG and DoWG."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from optim.steps import no_steps, settle
from optim.tree import accumulator_dtype, cast_like, difference, divide, needs_params, norm


class DistanceState(NamedTuple):
    """State of `dog`, `layerwise_dog` (K leaves) and `dowg`; K = 1 but for the second.

    Attributes:
      count: steps taken.
      skipped: steps whose update was not finite, and was not made.
      start: the first parameters.
      distance: largest distance from the start so far.
      root: square root of the sum of squared, perhaps weighted, norms of gradients.
    """

    count: Int[Array, ""]
    skipped: Int[Array, ""]
    start: optax.Params
    distance: Float[Array, " K"]
    root: Float[Array, " K"]


def start_radius(params: optax.Params, initial_distance: float | None) -> Array:
    """The first radius: a fraction of 1 + ‖x₀‖ that the dtype of the parameters can resolve."""
    if initial_distance is None:
        dtypes = [jnp.result_type(x) for x in jax.tree.leaves(params)]
        coarsest = max((float(jnp.finfo(d).eps) for d in dtypes), default=0.0)
        initial_distance = max(1e-6, 8 * coarsest)
    return initial_distance * (1 + norm(params))


def _transformation(
    owner: str, initial_distance: float | None, *, layerwise: bool = False, weighted: bool = False
) -> optax.GradientTransformationExtraArgs:
    def groups(tree: Any) -> list:
        return jax.tree.leaves(tree) if layerwise else [tree]

    def measure(tree: Any, dtype: Any) -> Array:
        return jnp.array([*map(norm, groups(tree))], dtype)

    def init(params: optax.Params) -> DistanceState:
        dtype = accumulator_dtype(params)
        radii = [start_radius(part, initial_distance) for part in groups(params)]
        start = jax.tree.map(jnp.array, params)  # a copy: the caller may donate the parameters
        zero = jnp.zeros(len(radii), dtype)
        return DistanceState(**no_steps(), start=start, distance=jnp.array(radii, dtype), root=zero)

    def update(
        updates: optax.Updates,
        state: DistanceState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, DistanceState]:
        del extra
        params = needs_params(owner, params)
        dtype = state.root.dtype
        moved = measure(difference(params, state.start), dtype)
        distance = jnp.maximum(state.distance, moved)
        weight = distance if weighted else jnp.ones((), dtype)
        root = jnp.hypot(state.root, weight * measure(updates, dtype))
        rate = divide(weight * distance, root)
        leaves, structure = jax.tree.flatten(updates)
        steps = [-rate[i if layerwise else 0] * g.astype(dtype) for i, g in enumerate(leaves)]
        steps = cast_like(jax.tree.unflatten(structure, steps), params)
        return settle(state, state._replace(distance=distance, root=root), updates, steps)

    return optax.GradientTransformationExtraArgs(init, update)


def dog(initial_distance: float | None = None) -> optax.GradientTransformationExtraArgs:
    r"""Distance over gradients: stochastic gradient descent without a learning rate.

    .. math::

       x_{t+1} = x_t - \frac{\bar r_t}{\sqrt{G_t}} g_t, \quad
       \bar r_t = \max\{r_ε, \max_{k \le t} ‖x_k - x_0‖\}, \quad G_t = \sum_{k \le t} ‖g_k‖^2

    with r_ε = α(1 + ‖x_0‖). The answer is the average of the iterates: wrap it in
    `optim.polynomial_average`. Nothing that scales steps or gives them memory (momentum, Adam)
    belongs before or after it, since it would feed back through the distance; clipping and
    normalising the gradient do.

    It never forgets a gradient, so that astronomic first gradients leave it still; and it is
    slow where the loss is ill-conditioned. On most variational problems of
    ``benchmarks/optimizers.py`` it ends 2 to 30 nats behind tuned Adam, from one start it does
    not move at all: prefer `optim.a_dog` after `optim.clip_by_ema_norm`. What differs from
    ``optax.contrib.dog``: accumulators are in at least float32, the smallest radius is one the
    parameters' dtype can resolve, there is no ε (steps do not change if the loss is scaled), and
    sums of squares do not overflow.

    Args:
      initial_distance: α; 10⁻⁶, or 8 units of rounding of the parameters where that is more.

    Returns:
      A transformation that needs ``params``, the actual ones also in ``init``. Its updates are
      descent steps.

    Raises:
      ValueError: if ``update`` gets no ``params``.

    Complexity:
      One copy of the parameters and two scalars.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from optim import average_params, dog, polynomial_average
      >>> optimizer, x = polynomial_average(dog()), jnp.array([3.0, -2.0])
      >>> state = optimizer.init(x)
      >>> for _ in range(200):
      ...     updates, state = optimizer.update(2 * x, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(jnp.all(jnp.abs(average_params(state, x)) < 0.1))
      True

    Reference:
      Ivgi, Hinder and Carmon (2023), "DoG is SGD's best friend: a parameter-free dynamic step
      size schedule", equation (DoG).
    """
    return _transformation("dog", initial_distance)


def layerwise_dog(initial_distance: float | None = None) -> optax.GradientTransformationExtraArgs:
    r"""L-DoG: `dog` for every leaf of the parameters by itself.

    Each leaf has its own start, distance and sum. Made for the layers of networks. On the
    location and scale of a variational family it is unsafe: a leaf's steps grow with the
    distance that another leaf's motion makes it travel. On most variational problems of
    ``benchmarks/optimizers.py`` it ends 2 to 60 nats behind tuned Adam, with single runs off by
    thousands, and from one start it does not move. Prefer `optim.a_dog` there.

    Args:
      initial_distance: as in `dog`, times 1 + the norm of the leaf.

    Returns:
      A transformation as `dog`.

    Raises:
      ValueError: if ``update`` gets no ``params``.

    Complexity:
      One copy of the parameters and two scalars a leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> from optim import layerwise_dog
      >>> optimizer, x = layerwise_dog(0.1), {"w": jnp.array([3.0, 4.0]), "b": jnp.array(1.0)}
      >>> updates, state = optimizer.update(x, optimizer.init(x), x)
      >>> bool(jnp.isclose(jnp.linalg.norm(updates["w"]), 0.1 * (1 + 5.0)))  # of its own norm
      True

    Reference:
      Ivgi, Hinder and Carmon (2023), the variant L-DoG.
    """
    return _transformation("layerwise_dog", initial_distance, layerwise=True)


def dowg(initial_distance: float | None = None) -> optax.GradientTransformationExtraArgs:
    r"""Distance over weighted gradients: bolder than `dog` once it has come a long way.

    .. math::

       x_{t+1} = x_t - \frac{\bar r_t^2}{\sqrt{v_t}} g_t, \qquad
       v_t = \sum_{k \le t} \bar r_k^2 ‖g_k‖^2

    with the distance of `dog`: what was seen while still close to the start counts for less.
    Everything said of `dog` holds: average the iterates, put no momentum before it. It is as
    good as tuned Adam on some variational problems and 5 to 25 nats behind on others; one huge
    gradient, as where a scale comes near zero, can throw it out for good, and a start with
    nothing but huge ones holds it fast (``benchmarks/optimizers.py``). It differs
    from ``optax.contrib.dowg`` as `dog` does, and in its first radius, which is relative to the
    parameters, not 0.01.

    Args:
      initial_distance: as in `dog`.

    Returns:
      A transformation as `dog`.

    Raises:
      ValueError: if ``update`` gets no ``params``.

    Complexity:
      One copy of the parameters and two scalars.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from optim import average_params, dowg, polynomial_average
      >>> optimizer, x = polynomial_average(dowg()), jnp.array([3.0, -2.0])
      >>> state = optimizer.init(x)
      >>> for _ in range(100):
      ...     updates, state = optimizer.update(2 * x, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(jnp.all(jnp.abs(average_params(state, x)) < 0.1))
      True

    Reference:
      Khaled, Mishchenko and Jin (2023), "DoWG unleashed: an efficient universal parameter-free
      gradient descent method", Algorithm 1.
    """
    return _transformation("dowg", initial_distance, weighted=True)
