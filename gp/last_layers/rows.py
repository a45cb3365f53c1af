"""Independent Gaussian rows of a matrix of weights, and their divergence from a prior."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float

from gp.cholesky import cholesky
from vi.module import module


@module
class Rows:
    r"""K independent rows of weights, :math:`w_k \sim N(\bar w_k, S_k)`, each with a dense S.

    All arrays may be moved freely by an optimizer: :math:`S_k = L_k L_k^T` with the logarithms of
    the diagonal of L in place of it; entries above the diagonal are ignored.

    Attributes:
      mean: the means.
      raw: the factors.
    """

    mean: Float[Array, "K D"]
    raw: Float[Array, "K D D"]

    @classmethod
    def of(cls, mean: Float[Array, "K D"], tril: Float[Array, "K D D"]) -> "Rows":
        """Rows of given means and lower factors with positive diagonals."""
        diagonal = jnp.log(jnp.diagonal(tril, axis1=1, axis2=2))
        eye = jnp.eye(tril.shape[-1], dtype=tril.dtype)
        return cls(mean, jnp.tril(tril, -1) + eye * diagonal[:, None, :])

    @classmethod
    def random(cls, key: Array, num_rows: int, num_features: int) -> "Rows":
        """Rows to begin training from: means of variance 1/D, standard deviations of 0.1/√D."""
        scale = num_features**-0.5
        mean = scale * jax.random.normal(key, (num_rows, num_features))
        eye = jnp.eye(num_features, dtype=mean.dtype)
        return cls(mean, jnp.broadcast_to(jnp.log(0.1 * scale) * eye, (num_rows, *eye.shape)))

    @property
    def tril(self) -> Float[Array, "K D D"]:
        """The factors L."""
        eye = jnp.eye(self.raw.shape[-1], dtype=bool)
        return jnp.where(eye, jnp.exp(jnp.where(eye, self.raw, 0.0)), jnp.tril(self.raw, -1))

    @property
    def log_det(self) -> Float[Array, " K"]:
        """Log-determinant of S of each row."""
        return 2 * jnp.sum(jnp.diagonal(self.raw, axis1=1, axis2=2), -1)

    def moments(self, features: Float[Array, "B D"]) -> tuple[Array, Array]:
        r"""Means :math:`\bar w_k^T φ` and variances :math:`φ^T S_k φ`, ``(B, K)``; O(B K D²)."""
        half = jnp.einsum("bd,kde->bke", features, self.tril)
        return features @ self.mean.T, jnp.sum(half**2, -1)

    def divergence(self, prior: "Rows | Array") -> Float[Array, ""]:
        """KL to a prior, nats, summed over rows.

        Args:
          prior: rows, as those of an earlier posterior; or the variance of N(0, s I).
        """
        if isinstance(prior, Rows):
            solve = jax.vmap(lambda a, b: solve_triangular(a, b, lower=True))
            off = (self.mean - prior.mean)[..., None]
            squares = jnp.sum(solve(prior.tril, jnp.concatenate([self.tril, off], -1)) ** 2)
            log_det = prior.log_det
        else:
            squares = (jnp.sum(self.tril**2) + jnp.sum(self.mean**2)) / prior
            log_det = self.mean.shape[1] * jnp.log(prior)
        return 0.5 * (squares - self.mean.size + jnp.sum(log_det - self.log_det))

    @property
    def best_prior(self) -> Float[Array, ""]:
        """The variance s of N(0, s I) from which the rows diverge least: their mean square."""
        return (jnp.sum(self.tril**2) + jnp.sum(self.mean**2)) / self.mean.size

    def naturals(self) -> tuple[Float[Array, "K D"], Float[Array, "K D D"]]:
        """Precisions times means, and precisions."""
        eye = jnp.eye(self.raw.shape[-1], dtype=self.raw.dtype)
        precision = jax.vmap(lambda tril: cho_solve((tril, True), eye))(self.tril)
        return jnp.einsum("kde,ke->kd", precision, self.mean), precision


def from_naturals(linear: Float[Array, "K D"], precision: Float[Array, "K D D"]) -> Rows:
    """Rows from precisions times means, and precisions; O(K D³)."""

    def one(linear: Array, precision: Array) -> tuple[Array, Array]:
        # Of the flipped precision, whose factor gives a lower one of the covariance.
        upper = cholesky(precision[::-1, ::-1])[::-1, ::-1]
        eye = jnp.eye(len(linear), dtype=linear.dtype)
        tril = solve_triangular(upper, eye, lower=False).T
        return tril @ (tril.T @ linear), tril

    return Rows.of(*jax.vmap(one)(linear, precision))


def prior_naturals(prior: Any, rows: Rows) -> tuple[Array, Array]:
    """Precisions times means, and precisions, of a prior as `Rows.divergence` takes it."""
    if isinstance(prior, Rows):
        return prior.naturals()
    eye = jnp.eye(rows.raw.shape[-1], dtype=rows.raw.dtype)
    return jnp.zeros_like(rows.mean), jnp.broadcast_to(eye / prior, rows.raw.shape)


def check_features(features: Any, size: int, owner: str) -> Array:
    """Features as an array ``(B, D)``.

    Raises:
      ValueError: for another shape.
    """
    features = jnp.asarray(features)
    if features.ndim != 2 or features.shape[1] != size:
        raise ValueError(
            f"{owner}: expected features of shape (B, {size}); got {features.shape}. Apply the "
            "network to the inputs first."
        )
    return features


def check_one_prior(prior: Any, owner: str, *, profiled: bool) -> None:
    """Raise a `ValueError` for a prior that is given and another that is to be found."""
    if profiled and prior is not None:
        raise ValueError(f"{owner}: expected a prior, or profiled=True; got both.")


def check_labels(labels: Any, features: Array, owner: str, classes: int) -> Array:
    """Classes as an array ``(B,)`` of integers below their number, which is not seen under jit.

    Raises:
      ValueError: for other shapes, numbers that are no integers, or no classes.
    """
    labels = jnp.asarray(labels)
    integer = jnp.issubdtype(labels.dtype, jnp.integer)
    if labels.shape != features.shape[:1] or not integer:
        raise ValueError(
            f"{owner}: expected integer classes of shape ({len(features)},); got "
            f"{labels.dtype}{list(labels.shape)}. Give one class number for each row of features."
        )
    if labels.size and not isinstance(labels, Tracer):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"{owner}: expected classes from 0 to {classes - 1}; got {low} to {high}."
            )
    return labels


def scaled(values: Float[Array, " B"], num_data: Any) -> Float[Array, ""]:
    """The sum over all N data, estimated from a batch; of the batch where N is None."""
    total = jnp.sum(values)
    return total if num_data is None else total * (num_data / len(values))
