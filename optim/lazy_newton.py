"""Newton's method with Hessians that are measured now and then, averaged, and regularised."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from optim.backtracking import Trial, backtrack
from optim.curvature import Curvature, check_curvature, debiased_weight, measured
from optim.oracle import Oracle
from optim.tree import divide, norm
from optim.vectors import Point, vector_transformation


class Spectrum(NamedTuple):
    """An average of Hessians and its eigendecomposition."""

    measurements: Array  # shape=(), dtype=int32
    hessian: Float[Array, "D D"]
    values: Float[Array, " D"]
    vectors: Float[Array, "D D"]


class LazyNewtonState(NamedTuple):
    """The method's part of the state of `lazy_newton`.

    Attributes:
      spectrum: an average of Hessians and its eigendecomposition.
      smoothness: M.
      tries: trial points of the last step, shape ``()``.
    """

    spectrum: Spectrum
    smoothness: Float[Array, ""]
    tries: Array


def lazy_newton(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    regularization: Literal["radius", "gradient", "cubic"] = "radius",
    smoothness: float = 1.0,
    adaptive: bool = True,
    period: int = 10,
    decay: float = 0.9,
    curvature: Curvature = "lagged",
    key: Array | None = None,
    max_tries: int = 8,
) -> optax.GradientTransformationExtraArgs:
    r"""Regularised Newton steps from an averaged Hessian, measured every few steps.

    .. math:: x_{k+1} = x_k - ρ\,(|\bar H_k| + λ_k I)^{-1} g_k

    with one of three regularisations:

    - ``"radius"``: :math:`λ_k = M\|g_k\|`, so that 1/M bounds the length of the step;
    - ``"gradient"``: :math:`λ_k = \sqrt{M \|g_k\|}`;
    - ``"cubic"``: the step minimises
      :math:`⟨g, s⟩ + \tfrac12 ⟨\bar H s, s⟩ + \tfrac M6\|s\|^3`, which is the step above with the
      signed Hessian and :math:`λ = \tfrac M2\|s\|`.

    If ``adaptive``, M is doubled until :math:`⟨g^+, x - x^+⟩ \ge \|g^+\|^2 / (4 λ)`, with
    :math:`g^+` the gradient at the trial point and the same randomness, and halved after every
    step; if no try is accepted, the step is zero. A test of gradients, unlike one of losses, also
    holds where a stochastic gradient is not the derivative of the sampled loss, and does not
    suffer from rounding; where the loss is convex it implies that the loss falls by as much.
    :math:`\bar H` is an exponential average of the Hessians,
    kept as its eigendecomposition, so that a step costs O(D²) whatever λ is. :math:`|H|` is H
    with the absolute values of its eigenvalues: H itself where the loss is convex.

    The first two references assume exact gradients. With noise, what makes the method work is
    that the Hessian does not share the gradient's sample (``curvature``) and is averaged. The
    test then keeps λ above the sampling error of a Hessian: with few draws and many parameters
    steps are shorter than they need be. Under fresh noise it is behind tuned Adam by tens of nats
    or more in most problems of ``benchmarks.optimizers`` (network, cancer, Gaussian and both
    Poisson ones), where one Hessian costs two gradients for each parameter, and does well on
    fixed draws: use it there. Without ``adaptive`` it can diverge where the scale starts far from
    the optimum.
    Under `jax.vmap` both sides of a condition are computed, so the Hessian is at every step.

    Args:
      learning_rate: ρ, a number or a schedule; scales the accepted step.
      regularization: which of the three.
      smoothness: M; where it starts if adaptive.
      adaptive: adapt M; takes one further gradient for each try, and refuses
        `optax.MultiSteps`.
      period: steps from one Hessian to the next.
      decay: weight of the past in the average of Hessians, per measurement; 0 keeps the last
        one only, which is right for losses without noise.
      curvature: "lagged" uses a Hessian from the step after it was measured, "fresh" measures
        it at independent randomness, "same" uses it at once, for losses without noise.
      key: for "fresh".
      max_tries: trial points in a step, at most.

    Returns:
      A transformation that needs ``params`` and ``value_fn``.

    Raises:
      ValueError: if an option is unknown; at the first step, if there are more parameters than
        the oracle allows in a dense Hessian.

    Complexity:
      Time: D Hessian-vector products and O(D³) every ``period`` steps, else O(D²) and one
      gradient for each try. Memory: O(D²).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from optim import Oracle, lazy_newton, make_step
      >>> loss = lambda x: jnp.sum(jnp.cosh(jnp.array([1.0, 30.0]) * x))
      >>> optimizer = lazy_newton(decay=0.0, curvature="same")
      >>> step, x = jax.jit(make_step(lambda key: Oracle(loss), optimizer)), jnp.array([3.0, 0.1])
      >>> state = optimizer.init(x)
      >>> for t in range(40):
      ...     x, state, value = step(jax.random.key(t), x, state)
      >>> bool(value < 2.0 + 1e-5)
      True

    Reference: Doikov, Chayti and Jaggi (2023), "Second-order optimization with lazy Hessians",
    for the Hessian and the first two regularisations of exact gradients; Semenov, Jaggi and
    Doikov (2025), "Gradient-normalized smoothness for optimization with approximate Hessians",
    for "radius" (there γ = 1/M); the test is that of Doikov, Mishchenko and Nesterov (2024),
    "Super-universal regularized Newton method". :math:`|H|` and the average are
    ours.
    """
    needs = check_curvature("lazy_newton", curvature, key)
    if regularization not in _DAMPING:
        raise ValueError(
            f"lazy_newton: expected regularization in {sorted(_DAMPING)}; got {regularization!r}."
        )
    damped = _DAMPING[regularization]

    def init(x: Float[Array, " D"], _: Callable) -> LazyNewtonState:
        zero = jnp.zeros((), jnp.int32)
        eye = jnp.eye(len(x), dtype=x.dtype)
        spectrum = Spectrum(zero, jnp.zeros_like(eye), jnp.ones_like(x), eye)
        return LazyNewtonState(spectrum, jnp.asarray(smoothness, x.dtype), zero)

    def measure(old: Spectrum, oracle: Oracle, x: Array) -> Spectrum:
        count = old.measurements + 1
        weight = debiased_weight(decay, count, x.dtype)
        hessian = old.hessian + weight * (oracle.dense_hessian(x) - old.hessian)
        values, vectors = jnp.linalg.eigh(hessian)
        return Spectrum(count, hessian, values, vectors)

    def step(g: Array, state: LazyNewtonState, at: Point) -> tuple[Array, LazyNewtonState]:
        used, kept = measured(
            lambda old, oracle: measure(old, oracle, at.x),
            state.spectrum,
            at,
            curvature,
            period,
            key,
        )
        coordinates = used.vectors.T @ g

        def direction(smoothness: Array) -> tuple[Array, Array]:
            s, damping = damped(coordinates, used.values, smoothness)
            return used.vectors @ s, damping

        if not adaptive:
            fixed = jnp.asarray(smoothness, g.dtype)
            return direction(fixed)[0], LazyNewtonState(kept, fixed, state.tries)

        top = jnp.max(jnp.abs(used.values))

        def attempt(smoothness: Array) -> Trial:
            s, damping = direction(smoothness)
            new = at.oracle.grad(at.x - s)
            size = norm(new)  # squares could overflow
            accepted = 4 * damping * (divide(new, size) @ s) >= size
            return Trial(s, new, accepted, divide(damping, top))

        s, new, tries = backtrack(attempt, state.smoothness, at, top, max_tries)
        return s, LazyNewtonState(kept, new, tries)

    return vector_transformation(
        "lazy_newton", init, step, learning_rate, needs=needs, compares_values=adaptive
    )


def _over(c: Array, denominator: Array) -> Array:
    """C / denominator, and 0 where both vanish."""
    return jnp.where(c == 0, 0, c / jnp.maximum(denominator, jnp.finfo(c.dtype).tiny))


def _radius(c: Array, values: Array, smoothness: Array) -> tuple[Array, Array]:
    damping = smoothness * norm(c)
    return _over(c, jnp.abs(values) + damping), damping


def _gradient(c: Array, values: Array, smoothness: Array) -> tuple[Array, Array]:
    damping = jnp.sqrt(smoothness) * jnp.sqrt(norm(c))
    return _over(c, jnp.abs(values) + damping), damping


def _cubic(c: Array, values: Array, smoothness: Array) -> tuple[Array, Array]:
    """The global minimiser of the cubic model, by bisection of its secular equation.

    ‖c / (Λ + M r / 2)‖ - r falls in r; its root is the length of the step, unless it is negative
    already at the least r that makes Λ + M r / 2 positive semidefinite (the hard case), where
    the bottom eigenvector makes up the length.
    """
    bottom = values[0]
    least = jnp.maximum(0.0, -2 * bottom / smoothness)
    reach = jnp.sqrt(2 * smoothness) * jnp.sqrt(norm(c))
    most = (jnp.hypot(bottom, reach) + jnp.abs(bottom)) / smoothness
    most = jnp.maximum(most, least)

    def solve(r: Array) -> Array:
        return _over(c, values + smoothness * r / 2)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        long = norm(solve(middle)) > middle
        return jnp.where(long, middle, low), jnp.where(long, high, middle)

    _, r = jax.lax.fori_loop(0, 60, halve, (least, most))
    s = solve(r)
    short = jnp.sqrt(jnp.maximum(r**2 - jnp.sum(s**2), 0))
    hard = (bottom < 0) & (short > 1e-3 * r)
    return s + jnp.where(hard, short, 0) * (jnp.arange(len(c)) == 0), smoothness * r / 2


_DAMPING: dict[str, Callable[[Array, Array, Array], tuple[Array, Array]]] = {
    "radius": _radius,
    "gradient": _gradient,
    "cubic": _cubic,
}
