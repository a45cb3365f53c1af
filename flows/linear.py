"""Linear layers: elementwise (ActNorm) and dense by its triangular factors."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flows.layer import Context, Layer, Mapped
from vi.families import Gaussian
from vi.module import module


@module
class ActNorm(Layer):
    r"""A shift and a scale of each coordinate.

    .. math:: y = x \odot e^{s} + b, \qquad \log|\det| = \sum_i s_i

    Reference: Kingma and Dhariwal (2018), "Glow: generative flow with invertible 1x1
    convolutions", section 3.1.

    Attributes:
      log_scale: s, shape ``(D,)``.
      shift: b, shape ``(D,)``.
    """

    log_scale: Float[Array, " D"]
    shift: Float[Array, " D"]

    @classmethod
    def identity(cls, dim: int, dtype: Any) -> "ActNorm":
        """No shift, and scale one."""
        return cls(jnp.zeros(dim, dtype), jnp.zeros(dim, dtype))

    @classmethod
    def onto(cls, data: Float[Array, "N D"]) -> "ActNorm":
        """From standard scores to data: their means and standard deviations.

        Args:
          data: N ≥ 2 rows, no column constant.

        Returns:
          The layer; its inverse makes the data's columns of mean zero and variance one.
        """
        return cls(jnp.log(jnp.std(data, axis=0)), jnp.mean(data, axis=0))

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and ``log |det ∂y/∂x|``."""
        del context
        log_det = jnp.broadcast_to(jnp.sum(self.log_scale), x.shape[:-1])
        return x * jnp.exp(self.log_scale) + self.shift, log_det

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and ``log |det ∂x/∂y|``."""
        del context
        log_det = jnp.broadcast_to(-jnp.sum(self.log_scale), y.shape[:-1])
        return (y - self.shift) * jnp.exp(-self.log_scale), log_det


@module
class LULinear(Layer):
    r"""A dense linear map by its triangular factors.

    .. math:: y = L U x + b, \qquad \log|\det| = \sum_i \log u_{ii}

    L has a unit diagonal and :math:`u_{ii} = e^{m_{ii}} > 0`; all of M zero is the identity. Both
    directions are O(D²) a draw. Reference: Oliva et al. (2018), "Transformation autoregressive
    networks", section 3.1; Durkan et al. (2019), "Neural spline flows", section 3.2.

    Attributes:
      factors: M, shape ``(D, D)``: below the diagonal L, above it U, on it log diag U.
      shift: b, shape ``(D,)``.
    """

    factors: Float[Array, "D D"]
    shift: Float[Array, " D"]

    @classmethod
    def identity(cls, dim: int, dtype: Any) -> "LULinear":
        """The identity."""
        return cls(jnp.zeros((dim, dim), dtype), jnp.zeros(dim, dtype))

    def _triangles(self) -> tuple[Array, Array]:
        eye = jnp.eye(self.shift.shape[0], dtype=self.shift.dtype)
        upper = jnp.triu(self.factors, 1) + jnp.diag(jnp.exp(jnp.diagonal(self.factors)))
        return jnp.tril(self.factors, -1) + eye, upper

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and ``log |det ∂y/∂x|``."""
        del context
        lower, upper = self._triangles()
        log_det = jnp.broadcast_to(jnp.trace(self.factors), x.shape[:-1])
        return x @ upper.T @ lower.T + self.shift, log_det

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and ``log |det ∂x/∂y|``."""
        del context
        lower, upper = self._triangles()
        rows = (y - self.shift).reshape(-1, y.shape[-1]).T
        solve = jax.scipy.linalg.solve_triangular
        x = solve(upper, solve(lower, rows, lower=True, unit_diagonal=True)).T
        return x.reshape(y.shape), jnp.broadcast_to(-jnp.trace(self.factors), y.shape[:-1])


@module
class GaussianMap(Layer):
    r"""The affine map of a Gaussian, from unit normals to its draws.

    .. math:: y = m + L x, \qquad \log|\det| = \sum_i \log l_{ii}

    Attributes:
      q: a `vi.Gaussian` with as many unit normals as coordinates.
    """

    q: Gaussian

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and ``log |det ∂y/∂x|``."""
        del context
        log_det = jnp.broadcast_to(self.q.scale.log_det(), x.shape[:-1])
        return self.q.loc + self.q.scale.apply(x), log_det

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and ``log |det ∂x/∂y|``."""
        del context
        log_det = jnp.broadcast_to(-self.q.scale.log_det(), y.shape[:-1])
        return self.q.scale.solve(y - self.q.loc), log_det
