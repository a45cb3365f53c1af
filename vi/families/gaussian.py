"""The Gaussian family, with a covariance of any structure."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.blocks import Groups
from vi.families.scale import (
    BlockScale,
    DenseScale,
    DiagonalScale,
    LowRankScale,
    Positive,
)
from vi.module import module


@module
class Gaussian:
    r"""N(m, Σ) on the unconstrained vector: its location and its scale *are* the family.

    .. math:: \log q(z) = -\tfrac12 (z-m)^T Σ^{-1} (z-m) - \tfrac12 \log|Σ| - \tfrac D2\log 2π

    Made by `mean_field`, `full_rank`, `block` and `low_rank`, or from a scale directly.

    Attributes:
      loc: m, the mean and the mode.
      scale: the structure of Σ and its parameters, one of `vi.families.scale`: diagonal, dense, in
        blocks or of low rank.

    Example:
      >>> import jax, vi
      >>> q = vi.mean_field(3)
      >>> z, log_q = q.sample_and_log_prob(jax.random.key(0))
      >>> z.shape, log_q.shape
      ((3,), ())
    """

    loc: Float[Array, " D"]
    scale: Any

    @property
    def dim(self) -> int:
        """Number D of coordinates."""
        return self.loc.shape[-1]

    def noise(self, key: Array, num_samples: int) -> Float[Array, "S E"]:
        """Unit noise for ``num_samples`` draws, in one flat call of the random generator."""
        shape = (num_samples, self.scale.noise_dim)
        return jax.random.normal(key, shape, self.loc.dtype)

    def draw(self, noise: Float[Array, "S E"]) -> tuple[Float[Array, "S D"], Float[Array, " S"]]:
        """Reparameterised draws and their weights, which sum to one, from noise."""
        z = self.loc + self.scale.apply(noise)
        return z, jnp.full(z.shape[0], 1 / z.shape[0], z.dtype)

    def sample(self, key: Array, num_samples: int | None = None) -> Float[Array, "*S D"]:
        """One draw of shape ``(D,)``, or ``num_samples`` of them."""
        z, _ = self.draw(self.noise(key, num_samples or 1))
        return z[0] if num_samples is None else z

    def log_prob(self, z: Float[Array, "... D"]) -> Float[Array, "..."]:
        """Log density, in nats; leading axes are draws."""
        constant = 0.5 * self.dim * math.log(2 * math.pi)
        return -0.5 * self.scale.mahalanobis(z - self.loc) - self.scale.log_det() - constant

    def sample_and_log_prob(
        self, key: Array, num_samples: int | None = None
    ) -> tuple[Float[Array, "*S D"], Float[Array, "*S"]]:
        """Draws and their log density, from the noise itself where it has D coordinates."""
        noise = self.noise(key, num_samples or 1)
        z, _ = self.draw(noise)
        if self.scale.noise_dim == self.dim:
            constant = self.scale.log_det() + 0.5 * self.dim * math.log(2 * math.pi)
            log_q = -0.5 * jnp.sum(noise**2, axis=-1) - constant
        else:
            log_q = self.log_prob(z)
        return (z[0], log_q[0]) if num_samples is None else (z, log_q)

    def entropy(self) -> Float[Array, ""]:
        """Entropy in nats, in closed form."""
        return self.scale.log_det() + 0.5 * self.dim * (1 + math.log(2 * math.pi))

    def covariance(self) -> Float[Array, "D D"]:
        """Σ, dense."""
        return self.scale.covariance()

    def variance(self) -> Float[Array, " D"]:
        """The diagonal of Σ."""
        return self.scale.variance()


def _loc(dim: int, loc: Array | None) -> Array:
    return jnp.zeros(dim) if loc is None else jnp.asarray(loc)


def mean_field(
    dim: int, *, loc: Array | None = None, scale: float = 1.0, positive: Positive = "linear"
) -> Gaussian:
    """Independent Gaussians: O(D) parameters.

    Args:
      dim: number D of coordinates.
      loc: location, shape ``(D,)``; zero if not given.
      scale: standard deviation of every coordinate.
      positive: parameterisation of the scale (`vi.families.scale`).

    Returns:
      The family.
    """
    loc = _loc(dim, loc)
    return Gaussian(loc, DiagonalScale.of(jnp.full(dim, scale, loc.dtype), positive))


def full_rank(
    dim: int, *, loc: Array | None = None, scale: float = 1.0, positive: Positive = "linear"
) -> Gaussian:
    """A Gaussian with a full covariance: O(D²) parameters.

    Args:
      dim: number D of coordinates.
      loc: location, shape ``(D,)``; zero if not given.
      scale: standard deviation of every coordinate to begin with.
      positive: parameterisation of the scale (`vi.families.scale`).

    Returns:
      The family.

    Example:
      >>> import vi
      >>> vi.full_rank(3, scale=0.1).loc.shape
      (3,)
    """
    loc = _loc(dim, loc)
    return Gaussian(loc, DenseScale.of(scale * jnp.eye(dim, dtype=loc.dtype), positive))


def low_rank(
    dim: int,
    rank: int,
    *,
    loc: Array | None = None,
    scale: float = 1.0,
    positive: Positive = "linear",
) -> Gaussian:
    """Σ = diag(s²) + F Fᵀ with R = ``rank`` columns: O(D R) parameters.

    The factor starts at a small multiple of distinct columns of the identity, since at F = 0
    its gradient vanishes.

    Args:
      dim: number D of coordinates.
      rank: R, at most D.
      loc: location, shape ``(D,)``; zero if not given.
      scale: s of every coordinate to begin with.
      positive: parameterisation of the scale (`vi.families.scale`).

    Returns:
      The family.

    Raises:
      ValueError: if ``rank`` is not between 1 and ``dim``.
    """
    if not 0 < rank <= dim:
        raise ValueError(f"low_rank: expected 0 < rank <= dim; got rank={rank}, dim={dim}.")
    loc = _loc(dim, loc)
    factor = 0.1 * scale * jnp.eye(dim, rank, dtype=loc.dtype)
    return Gaussian(loc, LowRankScale.of(jnp.full(dim, scale, loc.dtype), factor, positive))


def block(
    indices: Groups,
    *,
    loc: Array | None = None,
    scale: float = 1.0,
    positive: Positive = "linear",
) -> Gaussian:
    """A Gaussian whose covariance is dense within groups of coordinates, zero between them.

    Args:
      indices: groups of coordinates that together name each of 0..D-1 once.
      loc: as in `mean_field`.
      scale: as in `mean_field`.
      positive: as in `mean_field`.

    Returns:
      The family.

    Raises:
      ValueError: if the groups do not partition 0..D-1.
    """
    dim = sum(map(len, indices))
    if sorted(i for group in indices for i in group) != list(range(dim)):
        raise ValueError(
            f"block: expected groups that name each of 0..{dim - 1} once; got {indices}."
        )
    loc = _loc(dim, loc)
    blocks = tuple(
        DenseScale.of(scale * jnp.eye(len(group), dtype=loc.dtype), positive) for group in indices
    )
    return Gaussian(loc, BlockScale(blocks, tuple(map(tuple, indices))))
