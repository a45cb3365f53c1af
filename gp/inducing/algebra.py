"""The algebra of whitened inducing variables: bases, features, and sums over data in chunks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from gp.cholesky import cholesky, safe_cholesky
from gp.inducing.interdomain import covariance_of, cross_of
from vi.targets.mesh import mesh_of_rows
from vi.targets.points import over_points

CHUNK = 4096  # data at once


class Basis(NamedTuple):
    """The Cholesky factor L of the inducing covariance, u = L v, and the jitter in it."""

    tril: Float[Array, "M M"]
    jitter: Float[Array, ""]


def basis(kernel: Any, z: Any) -> Basis:
    """The factor of the kernel's matrix with the least jitter that helps; differentiable.

    Args:
      kernel: the kernel.
      z: inducing inputs, ``(M, D)``, or `gp.inducing.Features`.
    """
    matrix = covariance_of(kernel, z)
    scale = jnp.mean(jnp.diagonal(matrix))
    added = jnp.maximum(jnp.diagonal(matrix), jnp.finfo(matrix.dtype).eps * scale)
    _, jitter = safe_cholesky(jax.lax.stop_gradient(matrix), jax.lax.stop_gradient(added))
    jitter = jax.lax.stop_gradient(jitter)
    return Basis(cholesky(matrix + jnp.diag(jitter * added)), jitter * scale)


def features(kernel: Any, z: Any, tril: Array, x: Float[Array, "B D"]) -> Float[Array, "M B"]:
    """A = L⁻¹ k(z, x): covariances of the whitened variables with the function at x."""
    return solve_triangular(tril, cross_of(kernel, z, x), lower=True)


def summed(function: Callable, shared: Any, *arrays: Float[Array, "N ..."]) -> Any:
    """The sum of a function over chunks of rows; its derivative computes each chunk again.

    Args:
      function: of ``shared``, chunks, and a mask of rows that are there, to a pytree of sums.
      shared: whole on every device, where several share the rows (`vi.targets.mesh.rows_over`).
      *arrays: with equally many rows, inputs first. Where rows must be filled up, it is with inputs
        that exist, at which functions have derivatives, and zeros in the other arrays.
    """

    def local(shared: Any, rows: tuple) -> Any:
        if len(rows[0]) <= CHUNK:
            return function(shared, *rows)

        def step(total: Any, some: tuple) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, function(shared, *some)), None

        chunks = _cut(rows)
        like = jax.eval_shape(function, shared, *(a[0] for a in chunks))
        start = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)
        return jax.lax.scan(jax.checkpoint(step), start, chunks)[0]

    rows = (*arrays, jnp.ones(len(arrays[0]), bool))
    fills = _fills(rows)
    return over_points(local, shared, rows, mesh_of_rows(), fills=fills, total=True)


def mapped(function: Callable, shared: Any, x: Float[Array, "N ..."]) -> Any:
    """A function of ``shared`` and rows, chunk by chunk; results have a first axis of rows."""

    def local(shared: Any, x: Array) -> Any:
        if len(x) <= CHUNK:
            return function(shared, x)
        found = jax.lax.map(lambda some: function(shared, some), *_cut((x,)))
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: len(x)], found)

    return over_points(local, shared, x, mesh_of_rows())


def _fills(rows: tuple) -> tuple:
    """What rows are filled up with: the last input, and zeros."""
    return rows[0][-1:], *(0 for _ in rows[1:])


def _cut(rows: tuple) -> tuple:
    """Rows as chunks, the last filled up."""
    spare = -len(rows[0]) % CHUNK

    def cut(a: Array, fill: Any) -> Array:
        more = jnp.broadcast_to(jnp.asarray(fill, a.dtype), (spare, *a.shape[1:]))
        return jnp.concatenate([a, more]).reshape(-1, CHUNK, *a.shape[1:])

    return tuple(map(cut, rows, _fills(rows)))


class Whitened(NamedTuple):
    r"""q(v) = N(m, S) of whitened variables, with :math:`S^{-1} = C C^T`."""

    mean: Float[Array, " M"]
    inverse: Float[Array, "M M"]  # C⁻¹

    @property
    def half_log_det(self) -> Float[Array, ""]:
        """Half of log |S⁻¹|."""
        return -jnp.sum(jnp.log(jnp.diagonal(self.inverse)))

    @property
    def kl(self) -> Float[Array, ""]:
        """KL(q ‖ N(0, I)), nats."""
        square = jnp.sum(self.inverse**2) + jnp.sum(self.mean**2) - len(self.mean)
        return 0.5 * square + self.half_log_det

    def marginals(self, a: Float[Array, "M B"], variances: Array) -> tuple[Array, Array]:
        """Means, less the mean function, and variances of the function with features a."""
        rest = variances - jnp.sum(a**2, 0) + jnp.sum((self.inverse @ a) ** 2, 0)
        return self.mean @ a, jnp.maximum(rest, 0.0)


def whitened(linear: Float[Array, " M"], precision: Float[Array, "M M"]) -> Whitened:
    """q(v) of the natural parameters :math:`S^{-1} m` and :math:`S^{-1}`; differentiable."""
    tril = cholesky(precision)
    inverse = solve_triangular(tril, jnp.eye(len(linear), dtype=linear.dtype), lower=True)
    return Whitened(inverse.T @ (inverse @ linear), inverse)
