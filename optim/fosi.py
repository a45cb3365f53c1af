"""FOSI: Newton steps in an extreme eigenspace, any other optimizer in the rest."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from optim.lanczos import lanczos
from optim.steps import rate_at, step_key, with_extra_args
from optim.tree import limit_norm, ravel
from optim.vectors import Point, vector_transformation


class FosiState(NamedTuple):
    """The method's part of the state of `fosi`.

    Attributes:
      values: eigenvalues; 0 for pairs that are not there.
      vectors: eigenvectors, as rows.
      momentum: lies in the span of the vectors.
      base: state of the optimizer on the rest.
    """

    values: Float[Array, " K"]
    vectors: Float[Array, "K D"]
    momentum: Float[Array, " D"]
    base: optax.OptState


def fosi(
    key: Array,
    base: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule = 0.1,
    *,
    num_largest: int = 10,
    num_smallest: int = 0,
    period: int = 100,
    warmup: int | None = None,
    momentum: float = 0.9,
    floor: float = 1e-6,
    max_change: float = 0.1,
) -> optax.GradientTransformationExtraArgs:
    r"""Split the space: Newton where curvature is extreme, a base optimizer elsewhere.

    .. math::

       x_{k+1} = x_k - α V |Λ|^{-1} V^T w_k + (I - VV^T)\, b(g_k - VV^T g_k), \qquad
       w_k = β w_{k-1} + (1-β) VV^T g_k

    with V, Λ the eigenpairs of the Hessian with the largest (and smallest) eigenvalues, by
    Lanczos' iteration in 4 (num_largest + num_smallest) dimensions every ``period`` steps, and b
    the updates of the base optimizer. What the base sees has the condition number of the rest of
    the spectrum: the gradient, and the loss as a function of what the base may change,
    :math:`y \mapsto f(x_k + (I - VV^T)(y - x_k))`, so that line searches, and methods that ask
    for curvature, are consistent. Eigenpairs are used from the step after they were measured; w
    is then projected on the new space. Without the bound ``max_change`` it diverged on a
    hierarchical model, whose curvature changes by orders of magnitude between measurements.
    Around Adam, tuned, it was nowhere ahead of tuned Adam alone on problems of
    ``benchmarks/optimizers.py``: even with fixed draws, 0.01 to 0.02 nats behind on the Gaussian
    and on schools, 0.1 on cancer, 0.5 on the network, 83 on Poisson, where some seeds diverged, as
    all did where Poisson starts far off, and 4e4 at 1e5 coordinates.

    Args:
      key: for the start of Lanczos' iteration; may be the loop's.
      base: any transformation; its learning rate is its own.
      learning_rate: α, a number or a schedule; 1 is Newton's step, less averages noise.
      num_largest: eigenvalues from the top.
      num_smallest: eigenvalues from the bottom.
      period: steps from one measurement to the next.
      warmup: the first step that measures; ``period`` if None. Until then all is the base's.
      momentum: β.
      floor: least :math:`|Λ|`, as a share of the largest.
      max_change: bound on the root mean square of the entries of :math:`α V |Λ|^{-1} V^T w`.

    Returns:
      A transformation that needs ``params`` and ``value_fn``; extra arguments reach the base.

    Raises:
      ImportError: at the first update, if matfree is not installed.

    Complexity:
      That of the base, O(KD) for K eigenpairs, and 4K + 1 products and O(K² D) every ``period``
      steps. Memory: K D, and 4 K D while measuring.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from optim import Oracle, fosi, make_step
      >>> loss = lambda x: jnp.sum(jnp.array([1.0, 2.0, 1000.0]) * x**2) / 2
      >>> options = {"num_largest": 1, "warmup": 0, "momentum": 0.0}
      >>> optimizer = fosi(jax.random.key(0), optax.sgd(0.3), 1.0, **options)
      >>> step, x = jax.jit(make_step(lambda key: Oracle(loss), optimizer)), jnp.ones(3) / 100
      >>> state = optimizer.init(x)
      >>> for t in range(60):
      ...     x, state, value = step(jax.random.key(t), x, state)
      >>> bool(value < 1e-6)
      True

    Reference: Sivan, Gabel and Schuster (2024), "FOSI: hybrid first and second order
    optimization", Algorithm 2, without the rescaling of the base's learning rate.
    """
    base = with_extra_args(base)
    pairs = num_largest + num_smallest
    first = period if warmup is None else warmup

    def init(x: Float[Array, " D"], unravel: Callable) -> FosiState:
        num = min(pairs, len(x))
        vectors = jnp.zeros((num, len(x)), x.dtype)
        return FosiState(vectors[:, 0], vectors, jnp.zeros_like(x), base.init(unravel(x)))

    def measure(state: FosiState, at: Point) -> FosiState:
        start_key = step_key(key, "start", at.updates)
        start = jax.random.normal(start_key, at.x.shape, at.x.dtype)
        ritz = lanczos(at.oracle.linearize(at.x)[1], start, 4 * pairs)
        num = len(state.values)
        top, found = min(num_largest, num), jnp.sum(ritz.valid)
        largest, smallest = jnp.arange(top), found - 1 - jnp.arange(num - top)
        ranks = jnp.concatenate([largest, smallest])
        there = jnp.concatenate([largest < found, smallest >= top])  # no pair is taken twice
        chosen = jnp.argsort(jnp.where(ritz.valid, -ritz.values, jnp.inf))[ranks]
        values = jnp.where(there, ritz.values[chosen], 0)
        vectors = jnp.where(there[:, None], ritz.vectors[chosen], 0)
        momentum = vectors.T @ (vectors @ state.momentum)
        return FosiState(values, vectors, momentum, state.base)

    def step(g: Array, state: FosiState, at: Point) -> tuple[Array, FosiState]:
        V = state.vectors
        outside = lambda v: v - V.T @ (V @ v)
        inside = V.T @ (V @ g)
        average = momentum * state.momentum + (1 - momentum) * inside
        size = jnp.abs(state.values)
        least = jnp.maximum(floor * jnp.max(size), jnp.finfo(g.dtype).tiny)
        newton = V.T @ ((V @ average) / jnp.maximum(size, least))
        params = at.unravel(at.x)
        rest = at.unravel(g - inside)
        seen = at.of_params.after(
            lambda y: at.unravel(at.x + outside(ravel(y)[0] - at.x)),
            lambda _, grad: at.unravel(outside(ravel(grad)[0])),
        )
        move, base_state = base.update(
            rest, state.base, params, value=at.value(), grad=rest, value_fn=seen
        )
        rate = rate_at(learning_rate, at.count).astype(g.dtype)
        newton = limit_norm(rate * newton, max_change * len(g) ** 0.5)
        direction = newton - outside(ravel(move)[0])
        state = FosiState(state.values, V, average, base_state)
        due = (at.count >= first) & ((at.count - first) % period == 0)
        return direction, jax.lax.cond(due, lambda: measure(state, at), lambda: state)

    mine = lambda state: state._replace(base=())
    return vector_transformation("fosi", init, step, own=mine)
