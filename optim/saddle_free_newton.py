"""Saddle-free Newton: the Hessian with the absolute values of its eigenvalues."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from optim.curvature import Curvature, check_curvature, measured
from optim.lanczos import Ritz, lanczos
from optim.oracle import Oracle
from optim.tree import limit_norm, norm
from optim.vectors import Point, vector_transformation


def saddle_free_newton(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    krylov_dim: int | None = None,
    relative_damping: float = 0.01,
    period: int = 1,
    curvature: Curvature = "lagged",
    key: Array | None = None,
    max_change: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Newton steps that go down along directions of negative curvature too.

    .. math::

       x_{k+1} = x_k - ρ \left[ V (|Λ| + δ)^{-1} V^T g_k
       + \frac{1}{λ_{\max} + δ} (I - V V^T) g_k \right], \qquad
       λ_{\max} = \max_i |Λ_i|, \quad δ = \text{relative\_damping} \cdot λ_{\max}

    with V and Λ all eigenpairs of the Hessian, or, if ``krylov_dim`` is given, the Ritz pairs of
    the Krylov space of the gradient, so that only products are needed. Directions outside of
    that space take a gradient step of the shortest scale; the paper leaves them out. In the full
    space the second term vanishes and both forms agree.

    It is not for noisy losses: with a Krylov space of 10 and the other defaults it diverged or
    ended 6 to 5000 nats behind tuned Adam on the stochastic problems of
    ``benchmarks/optimizers.py`` (both Poisson; Gaussian, cancer, schools, network), though the
    default uses the curvature of the previous step, which shares no sample with the gradient. On
    fixed draws it was as good as tuned Adam. For losses without noise choose "same": where an
    eigenvalue crosses zero, the previous step's is too small and the step too long.

    Args:
      learning_rate: ρ, a number or a schedule.
      krylov_dim: dimension of the Krylov space; the dense Hessian if None.
      relative_damping: δ as a share of the largest absolute eigenvalue.
      period: steps from one measurement to the next.
      curvature: as in `lazy_newton`.
      key: for "fresh".
      max_change: bound on the root mean square of a step's entries.

    Returns:
      A transformation that needs ``params`` and ``value_fn``.

    Complexity:
      ``krylov_dim`` + 1 Hessian-vector products of one linearisation, O(krylov_dim² D) time and
      O(krylov_dim D) memory; or D products, O(D³) and O(D²).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from optim import Oracle, make_step, saddle_free_newton
      >>> loss = lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4  # a saddle at 0
      >>> optimizer = saddle_free_newton(curvature="same")
      >>> step, x = jax.jit(make_step(lambda key: Oracle(loss), optimizer)), jnp.array([1.0, 1e-3])
      >>> state = optimizer.init(x)
      >>> for t in range(30):
      ...     x, state, value = step(jax.random.key(t), x, state)
      >>> bool(jnp.isclose(value, -0.25))
      True

    Reference: Dauphin, Pascanu, Gulcehre, Cho, Ganguli and Bengio (2014), "Identifying and
    attacking the saddle point problem in high-dimensional non-convex optimization",
    Algorithm 1.
    """
    needs = check_curvature("saddle_free_newton", curvature, key)

    def init(x: Float[Array, " D"], _: Callable) -> Ritz:
        num = len(x) if krylov_dim is None else min(krylov_dim, len(x))
        zero = jnp.zeros((num, len(x)), x.dtype)
        return Ritz(zero[:, 0], zero, jnp.zeros(num, bool))

    def measure(oracle: Oracle, x: Array, g: Array) -> Ritz:
        if krylov_dim is not None:
            return lanczos(oracle.linearize(x)[1], g, krylov_dim)
        values, vectors = jnp.linalg.eigh(oracle.dense_hessian(x))
        return Ritz(values, vectors.T, jnp.ones(len(x), bool))

    def step(g: Array, state: Ritz, at: Point) -> tuple[Array, Ritz]:
        used, kept = measured(
            lambda _, oracle: measure(oracle, at.x, g), state, at, curvature, period, key
        )
        limit = max_change * len(g) ** 0.5
        top = jnp.max(jnp.abs(used.values))
        top = jnp.where(top > 0, top, norm(g) / limit)  # no curvature: the longest step
        inside = used.vectors @ g
        least = jnp.maximum(jnp.finfo(g.dtype).eps * top, jnp.finfo(g.dtype).tiny)
        scale = jnp.maximum(jnp.abs(used.values) + relative_damping * top, least)
        scale = jnp.where(used.valid, scale, 1)
        outside = (g - used.vectors.T @ inside) / jnp.maximum((1 + relative_damping) * top, least)
        direction = used.vectors.T @ (inside / scale) + outside
        return limit_norm(direction, limit), kept

    return vector_transformation("saddle_free_newton", init, step, learning_rate, needs=needs)
