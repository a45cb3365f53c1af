"""One Cholesky factorisation for matrices that rounding may have made indefinite."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_FIRST = 1e3  # units of rounding
_LAST = {"float32": 1e-2, "float64": 1e-5}


def jitter_levels(dtype: np.dtype) -> np.ndarray:
    """The relative jitters that are tried: none, then from 1e3 units of rounding by tens."""
    eps, last = np.finfo(dtype).eps, _LAST[jnp.dtype(dtype).name]
    count = int(np.floor(np.log10(last / (_FIRST * eps)))) + 1
    return np.append(0.0, _FIRST * eps * 10.0 ** np.arange(count)).astype(dtype)


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
        tril = jnp.linalg.cholesky(matrix + jnp.diag(levels[i] * added))
        return i + 1, tril, jnp.isnan(tril[-1, -1])

    wanting = lambda state: state[2] & (state[0] < len(levels))
    start = (0, jnp.zeros_like(matrix), jnp.asarray(True))  # noqa: FBT003
    tried, tril, _ = jax.lax.while_loop(wanting, attempt, start)
    return tril, levels[tried - 1]
