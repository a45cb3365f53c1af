r"""Scales of Gaussian families: the linear map from unit noise to offsets from the location.

Every scale has a strictly positive part, parameterised by a static choice ``positive``:

- ``"linear"``: the parameter is the scale itself, sign ignored. Keeps the energy of a
  log-concave target convex in (location, scale) and has the smallest gradient noise.
- ``"softplus"``: log(1 + eˣ), 1-Lipschitz; the same noise bounds, but convexity may be lost.
- ``"exp"``: eˣ, not Lipschitz: outside the theory, offered because others use it.

(Kim, Wu, Oh and Gardner 2023, "Practical and matching gradient variance bounds for black-box
variational Bayesian inference"; Domke 2020, "Provable smoothness guarantees for black-box
variational inference".) The default is ``"linear"``.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.blocks import Groups, join, split
from vi.module import module, static

Positive = Literal["linear", "softplus", "exp"]


def to_positive(raw: Array, kind: Positive) -> Array:
    """Scale from parameter; ``"linear"`` leaves it as it is, so its sign carries no meaning."""
    if kind == "linear":
        return raw
    if kind == "softplus":
        return jax.nn.softplus(raw)
    if kind == "exp":
        return jnp.exp(raw)
    raise ValueError(
        f"positive: expected 'linear', 'softplus' or 'exp'; got {kind!r}. Choose one of the three."
    )


def from_positive(value: Array, kind: Positive) -> Array:
    """Parameter from positive scale: the inverse of `to_positive`."""
    if kind == "softplus":
        return value + jnp.log(-jnp.expm1(-value))
    return jnp.log(value) if kind == "exp" else value


@module
class DiagonalScale:
    """``diag(s)``: independent coordinates."""

    raw: Float[Array, " D"]
    positive: Positive = static(default="linear")

    @classmethod
    def of(cls, diagonal: Float[Array, " D"], positive: Positive = "linear") -> "DiagonalScale":
        """The scale with the given positive diagonal."""
        return cls(from_positive(diagonal, positive), positive)

    @property
    def diagonal(self) -> Float[Array, " D"]:
        """The standard deviations."""
        return jnp.abs(to_positive(self.raw, self.positive))

    @property
    def noise_dim(self) -> int:
        """Number of unit normals that make one draw."""
        return self.raw.shape[-1]

    def apply(self, noise: Float[Array, "... E"]) -> Float[Array, "... D"]:
        """Offsets from the location made of unit noise."""
        return noise * to_positive(self.raw, self.positive)

    def solve(self, offset: Float[Array, "... D"]) -> Float[Array, "... E"]:
        """The unit noise that makes given offsets: the inverse of `apply`."""
        return offset / to_positive(self.raw, self.positive)

    def mahalanobis(self, offset: Float[Array, "... D"]) -> Float[Array, "..."]:
        """``xᵀ Σ⁻¹ x`` for each row."""
        return jnp.sum(self.solve(offset) ** 2, axis=-1)

    def log_det(self) -> Float[Array, ""]:
        """``½ log |Σ|``."""
        return jnp.sum(jnp.log(self.diagonal))

    def covariance(self) -> Float[Array, "D D"]:
        """Σ, dense."""
        return jnp.diag(self.variance())

    def variance(self) -> Float[Array, " D"]:
        """The diagonal of Σ."""
        return self.diagonal**2


@module
class DenseScale:
    """A lower triangular Cholesky factor, Σ = L Lᵀ; entries above the diagonal are ignored."""

    raw: Float[Array, "D D"]
    positive: Positive = static(default="linear")

    @classmethod
    def of(cls, tril: Float[Array, "D D"], positive: Positive = "linear") -> "DenseScale":
        """The scale with the given Cholesky factor, whose diagonal is positive."""
        diagonal = from_positive(jnp.diagonal(tril), positive)
        return cls(jnp.tril(tril, -1) + jnp.diag(diagonal), positive)

    @property
    def tril(self) -> Float[Array, "D D"]:
        """The Cholesky factor; with ``"linear"`` its diagonal may be negative."""
        return jnp.tril(self.raw, -1) + jnp.diag(to_positive(jnp.diagonal(self.raw), self.positive))

    @property
    def noise_dim(self) -> int:
        """Number of unit normals that make one draw."""
        return self.raw.shape[-1]

    def apply(self, noise: Float[Array, "... E"]) -> Float[Array, "... D"]:
        """Offsets from the location made of unit noise."""
        return noise @ self.tril.T

    def solve(self, offset: Float[Array, "... D"]) -> Float[Array, "... E"]:
        """The unit noise that makes given offsets: the inverse of `apply`."""
        flat = offset.reshape(-1, offset.shape[-1])
        solved = jax.scipy.linalg.solve_triangular(self.tril, flat.T, lower=True)
        return solved.T.reshape(offset.shape)

    def mahalanobis(self, offset: Float[Array, "... D"]) -> Float[Array, "..."]:
        """``xᵀ Σ⁻¹ x`` for each row."""
        return jnp.sum(self.solve(offset) ** 2, axis=-1)

    def log_det(self) -> Float[Array, ""]:
        """``½ log |Σ|``."""
        return jnp.sum(jnp.log(jnp.abs(to_positive(jnp.diagonal(self.raw), self.positive))))

    def covariance(self) -> Float[Array, "D D"]:
        """Σ, dense."""
        return self.tril @ self.tril.T

    def variance(self) -> Float[Array, " D"]:
        """The diagonal of Σ."""
        return jnp.sum(self.tril**2, axis=1)


@module
class BlockScale:
    """A `DenseScale` for each of several disjoint groups of coordinates."""

    blocks: tuple[DenseScale, ...]
    indices: Groups = static()

    @property
    def positive(self) -> Positive:
        """The parameterisation of the blocks."""
        return self.blocks[0].positive

    @property
    def noise_dim(self) -> int:
        """Number of unit normals that make one draw."""
        return sum(map(len, self.indices))

    def apply(self, noise: Float[Array, "... E"]) -> Float[Array, "... D"]:
        """Offsets from the location made of unit noise."""
        pairs = zip(self.blocks, split(noise, self.indices), strict=True)
        return join([b.apply(x) for b, x in pairs], self.indices)

    def solve(self, offset: Float[Array, "... D"]) -> Float[Array, "... E"]:
        """The unit noise that makes given offsets: the inverse of `apply`."""
        pairs = zip(self.blocks, split(offset, self.indices), strict=True)
        return join([b.solve(x) for b, x in pairs], self.indices)

    def mahalanobis(self, offset: Float[Array, "... D"]) -> Float[Array, "..."]:
        """``xᵀ Σ⁻¹ x`` for each row."""
        pairs = zip(self.blocks, split(offset, self.indices), strict=True)
        return jnp.sum(jnp.stack([b.mahalanobis(x) for b, x in pairs]), axis=0)

    def log_det(self) -> Float[Array, ""]:
        """``½ log |Σ|``."""
        return jnp.sum(jnp.stack([b.log_det() for b in self.blocks]))

    def covariance(self) -> Float[Array, "D D"]:
        """Σ, dense."""
        full = jnp.zeros((self.noise_dim,) * 2, self.blocks[0].raw.dtype)
        for block, index in zip(self.blocks, self.indices, strict=True):
            full = full.at[jnp.ix_(jnp.array(index), jnp.array(index))].set(block.covariance())
        return full

    def variance(self) -> Float[Array, " D"]:
        """The diagonal of Σ."""
        return join([b.variance() for b in self.blocks], self.indices)


@module
class LowRankScale:
    """Σ = diag(s²) + F Fᵀ with a factor F of R columns; O(D R²) for everything."""

    raw: Float[Array, " D"]
    factor: Float[Array, "D R"]
    positive: Positive = static(default="linear")

    @classmethod
    def of(
        cls,
        diagonal: Float[Array, " D"],
        factor: Float[Array, "D R"],
        positive: Positive = "linear",
    ) -> "LowRankScale":
        """The scale with the given positive diagonal s and factor F."""
        return cls(from_positive(diagonal, positive), factor, positive)

    @property
    def diagonal(self) -> Float[Array, " D"]:
        """s, the standard deviations that the factor leaves unexplained."""
        return jnp.abs(to_positive(self.raw, self.positive))

    @property
    def noise_dim(self) -> int:
        """Number of unit normals that make one draw: D + R."""
        return sum(self.factor.shape)

    def apply(self, noise: Float[Array, "... E"]) -> Float[Array, "... D"]:
        """Offsets from the location made of unit noise."""
        dim = self.raw.shape[0]
        return noise[..., :dim] * self.diagonal + noise[..., dim:] @ self.factor.T

    def _capacitance(self) -> tuple[Array, Array]:
        """``S⁻¹ F`` and the Cholesky factor of ``I + Fᵀ S⁻² F``."""
        scaled = self.factor / self.diagonal[:, None]
        eye = jnp.eye(self.factor.shape[1], dtype=self.factor.dtype)
        return scaled, jnp.linalg.cholesky(eye + scaled.T @ scaled)

    def mahalanobis(self, offset: Float[Array, "... D"]) -> Float[Array, "..."]:
        """``xᵀ Σ⁻¹ x`` for each row, by Woodbury's identity."""
        scaled, chol = self._capacitance()
        flat = offset.reshape(-1, offset.shape[-1]) / self.diagonal
        solved = jax.scipy.linalg.solve_triangular(chol, (flat @ scaled).T, lower=True)
        total = jnp.sum(flat**2, axis=-1) - jnp.sum(solved**2, axis=0)
        return total.reshape(offset.shape[:-1])

    def log_det(self) -> Float[Array, ""]:
        """``½ log |Σ|``, by the matrix determinant lemma."""
        _, chol = self._capacitance()
        return jnp.sum(jnp.log(self.diagonal)) + jnp.sum(jnp.log(jnp.diagonal(chol)))

    def covariance(self) -> Float[Array, "D D"]:
        """Σ, dense: O(D²) memory."""
        return jnp.diag(self.diagonal**2) + self.factor @ self.factor.T

    def variance(self) -> Float[Array, " D"]:
        """The diagonal of Σ."""
        return self.diagonal**2 + jnp.sum(self.factor**2, axis=1)
