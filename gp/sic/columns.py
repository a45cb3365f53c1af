r"""Columns of a sparse inverse Cholesky factor, each from one small Cholesky factorisation.

For a point k with the set S of points it is conditioned on, k last, and K = L Lᵀ the covariance of
S ∪ {k}, the column that minimises the Kullback-Leibler divergence is

.. math::

   u = \frac{K^{-1} e}{\sqrt{e^T K^{-1} e}} = L^{-T} e, \qquad e = (0, \dots, 0, 1)^T,

so that :math:`u^T f` is the standardised residual of f_k given f_S.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from gp.cholesky import cholesky
from vi.targets.mesh import mesh_of_rows, whole
from vi.targets.points import over_points

CHUNK = 64  # columns at a time: their blocks stay in the cache
_TRIES = 8  # tenfold increases of the jitter


def base_jitter(size: int, dtype: Any) -> float:
    """What is added to the diagonal of a block of this size before any failure, relative."""
    return 4 * size * float(jnp.finfo(dtype).eps)


def _factor(blocks: Float[Array, "C M M"]) -> tuple[Array, Array]:
    """Lower factors of blocks plus the least jitter of a tenfold ladder at which all exist."""
    size = blocks.shape[-1]
    diagonal = jnp.mean(jnp.diagonal(blocks, axis1=-2, axis2=-1), axis=-1)

    def factor(jitter: Array) -> Array:
        shift = (jitter * diagonal)[:, None, None] * jnp.eye(size, dtype=blocks.dtype)
        return jax.vmap(cholesky)(blocks + shift)

    def again(state: tuple) -> tuple:
        count, jitter, _ = state
        return count + 1, 10 * jitter, factor(10 * jitter)

    def failed(state: tuple) -> Array:
        count, _, factors = state
        return (count < _TRIES) & ~jnp.all(jnp.isfinite(factors[:, -1, -1]))

    first = jnp.asarray(base_jitter(size, blocks.dtype), blocks.dtype)
    _, jitter, factors = lax.while_loop(failed, again, (0, first, factor(first)))
    return factors, jitter


def _solve(factors: Array, rhs: Array, *, transposed: bool) -> Array:
    return lax.linalg.triangular_solve(
        factors, rhs[..., None], left_side=True, lower=True, transpose_a=transposed
    )[..., 0]


@jax.custom_vjp
def inverse_columns(blocks: Float[Array, "C M M"]) -> tuple[Array, Array]:
    r"""The last columns of :math:`L^{-T}` for blocks K = L Lᵀ, and the jitter it took.

    With :math:`\bar u` the cotangent of u and :math:`w = K^{-1} \bar u`, that of K is
    :math:`-\tfrac12 (w u^T + u w^T) + \tfrac12 (\bar u \cdot u)\, u u^T`: two triangular solves
    instead of the derivative of a Cholesky factorisation.

    Args:
      blocks: covariances, the point itself last.

    Returns:
      Columns, shape ``(C, M)``, and the jitter relative to the mean variance, shape ``()``; not
      finite where no jitter of the ladder was enough.

    Complexity:
      O(C M³) time, O(C M²) memory.
    """
    return _forward(blocks)[0]


def _forward(blocks: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    factors, jitter = _factor(blocks)
    last = jnp.zeros(blocks.shape[:-1], blocks.dtype).at[:, -1].set(1)
    columns = _solve(factors, last, transposed=True)
    return (columns, jitter), (factors, columns)


def _backward(saved: tuple[Array, Array], cotangents: tuple[Array, Array]) -> tuple[Array]:
    (factors, u), (bar, _) = saved, cotangents
    w = _solve(factors, _solve(factors, bar, transposed=False), transposed=True)
    outer = w[:, :, None] * u[:, None, :]
    along = jnp.sum(bar * u, axis=-1)[:, None, None]
    half = 0.5 * along * u[:, :, None] * u[:, None, :]
    return (half - 0.5 * (outer + jnp.swapaxes(outer, -1, -2)),)


inverse_columns.defvjp(_forward, _backward)


def gather(values: Array, index: Int[Array, "*I"], fill: float = 0.0) -> Array:
    """Rows at an index, ``fill`` where it is past the end."""
    return values.at[index].get(mode="fill", fill_value=fill)


def masked_blocks(blocks: Array, there: Array) -> Array:
    """Blocks in which absent points are independent, of the variance of the point itself."""
    both = there[:, :, None] & there[:, None, :]
    identity = jnp.eye(blocks.shape[-1], dtype=blocks.dtype)
    return jnp.where(both, blocks, blocks[:, -1:, -1:] * identity)


def in_chunks(function: Any, *arrays: Array, fills: tuple) -> Any:
    """Map a function of `CHUNK` rows over all rows; its derivative computes each chunk again.

    Args:
      function: of arrays with `CHUNK` rows, to a pytree of arrays with as many, or without rows.
      *arrays: with equally many rows.
      fills: what fills up the last chunk of each.

    Returns:
      The results, one chunk after the other.
    """
    rows = len(arrays[0])
    chunk = min(CHUNK, rows)
    spare = -rows % chunk

    def cut(array: Array, fill: Any) -> Array:
        filler = jnp.full((spare, *array.shape[1:]), fill, array.dtype)
        return jnp.concatenate([array, filler]).reshape(-1, chunk, *array.shape[1:])

    cuts = tuple(cut(a, f) for a, f in zip(map(jnp.asarray, arrays), fills, strict=True))
    return lax.map(jax.checkpoint(lambda some: function(*some)), cuts)


def conditional_columns(
    kernel: Any,
    inputs: Float[Array, "N D"],
    points: Float[Array, "Q D"],
    sets: Int[Array, "Q M"],
    nugget: Float[Array, ""] | float = 0.0,
) -> tuple[Float[Array, "Q M1"], Float[Array, ""]]:
    r"""Columns of points given their conditioning sets.

    Args:
      kernel: ``kernel(a, b)`` on blocks.
      inputs: the points to condition on.
      points: the points conditioned.
      sets: rows of ``inputs``; N and above where there is none.
      nugget: what is added to all variances.

    Returns:
      Columns, shape ``(Q, M + 1)``: the entries of the set, 0 for absent ones, and last the
      positive one of the point itself; and the largest jitter used, relative to the variance.

    Complexity:
      O(Q M³) time; memory O(Q M) and a few blocks, also for the derivative.

    Reference: Schäfer, Katzfuss and Owhadi (2021), "Sparse Cholesky factorization by
    Kullback-Leibler minimization", equation 3; Cao et al. (2023), "Variational sparse inverse
    Cholesky approximation for latent Gaussian processes via double Kullback-Leibler
    minimization".
    """
    size = len(inputs)

    def some(shared: tuple, points: Array, sets: Array) -> tuple[Array, Array]:
        kernel, inputs, nugget = shared
        members = jnp.concatenate([inputs.at[sets].get(mode="clip"), points[:, None]], axis=1)
        there = jnp.concatenate([sets < size, jnp.ones((len(sets), 1), bool)], axis=1)
        blocks = kernel(members, members)
        blocks = blocks + nugget * jnp.eye(blocks.shape[-1], dtype=blocks.dtype)
        columns, jitter = inverse_columns(masked_blocks(blocks, there))
        return jnp.where(there, columns, 0), jitter

    def local(shared: tuple, rows: tuple) -> tuple[Array, Array]:
        columns, jitters = in_chunks(partial(some, shared), *rows, fills=(0, size))
        count = len(rows[0])
        columns = columns.reshape(-1, columns.shape[-1])[:count]
        return columns, jnp.broadcast_to(jnp.max(jitters), (count,))

    # Each device makes its share of the columns. What is solved before and after needs all: said
    # on both sides, as XLA would cut the steps of a solve too, and exchange rows at each.
    shared, rows = (kernel, inputs, nugget), whole((points, sets))
    columns, jitters = whole(over_points(local, shared, rows, mesh_of_rows(), fills=(0, size)))
    return columns, jnp.max(jitters)
