"""Diagonals and traces of Hessians: by random probes, or exactly by forward passes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from optim.oracle import as_oracle
from optim.tree import ravel


def probe_diagonal(
    key: Array,
    product: Callable[[Float[Array, " D"]], Float[Array, " D"]],
    like: Float[Array, " D"],
    num_probes: int,
) -> Float[Array, " D"]:
    r"""Unbiased estimate of the diagonal of a symmetric operator.

    .. math:: \operatorname{diag}(A) = E[z ⊙ A z], \qquad z \in \{-1, 1\}^D

    The variance of entry i is :math:`\sum_{j \ne i} A_{ij}^2` over the number of probes.

    Args:
      key: consumed.
      product: v -> Av.
      like: a vector of the shape and dtype of v.
      num_probes: number of z.

    Reference: Bekas, Kokiopoulou and Saad (2007), "An estimator for the diagonal of a matrix",
    equation 2.
    """
    probes = jax.random.rademacher(key, (num_probes, *like.shape), like.dtype)
    return jnp.mean(probes * jax.vmap(product)(probes), axis=0)


def hessian_diagonal(key: Array, loss: Any, params: Any, num_probes: int = 10) -> Any:
    """Unbiased estimate of the diagonal of a Hessian, by `probe_diagonal`.

    Args:
      key: consumed.
      loss: an `Oracle`, or a function of the parameters.
      params: where.
      num_probes: number of Hessian-vector products; one linearisation serves them all.

    Returns:
      A pytree like ``params``.

    Complexity:
      O(num_probes) gradients; memory of as many parameters.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from optim import hessian_diagonal
      >>> loss = lambda x: jnp.sum(jnp.array([1.0, 3.0]) * x**2) / 2
      >>> hessian_diagonal(jax.random.key(0), loss, jnp.ones(2)).tolist()
      [1.0, 3.0]
    """
    x, oracle = as_oracle(loss, "hessian_diagonal").flat(params)
    unravel = ravel(params)[1]
    return unravel(probe_diagonal(key, oracle.linearize(x)[1], x, num_probes))


def laplacian(
    loss: Any, params: Any, *, key: Array | None = None, num_probes: int = 10
) -> Float[Array, ""]:
    r"""The trace of a Hessian by nested forward passes, which need no memory for a reverse one.

    .. math:: Δf = \sum_i e_i^T ∇^2 f\, e_i = E[z^T ∇^2 f\, z]

    Args:
      loss: an `Oracle`, or a function of the parameters.
      params: where.
      key: if given, the expectation over Rademacher probes z; otherwise the exact sum.
      num_probes: number of z.

    Returns:
      Shape ``()``.

    Complexity:
      D, or ``num_probes``, passes of two to three times the cost of the loss.

    Example:
      >>> import jax.numpy as jnp
      >>> from optim import laplacian
      >>> float(laplacian(lambda x: jnp.sum(x**2), jnp.ones(3)))
      6.0

    Reference: Shi, Hu, Lin and Kawaguchi (2024), "Stochastic Taylor derivative estimator",
    Section 4, at order two. Nested `jax.jvp` rather than `jax.experimental.jet`, which has no
    rules for many functions and gives NaN for powers with float exponents.
    """
    x, oracle = as_oracle(loss, "laplacian").flat(params)
    if key is None:
        terms = jax.lax.map(lambda e: oracle.quad(x, e), jnp.eye(len(x), dtype=x.dtype))
        return jnp.sum(terms)
    probes = jax.random.rademacher(key, (num_probes, len(x)), x.dtype)
    return jnp.mean(jax.vmap(lambda z: oracle.quad(x, z))(probes))
