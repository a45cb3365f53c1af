r"""Minimax problems: extragradient and its relatives, which converge where descent-ascent circles.

For :math:`\min_x \max_y f(x, y)` the "gradient" is :math:`F = (∇_x f, -∇_y f)`, of
`saddle_gradient`; it is given to ``update`` as a gradient is. Plain descent along F goes round
saddle points of bilinear games, outwards.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from optim.steps import no_steps, rate_at, settle, with_extra_args
from optim.tree import cast_like, difference, needs_params, wide


class ExtragradientState(NamedTuple):
    """State of `extragradient` and `past_extragradient`.

    Attributes:
      count: steps taken.
      skipped: steps whose update was not finite, and was not made.
      solution: the iterate from which both steps begin; at least float32.
      inner: state of the optimizer that makes the steps.
    """

    count: Int[Array, ""]
    skipped: Int[Array, ""]
    solution: optax.Params
    inner: optax.OptState


class AnchoredState(NamedTuple):
    """State of `anchored_gradient`.

    Attributes:
      count: steps taken.
      skipped: steps whose update was not finite, and was not made.
      anchor: where it began; at least float32.
      solution: the iterate; at least float32.
    """

    count: Int[Array, ""]
    skipped: Int[Array, ""]
    anchor: optax.Params
    solution: optax.Params


def saddle_gradient(f: Callable, *args: Any) -> Callable[[tuple], tuple[Array, tuple]]:
    r"""The value of f(x, y) and :math:`F = (∇_x f, -∇_y f)`.

    Args:
      f: a function of x, which minimises, y, which maximises, and ``args``.
      *args: what is passed on to ``f``.

    Returns:
      A function of the pair ``(x, y)``.

    Example:
      >>> from optim import saddle_gradient
      >>> [float(g) for g in saddle_gradient(lambda x, y: x * y)((2.0, 3.0))[1]]
      [3.0, -2.0]
    """

    def of(players: tuple) -> tuple[Array, tuple]:
        value, (x, y) = jax.value_and_grad(f, (0, 1))(*players, *args)
        return value, (x, jax.tree.map(jnp.negative, y))

    return of


def extragradient(
    base: optax.GradientTransformation, *, ratio: float = 1.0
) -> optax.GradientTransformationExtraArgs:
    r"""Extragradient: the step that a look ahead finds right.

    .. math:: \tilde z = z - γ F(z), \qquad z \leftarrow z - ρ γ F(\tilde z)

    with the steps -γF of ``base``: ``optax.sgd(γ)`` for extragradient itself, ``optax.adam(γ)`` for
    ExtraAdam, whose moments see both gradients. Calls of ``update`` alternate: the first takes F(z)
    and moves the parameters to z̃, the second takes F(z̃) and moves them to the new z. The answer
    is what `optim.eval_params` gives. Stochastic F should be of fresh samples in both.

    With a ratio ρ < 1 it is EG+, which converges also for some problems without monotonicity: for
    γ ≤ 1/L, where F is ρ'-negative comonotone, if ργ ≤ γ - 2ρ'.

    Args:
      base: any transformation, for instance around `two_timescale`.
      ratio: ρ, of the second step to the first.

    Returns:
      A transformation that needs ``params`` and passes extra arguments on to ``base``.

    Raises:
      ValueError: if ``update`` gets no ``params``.

    Complexity:
      Two gradients for a step, one a call; a copy of the parameters.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from optim import eval_params, extragradient, saddle_gradient
      >>> optimizer, z = extragradient(optax.sgd(0.5)), (jnp.array(1.0), jnp.array(1.0))
      >>> state = optimizer.init(z)
      >>> for _ in range(100):
      ...     _, gradient = saddle_gradient(lambda x, y: x * y)(z)
      ...     updates, state = optimizer.update(gradient, state, z)
      ...     z = optax.apply_updates(z, updates)
      >>> bool(abs(eval_params(state, z)[0]) < 1e-2)
      True

    Reference:
      Korpelevich (1976), "The extragradient method for finding saddle points and other problems";
      Gidel, Berard, Vignoud, Vincent and Lacoste-Julien (2019), "A variational inequality
      perspective on generative adversarial networks" (ExtraAdam); Diakonikolas, Daskalakis and
      Jordan (2021), "Efficient methods for structured nonconvex-nonconcave min-max optimization"
      (EG+).
    """
    base = with_extra_args(base)

    def init(params: optax.Params) -> ExtragradientState:
        return ExtragradientState(
            **no_steps(), solution=wide(params), inner=base.init(wide(params))
        )

    def update(
        updates: optax.Updates, state: ExtragradientState, params: Any = None, **extra: Any
    ) -> tuple[optax.Updates, ExtragradientState]:
        params = needs_params("extragradient", params)
        at = wide(params)
        steps, inner = base.update(wide(updates), state.inner, at, **extra)
        looking = state.count % 2 == 0

        def goal(z: Array, step: Array) -> Array:
            return z + jnp.where(looking, 1, jnp.asarray(ratio, z.dtype)) * step

        there = jax.tree.map(goal, state.solution, steps)
        solution = jax.tree.map(lambda a, b: jnp.where(looking, a, b), state.solution, there)
        new = state._replace(solution=solution, inner=inner)
        move = cast_like(difference(there, at), params)
        return settle(state, new, updates, move, own=solution)

    return optax.GradientTransformationExtraArgs(init, update)


def past_extragradient(
    base: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    r"""Past extragradient: looks ahead along the last gradient, so one is enough for a step.

    .. math:: \tilde z_t = z_t - γ F(\tilde z_{t-1}), \qquad z_{t+1} = z_t - γ F(\tilde z_t)

    with the steps -γF of ``base``, ``optax.sgd`` or for instance ``optax.adam``. The parameters are
    z̃, where gradients are wanted; `optim.eval_params` gives z. With constant γ the parameters go
    as those of ``optax.optimistic_gradient_descent``, whose first step is shorter.

    Args:
      base: any transformation.

    Returns:
      A transformation that needs ``params`` and passes extra arguments on to ``base``. Steps must
      be shorter than those of `extragradient`: on a rotation, γL < 1/√3.

    Raises:
      ValueError: if ``update`` gets no ``params``.

    Complexity:
      One gradient a step; a copy of the parameters.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from optim import past_extragradient, saddle_gradient
      >>> optimizer, z = past_extragradient(optax.sgd(0.4)), (jnp.array(1.0), jnp.array(1.0))
      >>> state = optimizer.init(z)
      >>> for _ in range(100):
      ...     _, gradient = saddle_gradient(lambda x, y: x * y)(z)
      ...     updates, state = optimizer.update(gradient, state, z)
      ...     z = optax.apply_updates(z, updates)
      >>> bool(abs(z[0]) < 1e-2)
      True

    Reference:
      Popov (1980), "A modification of the Arrow-Hurwicz method for search of saddle points"; Hsieh,
      Iutzeler, Malick and Mertikopoulos (2019), "On the convergence of single-call stochastic
      extra-gradient methods".
    """
    base = with_extra_args(base)

    def init(params: optax.Params) -> ExtragradientState:
        return ExtragradientState(
            **no_steps(), solution=wide(params), inner=base.init(wide(params))
        )

    def update(
        updates: optax.Updates, state: ExtragradientState, params: Any = None, **extra: Any
    ) -> tuple[optax.Updates, ExtragradientState]:
        params = needs_params("past_extragradient", params)
        at = wide(params)
        steps, inner = base.update(wide(updates), state.inner, at, **extra)
        solution = jax.tree.map(jnp.add, state.solution, steps)
        ahead = jax.tree.map(jnp.add, solution, steps)
        new = state._replace(solution=solution, inner=inner)
        move = cast_like(difference(ahead, at), params)
        return settle(state, new, updates, move, own=solution)

    return optax.GradientTransformationExtraArgs(init, update)


def anchored_gradient(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    r"""The accelerated optimistic gradient: past extragradient, drawn to where it began.

    .. math:: \tilde z_t = z_t - ηF(\tilde z_{t-1}) + \frac{z_0 - z_t}{t + 1}, \qquad
       z_{t+1} = z_t - ηF(\tilde z_t) + \frac{z_0 - z_t}{t + 1}

    from t = 1. For monotone F and :math:`η \le 1/(\sqrt 8 L)` the last iterate's residual is
    O(1/T), which is optimal, where that of extragradient is O(1/√T). The parameters are z̃, where
    gradients are wanted; `optim.eval_params` gives z. For exact F: with noise that does not fall
    it does not converge.

    Args:
      learning_rate: η, a number or an optax schedule.

    Returns:
      A transformation that needs ``params``.

    Raises:
      ValueError: if ``update`` gets no ``params``.

    Complexity:
      One gradient a step; two copies of the parameters.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from optim import anchored_gradient, eval_params, saddle_gradient
      >>> optimizer, z = anchored_gradient(0.3), (jnp.array(1.0), jnp.array(1.0))
      >>> state = optimizer.init(z)
      >>> for _ in range(200):
      ...     _, gradient = saddle_gradient(lambda x, y: x * y)(z)
      ...     updates, state = optimizer.update(gradient, state, z)
      ...     z = optax.apply_updates(z, updates)
      >>> bool(abs(eval_params(state, z)[0]) < 0.05)
      True

    Reference:
      Cai and Zheng (2023), "Doubly optimal no-regret learning in monotone games".
    """

    def init(params: optax.Params) -> AnchoredState:
        return AnchoredState(**no_steps(), anchor=wide(params), solution=wide(params))

    def update(
        updates: optax.Updates, state: AnchoredState, params: Any = None, **extra: Any
    ) -> tuple[optax.Updates, AnchoredState]:
        del extra
        params = needs_params("anchored_gradient", params)
        eta = rate_at(learning_rate, state.count)
        t = state.count + 1

        def move(z: Array, start: Array, g: Array, t: Array) -> Array:
            return z - eta.astype(z.dtype) * g + (start - z) / (t + 1).astype(z.dtype)

        given, start = wide(updates), state.anchor
        solution = jax.tree.map(lambda z, s, g: move(z, s, g, t), state.solution, start, given)
        ahead = jax.tree.map(lambda z, s, g: move(z, s, g, t + 1), solution, start, given)
        new = state._replace(solution=solution)
        return settle(state, new, updates, cast_like(difference(ahead, wide(params)), params))

    return optax.GradientTransformationExtraArgs(init, update)


def two_timescale(
    base: optax.GradientTransformation,
    timescale: float | Array,
    *,
    slow: Any = (True, False),
) -> optax.GradientTransformationExtraArgs:
    r"""Slow down one of two players: its steps are those of ``base`` over τ.

    .. math:: Λ = \operatorname{diag}(τ^{-1} I_x, I_y)

    Inside of `extragradient`, with τ large, limit points are local minimax points, also where the
    second player's curvature is degenerate (Chae, Kim and Kim 2024, "Two-timescale extragradient
    for finding local minimax points").

    Args:
      base: any transformation.
      timescale: τ ≥ 1; 10 to 100 is usual.
      slow: which parameters are slow: booleans in a tree, or in the upper part of one, as the
        parameters'; by default the first of a pair.

    Returns:
      A transformation.

    Raises:
      ValueError: at an update, if the parameters have no such part.

    Complexity:
      That of ``base``.

    Example:
      >>> import optax
      >>> from optim import two_timescale
      >>> optimizer = two_timescale(optax.sgd(1.0), 4.0)
      >>> [float(u) for u in optimizer.update((8.0, 8.0), optimizer.init((0.0, 0.0)))[0]]
      [-2.0, -8.0]
    """
    base = with_extra_args(base)

    def update(
        updates: optax.Updates, state: Any, params: Any = None, **extra: Any
    ) -> tuple[Any, Any]:
        steps, state = base.update(updates, state, params, **extra)
        try:
            labels = jax.tree.broadcast(slow, steps)
        except ValueError as error:
            raise ValueError(
                f"two_timescale: expected parameters with the parts of slow = {slow}; got "
                f"{jax.tree.structure(steps)}. Give slow as a tree of booleans for them."
            ) from error

        def scaled(u: Array, is_slow: bool) -> Array:  # noqa: FBT001
            return (u / jnp.asarray(timescale)).astype(jnp.result_type(u)) if is_slow else u

        return jax.tree.map(scaled, steps, labels), state

    return optax.GradientTransformationExtraArgs(base.init, update)
