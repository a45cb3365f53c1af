"""Moments of products of independent factors: what one mode of a tensor sees of the others."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

_LETTERS = "abcdefghijklm"


class Core(NamedTuple):
    """The weights γ of products of components: of all of them (Tucker).

    Attributes:
      mean: shape ``(R_1, ..., R_K)``.
      covariance: of its entries in a row.
    """

    mean: Float[Array, "..."]
    covariance: Float[Array, "C C"]

    @property
    def second(self) -> Float[Array, "..."]:
        """E[γ γᵀ], with the axes of the mean twice."""
        flat = self.mean.reshape(-1)
        shape = self.mean.shape
        return (jnp.outer(flat, flat) + self.covariance).reshape(*shape, *shape)


def second_moments(mean: Float[Array, "N R"], variance: Float[Array, "N R"]) -> Array:
    """E[u uᵀ] for each row of independent components, shape ``(N, R, R)``."""
    eye = jnp.eye(mean.shape[1], dtype=mean.dtype)
    return mean[:, :, None] * mean[:, None, :] + variance[:, :, None] * eye


def environment(
    mode: int, factors: list[tuple[Array, Array]], core: Core | None
) -> tuple[Float[Array, "N R"], Float[Array, "N R R"]]:
    r"""What a mode's components are multiplied with, :math:`f = \sum_r u_r a_r`: E[a], E[a aᵀ].

    Args:
      mode: k.
      factors: means and variances of each mode's components at each entry, shape ``(N, R_k)``.
      core: weights of products; None for those of equal components, each of weight one (CP).

    Complexity:
      O(N R²) for CP, O(N R^{2K}) with a core.
    """
    others = [j for j in range(len(factors)) if j != mode]
    means = [factors[j][0] for j in others]
    seconds = [second_moments(*factors[j]) for j in others]
    if core is None:
        count, rank = factors[mode][0].shape
        ones = jnp.ones((count, rank), factors[mode][0].dtype)
        return math.prod(means, start=ones), math.prod(
            seconds, start=ones[..., None] * ones[:, None]
        )
    axes = len(factors)
    rows, columns = _LETTERS[:axes], _LETTERS[axes : 2 * axes].upper()
    first = ",".join([rows, *(f"n{rows[j]}" for j in others)])
    mean = jnp.einsum(
        f"{first}->n{rows[mode]}" if others else f"{first}->{rows}", core.mean, *means
    )
    pairs = ",".join([rows + columns, *(f"n{rows[j]}{columns[j]}" for j in others)])
    out = f"n{rows[mode]}{columns[mode]}"
    if not others:
        count = len(factors[mode][0])
        return jnp.tile(mean, (count, 1)), jnp.tile(core.second, (count, 1, 1))
    return mean, jnp.einsum(f"{pairs}->{out}", core.second, *seconds, optimize=True)


def value_moments(
    factors: list[tuple[Array, Array]], core: Core | None
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """E[f] and E[f²] at each entry, under independent factors.

    Args:
      factors: for each mode means and variances of its components at the entries, ``(N, R)``.
      core: the posterior of the core, None for CP.

    Returns:
      Two arrays of shape ``(N,)``.
    """
    mean, second = environment(0, factors, core)
    own = second_moments(*factors[0])
    return jnp.sum(mean * factors[0][0], 1), jnp.sum(second * own, (1, 2))


def core_moments(factors: list[tuple[Array, Array]], y: Float[Array, " N"]) -> tuple[Array, Array]:
    """Sums over entries of E[z zᵀ] and y E[z], z the products of all components in a row."""
    axes = len(factors)
    rows, columns = _LETTERS[:axes], _LETTERS[axes : 2 * axes].upper()
    seconds = [second_moments(*factor) for factor in factors]
    pairs = ",".join(f"n{a}{b}" for a, b in zip(rows, columns, strict=True))
    size = math.prod(factor[0].shape[1] for factor in factors)
    both = jnp.einsum(f"{pairs}->{rows}{columns}", *seconds, optimize=True).reshape(size, size)
    singles = ",".join(["n", *(f"n{a}" for a in rows)])
    linear = jnp.einsum(f"{singles}->{rows}", y, *(factor[0] for factor in factors), optimize=True)
    return both, linear.reshape(-1)
