"""Entropic optimal transport by Sinkhorn's iterations in the logarithm."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vi.distances.shapes import samples
from vi.module import module

CHECK_EVERY = 10  # steps between looks at the marginals


@module
class Plan:
    r"""An entropic transport plan by its potentials.

    .. math:: P_{ij} = a_i b_j \exp((f_i + g_j - C_{ij}) / ε)

    Attributes:
      cost: C, shape ``(N, M)``.
      source: a, masses, shape ``(N,)``.
      sink: b, masses, shape ``(M,)``.
      regularization: ε, in the units of C.
      f: potential of the source, shape ``(N,)``.
      g: potential of the sink, shape ``(M,)``.
      error: the larger L1 distance of a marginal of P from what it should be.
      num_steps: steps that were taken.
      num_newton: how many of them were Newton's.
    """

    cost: Float[Array, "N M"]
    source: Float[Array, " N"]
    sink: Float[Array, " M"]
    regularization: Float[Array, ""]
    f: Float[Array, " N"]
    g: Float[Array, " M"]
    error: Float[Array, ""]
    num_steps: Int[Array, ""]
    num_newton: Int[Array, ""]

    def matrix(self) -> Float[Array, "N M"]:
        """P; O(N M)."""
        exponent = (self.f[:, None] + self.g[None] - self.cost) / self.regularization
        some = (self.source[:, None] > 0) | (self.sink > 0)  # elsewhere nothing bounds it
        exponent = jnp.where(some, exponent, 0)
        return self.source[:, None] * self.sink * jnp.exp(exponent)

    def transport_cost(self) -> Float[Array, ""]:
        """``Σ P C``: what the plan moves, without the entropy."""
        return jnp.sum(self.matrix() * self.cost)

    def value(self) -> Float[Array, ""]:
        r"""The dual value :math:`a^T f + b^T g - ε(\sum P - 1)`, the entropic cost at the optimum.

        Never above it. Its gradients in cost and masses are those of the entropic cost, by the
        envelope theorem, as exact as the plan; nothing is differentiated through the iterations.
        """
        surplus = self.regularization * (jnp.sum(self.matrix()) - 1)
        return self.source @ self.f + self.sink @ self.g - surplus


def implicit(plan: Plan) -> Plan:
    r"""The same plan with potentials that have derivatives, by the implicit function theorem.

    The potentials of `sinkhorn` are constants to automatic differentiation, which is right for
    `Plan.value` only. These have the derivatives of the exact potentials in cost, masses and
    regularisation, so those of `Plan.matrix` are right too.

    Args:
      plan: a plan that has converged.

    Returns:
      The plan, of the same values.

    Complexity:
      A linear system, O((N + M)³).
    """
    n = len(plan.source)
    p = plan.matrix()
    residual = jnp.concatenate([jnp.sum(p, 1) - plan.source, jnp.sum(p, 0) - plan.sink])
    mass = jax.lax.stop_gradient(jnp.concatenate([plan.source, plan.sink]))
    some = mass > 0
    inverse_root = jnp.where(some, jax.lax.rsqrt(jnp.where(some, mass, 1)), 0)
    coupled = inverse_root[:n, None] * jax.lax.stop_gradient(p) * inverse_root[n:]
    gauge = jnp.sqrt(mass) * jnp.where(jnp.arange(len(mass)) < n, 1, -1)
    system = jnp.eye(len(mass), dtype=p.dtype) + 0.5 * jnp.outer(gauge, gauge)
    system = system.at[:n, n:].add(coupled).at[n:, :n].add(coupled.T)
    solved = jnp.linalg.solve(system, inverse_root * residual)
    change = -jax.lax.stop_gradient(plan.regularization) * inverse_root * solved
    change = change - jax.lax.stop_gradient(change)
    return dataclasses.replace(plan, f=plan.f + change[:n], g=plan.g + change[n:])


def soft_min(x: Array, log_mass: Array, regularization: Array, axis: int) -> Array:
    """``-ε log Σ mass exp(-x / ε)`` along an axis."""
    return -regularization * jax.nn.logsumexp(log_mass - x / regularization, axis=axis)


def check_problem(owner: str, cost: Array, source: Array | None, sink: Array | None) -> tuple:
    """Masses of one problem, each summing to one.

    Raises:
      ValueError: if shapes do not fit.
    """
    if cost.ndim != 2:
        raise ValueError(f"{owner}: expected a cost of shape (N, M); got {cost.shape}.")
    out = []
    for name, mass, size in zip(("source", "sink"), (source, sink), cost.shape, strict=True):
        given = jnp.full(size, 1 / size, cost.dtype) if mass is None else mass
        if given.shape != (size,):
            raise ValueError(
                f"{owner}: expected {name} of shape ({size},), a mass for each point; got "
                f"{given.shape}."
            )
        out.append(given / jnp.sum(given))
    return tuple(out)


def log_mass(mass: Array) -> Array:
    """Logarithms of masses, -inf for none, with finite derivatives."""
    some = mass > 0
    return jnp.where(some, jnp.log(jnp.where(some, mass, 1)), -jnp.inf)


def sinkhorn(
    cost: Float[Array, "N M"],
    source: Float[Array, " N"] | None = None,
    sink: Float[Array, " M"] | None = None,
    *,
    regularization: float | Array,
    max_steps: int = 10_000,
    tolerance: float | Array = 1e-4,
) -> Plan:
    r"""Entropic optimal transport between weighted points.

    .. math:: \min_P \sum_{ij} P_{ij} C_{ij} + ε\, KL(P \| a b^T), \quad P 1 = a, \; P^T 1 = b

    by alternating exact maximisation of the dual in f and g (Cuturi 2013, "Sinkhorn distances:
    lightspeed computation of optimal transport"), in the logarithm, so that no ε underflows. The
    number of steps grows like max C / ε; `sinkhorn_newton` is for small ε.

    Args:
      cost: C, of moving a unit of mass from i to j.
      source: a, masses, need not sum to one; equal if not given.
      sink: b, likewise.
      regularization: ε > 0, in the units of C.
      max_steps: at most so many steps, each of both potentials.
      tolerance: stop where both marginals are right up to this L1 distance; looked at every 10
        steps.

    Returns:
      The plan. ``plan.error`` says how near it is, where the steps did not suffice.

    Raises:
      ValueError: if shapes do not fit.

    Complexity:
      O(N M) time a step, O(N M) memory.

    Example:
      >>> import jax.numpy as jnp
      >>> from vi.distances import sinkhorn
      >>> x, y = jnp.array([0.0, 1.0]), jnp.array([0.1, 1.1])
      >>> plan = sinkhorn((x[:, None] - y) ** 2, regularization=0.05)
      >>> round(float(plan.transport_cost()), 3)
      0.01
    """
    source, sink = check_problem("sinkhorn", cost, source, sink)
    epsilon = jnp.asarray(regularization, cost.dtype)
    fixed = jax.lax.stop_gradient((cost, source, sink, epsilon))
    f, g, error, steps = _solve(*fixed, max_steps, tolerance)
    return Plan(cost, source, sink, epsilon, f, g, error, steps, jnp.zeros_like(steps))


@jax.jit
def _solve(
    cost: Array,
    source: Array,
    sink: Array,
    epsilon: Array,
    max_steps: int | Array,
    tolerance: float | Array,
) -> tuple[Array, Array, Array, Array]:
    log_a, log_b = log_mass(source), log_mass(sink)

    def step(_: int, potentials: tuple[Array, Array]) -> tuple[Array, Array]:
        f, _g = potentials
        g = soft_min(cost - f[:, None], log_a[:, None], epsilon, 0)
        f = soft_min(cost - g[None], log_b[None], epsilon, 1)
        return f, g

    def look(carry: tuple) -> tuple:
        f, g, _, steps = carry
        f, g = jax.lax.fori_loop(0, CHECK_EVERY, step, (f, g))
        # Rows are exact after a step, so only the columns can be wrong.
        wanted = soft_min(cost - f[:, None], log_a[:, None], epsilon, 0)
        error = jnp.sum(sink * jnp.abs(jnp.expm1((g - wanted) / epsilon)))
        return f, g, error, steps + CHECK_EVERY

    def goes_on(carry: tuple) -> Bool[Array, ""]:
        return (carry[2] > tolerance) & (carry[3] < max_steps)

    start = (jnp.zeros_like(source), jnp.zeros_like(sink), jnp.full((), jnp.inf, cost.dtype), 0)
    f, g, error, steps = jax.lax.while_loop(goes_on, look, start)
    return f, g, error, jnp.asarray(steps)


def sinkhorn_divergence(
    x: Float[Array, "N D"],
    y: Float[Array, "M D"],
    *,
    regularization: float | Array,
    max_steps: int = 10_000,
    tolerance: float | Array = 1e-4,
) -> Float[Array, ""]:
    r"""The debiased entropic transport cost between two samples, of squared distance.

    .. math:: S_ε(x, y) = OT_ε(x, y) - \tfrac12 OT_ε(x, x) - \tfrac12 OT_ε(y, y)

    Not negative, zero where the samples are equal, and differentiable in the points: between
    :math:`W_2^2` at ε → 0 and the squared distance of the means at ε → ∞ (Feydy, Séjourné,
    Vialard, Amari, Trouvé and Peyré 2019, "Interpolating between optimal transport and MMD using
    Sinkhorn divergences").

    Args:
      x: sample.
      y: sample.
      regularization: ε > 0, in squared units of the points.
      max_steps: as for `sinkhorn`, which solves the three problems. Where they do not suffice, as
        they may for an ε far below the squared distances, the value is too low, and
        ``sinkhorn(...).error`` tells.
      tolerance: likewise.

    Returns:
      Shape ``()``.

    Raises:
      ValueError: if the points are not of one number of coordinates.

    Complexity:
      As three of `sinkhorn`; O(N M + N² + M²) memory.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from vi.distances import sinkhorn_divergence
      >>> x = jax.random.normal(jax.random.key(0), (40, 2))
      >>> round(float(sinkhorn_divergence(x, x + 0.5, regularization=0.5)), 2)
      0.5
    """
    x, y = samples("sinkhorn_divergence", x, y)

    def cost(a: Array, b: Array) -> Array:
        squared = jnp.sum((a[:, None] - b[None]) ** 2, -1)
        plan = sinkhorn(
            squared, regularization=regularization, max_steps=max_steps, tolerance=tolerance
        )
        return plan.value()

    return cost(x, y) - 0.5 * cost(x, x) - 0.5 * cost(y, y)
