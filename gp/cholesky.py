"""Cholesky factors: in batches that cannot wait for each other, and with the jitter they need."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

_FIRST = 1e3  # units of rounding
_LAST = {"float32": 1e-2, "float64": 1e-5}


def jitter_levels(dtype: np.dtype) -> np.ndarray:
    """The relative jitters that are tried: none, then from 1e3 units of rounding by tens."""
    eps, last = np.finfo(dtype).eps, _LAST[jnp.dtype(dtype).name]
    count = int(np.floor(np.log10(last / (_FIRST * eps)))) + 1
    return np.append(0.0, _FIRST * eps * 10.0 ** np.arange(count)).astype(dtype)


@jax.custom_batching.custom_vmap
def _factor(matrix: Float[Array, "N N"]) -> Float[Array, "N N"]:
    return jnp.linalg.cholesky(matrix)


@_factor.def_vmap
def _batch_of_factors(
    _size: int, _batched: list, matrices: Float[Array, "K N N"]
) -> tuple[Float[Array, "K N N"], bool]:
    one_by_one = lambda some: jax.lax.map(_factor, some)
    at_once = jax.vmap(jnp.linalg.cholesky)
    return jax.lax.platform_dependent(matrices, cpu=one_by_one, default=at_once), True


@jax.custom_jvp
def cholesky(matrix: Float[Array, "N N"]) -> Float[Array, "N N"]:
    """`jnp.linalg.cholesky` of one matrix; under `jax.vmap` on CPUs, of one after another.

    Of a batch, jaxlib 0.10 shares the work among its threads and waits for them, in one of these
    threads. Two batches that are ready at once then wait for each other for ever where there are
    two threads.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from gp.cholesky import cholesky
      >>> jax.vmap(cholesky)(4.0 * jnp.eye(2)[None])
      Array([[[2., 0.],
              [0., 2.]]], dtype=float32)
    """
    return _factor(matrix)


@cholesky.defjvp
def _derivative(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    r"""Of L: :math:`L\, \Phi(L^{-1} \dot A L^{-T})`, Φ the lower half and half the diagonal."""
    tril = cholesky(*primals)
    (change,) = tangents
    half = solve_triangular(tril, 0.5 * (change + change.T), lower=True)
    both = jnp.tril(solve_triangular(tril, half.T, lower=True).T)
    return tril, tril @ (both - 0.5 * jnp.diag(jnp.diagonal(both)))


def safe_cholesky(
    matrix: Float[Array, "N N"], added: Float[Array, " N"]
) -> tuple[Float[Array, "N N"], Float[Array, ""]]:
    r"""The Cholesky factor of :math:`A + j\, \mathrm{diag}(a)`, for the least jitter j that helps.

    Args:
      matrix: A, symmetric.
      added: a, what a relative jitter of one adds to the diagonal.

    Returns:
      The lower factor and j: 0 where A itself has one, else by tens from 1e3 units of rounding up
      to 1e-5 (1e-2 in 32-bit floats). Beyond that the factor is NaN. Forward only: take
      derivatives by closed forms, with j a constant.

    Complexity:
      O(N³) for each level tried.
    """
    levels = jnp.asarray(jitter_levels(matrix.dtype))

    def attempt(state: tuple) -> tuple:
        i, _, _ = state
        tril = cholesky(matrix + jnp.diag(levels[i] * added))
        return i + 1, tril, jnp.isnan(tril[-1, -1])

    wanting = lambda state: state[2] & (state[0] < len(levels))
    start = (0, jnp.zeros_like(matrix), jnp.asarray(True))  # noqa: FBT003
    tried, tril, _ = jax.lax.while_loop(wanting, attempt, start)
    return tril, levels[tried - 1]
