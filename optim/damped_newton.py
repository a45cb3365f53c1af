"""Damped Newton methods: step lengths from the Newton decrement. For losses without noise."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from optim.backtracking import Trial, backtrack
from optim.vectors import Point, vector_transformation


class DampedNewtonState(NamedTuple):
    """The method's part of the state of `damped_newton`.

    Attributes:
      smoothness: σ of ``"universal"``, else constant.
      tries: trial points of the last step, shape ``()``.
    """

    smoothness: Float[Array, ""]
    tries: Array


def damped_newton(
    rule: Literal["aicn", "root", "universal"] = "universal",
    *,
    smoothness: float = 1.0,
    order: float = 3.0,
    exponent: float = 1.0,
    max_tries: int = 30,
) -> optax.GradientTransformationExtraArgs:
    r"""Newton steps of a length that gives global convergence. For losses without noise.

    .. math::

       x_{k+1} = x_k - α_k n_k, \qquad n_k = |H_k|^{-1} g_k, \qquad
       \hat g_k = \sqrt{g_k^T n_k}

    - ``"aicn"``: :math:`α = 2 / (1 + \sqrt{1 + 2 L \hat g})`, invariant under affine maps;
    - ``"root"``: :math:`α = 1 / (1 + θ)`,
      :math:`θ = (9 M)^{1/(q-1)} \hat g^{(q-2)/(q-1)}`, q the ``order``: 2 for a Hessian of
      bounded variation, 3 for a Lipschitz Hessian, 4 for a Lipschitz third derivative;
    - ``"universal"``: :math:`α = 1 / (1 + θ_j)`, :math:`θ_j = 2^j σ \hat g^β`, for the first
      j = 0, 1, ... with
      :math:`2 α θ_j ⟨∇f(x^+), n⟩ \ge ∇f(x^+)^T |H|^{-1} ∇f(x^+)`; then σ becomes
      :math:`2^{j-1} σ`.

    The theory is for convex losses, where :math:`|H| = H`; elsewhere :math:`|H|`, the Hessian
    with absolute eigenvalues, keeps the direction one of descent. On losses whose randomness
    changes from step to step, "aicn" diverged or stalled in a comparison on Gaussian variational
    families, since Hessian and gradient share their sample: take another method there. On fixed
    draws (``benchmarks/optimizers.py``) "universal" found the optimum of schools; for the 62
    parameters of cancer a budget of 800 gradients, six Hessians, was not enough.

    Args:
      rule: which of the three.
      smoothness: L, M, or the first σ.
      order: q of "root".
      exponent: β of "universal", from 2/3 to 1.
      max_tries: trial points of "universal" in a step; if none is accepted the step is zero.

    Returns:
      A transformation that needs ``params`` and ``value_fn``; "universal" refuses
      `optax.MultiSteps`.

    Raises:
      ValueError: if the rule is unknown.

    Complexity:
      D Hessian-vector products, O(D³) time and O(D²) memory; one gradient for each try.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from optim import Oracle, damped_newton, make_step
      >>> loss = lambda x: jnp.sum(jnp.logaddexp(0.0, jnp.array([1.0, -50.0]) * x)) + 1e-3 * x @ x
      >>> optimizer = damped_newton()
      >>> step, x = jax.jit(make_step(lambda key: Oracle(loss), optimizer)), jnp.array([5.0, 2.0])
      >>> state = optimizer.init(x)
      >>> for t in range(50):
      ...     x, state, value = step(jax.random.key(t), x, state)
      >>> bool(jnp.linalg.norm(jax.grad(loss)(x)) < 1e-3)
      True

    Reference: Hanzely, Kamzolov, Pasechnyuk, Gasnikov, Richtárik and Takáč (2022), "A damped
    Newton method achieves global O(1/k²) and local quadratic convergence rate", for "aicn";
    Hanzely, Abdukhakimov and Takáč (2024), "Damped Newton method with near-optimal global
    O(k⁻³) convergence rate", for "root" and "universal".
    """
    if rule not in ("aicn", "root", "universal"):
        raise ValueError(
            f"damped_newton: expected rule 'aicn', 'root' or 'universal'; got {rule!r}."
        )

    def init(x: Float[Array, " D"], _: Callable) -> DampedNewtonState:
        return DampedNewtonState(jnp.asarray(smoothness, x.dtype), jnp.zeros((), jnp.int32))

    def step(g: Array, state: DampedNewtonState, at: Point) -> tuple[Array, DampedNewtonState]:
        values, vectors = jnp.linalg.eigh(at.oracle.dense_hessian(at.x))
        top = jnp.max(jnp.abs(values))
        floor = jnp.maximum(jnp.finfo(g.dtype).eps * top, jnp.finfo(g.dtype).tiny)
        size = jnp.maximum(jnp.abs(values), floor)
        inverse = lambda v: vectors @ ((vectors.T @ v) / size)
        newton = inverse(g)
        decrement = jnp.sqrt(g @ newton)
        fixed = DampedNewtonState(jnp.asarray(smoothness, g.dtype), state.tries)
        if rule == "aicn":
            scaled = jnp.sqrt(1 + 2 * fixed.smoothness * decrement)
            return 2 / (1 + scaled) * newton, fixed
        if rule == "root":
            theta = (9 * fixed.smoothness) ** (1 / (order - 1)) * decrement ** (
                (order - 2) / (order - 1)
            )
            return newton / (1 + theta), fixed

        def attempt(smoothness: Array) -> Trial:
            theta = smoothness * decrement**exponent
            s = newton / (1 + theta)
            new = at.oracle.grad(at.x - s)
            accepted = new @ inverse(new) <= 2 * theta / (1 + theta) * (new @ newton)
            return Trial(s, new, accepted, theta)

        s, new, tries = backtrack(attempt, state.smoothness, at, top, max_tries)
        return s, DampedNewtonState(new, tries)

    return vector_transformation("damped_newton", init, step, compares_values=rule == "universal")
