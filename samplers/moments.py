"""The stochastic-approximation method of moments: a likelihood-free baseline for streams."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

FIRST = 20  # steps of GMM on the first rows
RIDGE = 1e-6  # of the mean variance of the moments, for the first weights


class MomentState(NamedTuple):
    """The estimate, and what its steps are made of.

    Attributes:
      average: of all iterates: the estimate.
      params: the last iterate.
      slopes: running mean of the moments' Jacobians.
      weights: inverse of their running second moments.
      first: rows that the start was made of.
      count: rows since.
    """

    average: Float[Array, " P"]
    params: Float[Array, " P"]
    slopes: Float[Array, "K P"]
    weights: Float[Array, "K K"]
    first: Int[Array, ""]
    count: Int[Array, ""]

    def covariance(self) -> Float[Array, "P P"]:
        """Of the estimate, as if efficient: the inverse of GᵀWG, over the number of rows."""
        return jnp.linalg.inv(self.slopes.T @ self.weights @ self.slopes) / self.count


class StochasticMoments(NamedTuple):
    """What `stochastic_moments` returns.

    Attributes:
      init: from the parameters to begin with and the first rows to the first state.
      update: from a state and one more row to the next state.
    """

    init: Callable[[Array, Any], MomentState]
    update: Callable[[MomentState, Any], MomentState]


def stochastic_moments(
    moments: Callable[[Array, Any], Array], learning_rate: optax.ScalarOrSchedule | None = None
) -> StochasticMoments:
    r"""Generalised method of moments, a row of data at a time, without a likelihood.

    .. math:: θ_i = θ_{i-1} - γ_i (G^T W G)^{-1} G^T W g(θ_{i-1}, x_i), \qquad
        E\, g(θ, x) = 0

    with G the running mean of the Jacobians of g, W the inverse of the running second moments of
    g, by a rank-one formula, and the mean of the iterates as the estimate. For models that are
    known by moments alone, as with instruments, it is what a likelihood is compared with: the
    estimate is as good as that of efficient GMM on all rows, and none is kept.

    Args:
      moments: g: from parameters, shape ``(P,)``, and a row to K ≥ P moments.
      learning_rate: γ, a number or a schedule of the row; by default :math:`(i + 10)^{-0.6}`.

    Returns:
      ``init(params, rows)``, which takes some steps of GMM on first rows, and G and W from them
      (a pytree of arrays with one leading axis, K rows at least), and ``update(state, row)``.
      Both run under `jax.jit` and `jax.lax.scan`; ``state.average`` is the estimate,
      ``state.covariance()`` its covariance. A row whose step is not finite changes nothing.

    Raises:
      ValueError: if there are fewer moments than parameters.

    Complexity:
      O(K² + K P² + P³) a row.

    Reference: Chen, Lee, Liao, Seo, Shin and Song (2023), "SGMM: stochastic approximation to
    generalized method of moments".

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from samplers import stochastic_moments
      >>> g = lambda theta, x: jnp.stack([x - theta[0], (x - theta[0]) ** 2 - theta[1]])
      >>> how = stochastic_moments(g)
      >>> x = 2.0 + 0.6 * jax.random.normal(jax.random.key(0), (5000,))
      >>> state = how.init(jnp.array([1.0, 1.0]), x[:100])
      >>> state, _ = jax.lax.scan(lambda s, x: (how.update(s, x), None), state, x[100:])
      >>> [round(float(a), 1) for a in state.average]
      [2.0, 0.4]
    """
    rate = (lambda i: (i + 10.0) ** -0.6) if learning_rate is None else learning_rate
    at = rate if callable(rate) else lambda _: rate

    def look(params: Array, row: Any) -> tuple[Array, Array]:
        return moments(params, row), jax.jacfwd(moments)(params, row)

    def init(params: Array, rows: Any) -> MomentState:
        params = jnp.asarray(params)
        g = jax.eval_shape(jax.vmap(moments, (None, 0)), params, rows)
        if g.ndim != 2 or g.shape[1] < len(params):
            raise ValueError(
                f"stochastic_moments: expected at least {len(params)} moments, one for each "
                f"parameter; got shape {g.shape[1:]}. Add instruments, or fix parameters."
            )
        params = jax.lax.fori_loop(0, FIRST, partial(_closer, look, rows), params)
        g, slopes = jax.vmap(look, (None, 0))(params, rows)
        second = g.T @ g / len(g)
        ridge = RIDGE * jnp.trace(second) / len(second) * jnp.eye(len(second), dtype=g.dtype)
        zero = jnp.zeros((), jnp.int32)
        weights = jnp.linalg.inv(second + ridge)
        return MomentState(params, params, jnp.mean(slopes, 0), weights, zero + len(g), zero)

    def update(state: MomentState, row: Any) -> MomentState:
        g, slope = look(state.params, row)
        count = state.count + 1
        n = (state.first + count).astype(g.dtype)
        slopes = state.slopes + (slope - state.slopes) / n
        wg = state.weights @ g
        weights = n / (n - 1) * (state.weights - jnp.outer(wg, wg) / (n - 1 + g @ wg))
        projected = slopes.T @ weights
        step = jnp.linalg.solve(projected @ slopes, projected @ g)
        params = state.params - jnp.asarray(at(count), g.dtype) * step
        average = state.average + (params - state.average) / count.astype(g.dtype)
        new = MomentState(average, params, slopes, weights, state.first, count)
        finite = jnp.all(jnp.isfinite(params)) & jnp.all(jnp.isfinite(weights))
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)

    return StochasticMoments(init, update)


def _closer(look: Callable, rows: Any, _: Array, params: Array) -> Array:
    """One Gauss-Newton step of GMM on the first rows, if it lowers the mean moments."""
    g, slopes = jax.vmap(look, (None, 0))(params, rows)
    mean, slope = jnp.mean(g, 0), jnp.mean(slopes, 0)
    centred = g - mean
    second = centred.T @ centred / len(g)
    ridge = RIDGE * jnp.trace(second) / len(second) * jnp.eye(len(second), dtype=g.dtype)
    w = jnp.linalg.inv(second + ridge)
    step = jnp.linalg.solve(slope.T @ w @ slope, slope.T @ w @ mean)
    sizes = 0.5 ** jnp.arange(8, dtype=g.dtype)
    tried = params - sizes[:, None] * step
    means = jax.vmap(lambda p: jnp.mean(jax.vmap(look, (None, 0))(p, rows)[0], 0))(tried)
    miss = jnp.einsum("sk,kl,sl->s", means, w, means)
    miss = jnp.where(jnp.isfinite(miss), miss, jnp.inf)
    best = jnp.argmin(miss)
    return jnp.where(miss[best] < mean @ w @ mean, tried[best], params)
