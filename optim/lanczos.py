"""Eigenpairs of a symmetric operator by Lanczos' iteration, safe where it breaks down."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from optim.tree import divide, norm


class Ritz(NamedTuple):
    """Approximate eigenpairs; those that are not valid are zero."""

    values: Float[Array, " K"]
    vectors: Float[Array, "K D"]  # rows, orthonormal
    valid: Bool[Array, " K"]


def lanczos(
    product: Callable[[Float[Array, " D"]], Float[Array, " D"]],
    start: Float[Array, " D"],
    num_products: int,
) -> Ritz:
    """Ritz pairs of the Krylov space of ``start``, with full reorthogonalisation.

    The space may have fewer dimensions than products, for instance if ``start`` lies in few
    eigenvectors; what comes after that is noise, is recognised by its lack of orthogonality,
    and is left out.

    Args:
      product: v -> Av, with A symmetric.
      start: first vector; if it is zero, no pair is valid.
      num_products: dimension of the space, and the most pairs there can be; at most D.

    Returns:
      The pairs, in no particular order.

    Raises:
      ImportError: if matfree is not installed.

    Complexity:
      K + 1 products, the first for the scale of A, and O(K² D) time; O(K D) memory.
    """
    try:
        from matfree import decomp
    except ImportError as error:
        raise ImportError(
            "lanczos: expected matfree to be installed; it is not. Run pip install "
            "'kullback[linalg]'."
        ) from error
    num = min(num_products, len(start))
    start = divide(start, norm(start))
    size = norm(product(start))
    unit = jnp.where(size > 0, size, 1)  # in which no square overflows
    decompose = decomp.tridiag_sym(num, reortho="full", custom_vjp=False)
    basis, small = map(jnp.asarray, decompose(lambda v: product(v) / unit, start)[:2])
    gram = basis @ basis.T - jnp.eye(num, dtype=start.dtype)
    orthonormal = jnp.abs(jnp.tril(gram)) <= _TOLERANCE
    valid = jnp.cumprod(jnp.all(orthonormal, axis=1)).astype(bool)
    small = jnp.where(valid[:, None] & valid[None], small, 0)
    basis = jnp.where(valid[:, None], basis, 0)
    # Invalid rows get eigenvalues of their own, so that they do not mix with valid ones.
    outside = 4 * jnp.max(jnp.abs(small)) + 1
    values, vectors = jnp.linalg.eigh(small + jnp.diag(jnp.where(valid, 0, outside)))
    found = jnp.arange(num) < jnp.sum(valid)
    values = jnp.where(found, unit * values, 0)
    return Ritz(values, jnp.where(found[:, None], vectors.T @ basis, 0), found)


_TOLERANCE = 1e-3
