"""Layers that add a bump: planar, radial and Sylvester flows."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flows.layer import Context, Layer, Mapped
from flows.root import increasing_root
from vi.module import module

MARGIN = 1e-3  # by which invertibility is kept away from its edge
_AT_ZERO = math.log(math.expm1(1 - MARGIN))  # softplus(_AT_ZERO) = 1 - MARGIN


def above_minus_one(x: Array) -> Array:
    """An increasing map onto (-1 + `MARGIN`, ∞) that leaves zero where it is."""
    return jax.nn.softplus(x + _AT_ZERO) - (1 - MARGIN)


@module
class Planar(Layer):
    r"""A planar flow.

    .. math::
        f(z) = z + \hat u \tanh(w^T z + b), \qquad
        \log|\det| = \log\big(1 + w^T \hat u\,(1 - \tanh^2(w^T z + b))\big),

    with :math:`\hat u = u + (m(w^T u) - w^T u)\, w / \|w\|^2` and m onto (-1, ∞), which makes it
    invertible. Here m(0) = 0, so that u = 0 is the identity. The inverse is a root in one
    dimension. Reference: Rezende and Mohamed (2015), "Variational inference with normalizing
    flows", equations 10 to 12 and appendix A.1 (there m(x) = -1 + softplus(x)).

    Attributes:
      direction: u, shape ``(D,)``.
      normal: w, shape ``(D,)``.
      offset: b, shape ``()``.
    """

    direction: Float[Array, " D"]
    normal: Float[Array, " D"]
    offset: Float[Array, ""]

    @property
    def explicit(self) -> bool:
        """False: the inverse is a root."""
        return False

    @classmethod
    def initial(cls, generator: np.random.Generator, dim: int, dtype: Any) -> "Planar":
        """The identity, with a normal at random."""
        normal = generator.normal(size=dim) / np.sqrt(dim)
        offset = generator.normal()
        return cls(jnp.zeros(dim, dtype), jnp.asarray(normal, dtype), jnp.asarray(offset, dtype))

    def _direction(self) -> tuple[Array, Array]:
        """û, and wᵀ û."""
        product = self.normal @ self.direction
        inner = above_minus_one(product)
        squared = self.normal @ self.normal + jnp.finfo(self.normal.dtype).tiny
        return self.direction + (inner - product) * self.normal / squared, inner

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and ``log |det ∂y/∂x|``."""
        del context
        direction, inner = self._direction()
        bump = jnp.tanh(x @ self.normal + self.offset)
        return x + bump[..., None] * direction, jnp.log1p(inner * (1 - bump**2))

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and ``log |det ∂x/∂y|``."""
        del context
        direction, inner = self._direction()
        along = y @ self.normal

        def f(a: Array) -> tuple[Array, Array]:
            bump = jnp.tanh(a + self.offset)
            return a + inner * bump - along, 1 + inner * (1 - bump**2)

        reach = jnp.abs(inner)
        bump = jnp.tanh(increasing_root(f, along - reach, along + reach) + self.offset)
        return y - bump[..., None] * direction, -jnp.log1p(inner * (1 - bump**2))


@module
class Radial(Layer):
    r"""A radial flow.

    .. math::
        f(z) = z + \frac{β}{α + r}(z - z_0), \quad r = \|z - z_0\|, \qquad
        \log|\det| = (D - 1) \log(1 + βh) + \log(1 + αβh^2), \quad h = \frac1{α + r}

    with α > 0 and β > -α. Its inverse is the root of a quadratic in r. Reference: Rezende and
    Mohamed (2015), equation 14 and appendix A.2.

    Attributes:
      centre: z₀, shape ``(D,)``.
      log_reach: log α, shape ``()``.
      strength: of any value, shape ``()``; zero is the identity, β / α an increasing map of it.
    """

    centre: Float[Array, " D"]
    log_reach: Float[Array, ""]
    strength: Float[Array, ""]

    @classmethod
    def initial(cls, generator: np.random.Generator, dim: int, dtype: Any) -> "Radial":
        """The identity, with a centre at random."""
        centre = jnp.asarray(generator.normal(size=dim), dtype)
        return cls(centre, jnp.asarray(0.5 * math.log(dim), dtype), jnp.zeros((), dtype))

    def _map(self, offset: Array, r: Array) -> tuple[Array, Array]:
        """The factor by which offsets grow, and the log-determinant."""
        ratio = above_minus_one(self.strength)  # β / α
        near = 1 / (1 + r * jnp.exp(-self.log_reach))  # α h
        log_det = (offset.shape[-1] - 1) * jnp.log1p(ratio * near) + jnp.log1p(ratio * near**2)
        return 1 + ratio * near, log_det

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and ``log |det ∂y/∂x|``."""
        del context
        offset = x - self.centre
        growth, log_det = self._map(offset, _norm(offset))
        return self.centre + growth[..., None] * offset, log_det

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and ``log |det ∂x/∂y|``."""
        del context
        offset = y - self.centre
        s, alpha = _norm(offset), jnp.exp(self.log_reach)
        # s = r + β r / (α + r): r² + (α + β - s) r - α s = 0, by the root that does not cancel.
        half = 0.5 * (alpha * (1 + above_minus_one(self.strength)) - s)
        away = jnp.sqrt(half**2 + alpha * s)
        positive = half > 0
        r = jnp.where(positive, alpha * s / jnp.where(positive, half + away, 1.0), away - half)
        growth, log_det = self._map(offset, r)
        return self.centre + offset / growth[..., None], -log_det


def _norm(x: Array) -> Array:
    """Length, with a finite gradient at zero."""
    return jnp.sqrt(jnp.sum(x**2, axis=-1) + jnp.finfo(x.dtype).tiny)


@module
class Sylvester(Layer):
    r"""A Sylvester flow with orthogonal columns made of Householder reflections.

    .. math::
        f(z) = z + Q R \tanh(\tilde R Q^T z + b), \qquad
        \log|\det| = \sum_i \log\big(1 + r_{ii} \tilde r_{ii} (1 - \tanh^2(\cdot)_i)\big)

    with Q of M orthonormal columns and R, R̃ upper triangular, :math:`\tilde r_{ii} > 0` and
    :math:`r_{ii}\tilde r_{ii} > -1`. For M = 1 it is a planar flow. The inverse is M roots in one
    dimension, from the last to the first. Reference: van den Berg, Hasenclever, Tomczak and
    Welling (2018), "Sylvester normalizing flows for variational inference", theorem 2 and section
    3.2.

    Attributes:
      reflections: shape ``(M, D)``, of which Q is made.
      outer: shape ``(M, M)``; above the diagonal R, on it what makes r r̃; zero is the identity.
      inner: shape ``(M, M)``; above the diagonal R̃, on it the logarithm of r̃.
      offset: b, shape ``(M,)``.
    """

    reflections: Float[Array, "M D"]
    outer: Float[Array, "M M"]
    inner: Float[Array, "M M"]
    offset: Float[Array, " M"]

    @property
    def explicit(self) -> bool:
        """False: the inverse is a root."""
        return False

    @classmethod
    def initial(
        cls, generator: np.random.Generator, dim: int, num_columns: int, dtype: Any
    ) -> "Sylvester":
        """The identity, with columns at random."""
        square = (num_columns, num_columns)
        return cls(
            jnp.asarray(generator.normal(size=(num_columns, dim)), dtype),
            jnp.zeros(square, dtype),
            jnp.asarray(np.triu(generator.normal(size=square), 1) / num_columns, dtype),
            jnp.asarray(generator.normal(size=num_columns), dtype),
        )

    def _matrices(self) -> tuple[Array, Array, Array, Array]:
        """Q, R, R̃ and the products of their diagonals."""
        num, dim = self.reflections.shape

        def reflect(q: Array, v: Array) -> tuple[Array, None]:
            return q - 2 * jnp.outer(v, v @ q) / (v @ v), None

        start = jnp.eye(dim, num, dtype=self.offset.dtype)
        q, _ = jax.lax.scan(reflect, start, self.reflections)
        products = above_minus_one(jnp.diagonal(self.outer))
        scales = jnp.exp(jnp.diagonal(self.inner))
        outer = jnp.triu(self.outer, 1) + jnp.diag(products / scales)
        return q, outer, jnp.triu(self.inner, 1) + jnp.diag(scales), products

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and ``log |det ∂y/∂x|``."""
        del context
        q, outer, inner, products = self._matrices()
        bump = jnp.tanh(x @ q @ inner.T + self.offset)
        log_det = jnp.sum(jnp.log1p(products * (1 - bump**2)), axis=-1)
        return x + bump @ (q @ outer).T, log_det

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and ``log |det ∂x/∂y|``."""
        del context
        q, outer, inner, products = self._matrices()
        along = y @ q

        def solve(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
            v, bump = carry  # zero at coordinates up to i
            aim = along[..., i] - bump @ outer[i]
            offset = v @ inner[i] + self.offset[i]

            def f(a: Array) -> tuple[Array, Array]:
                t = jnp.tanh(inner[i, i] * a + offset)
                return a + outer[i, i] * t - aim, 1 + products[i] * (1 - t**2)

            reach = jnp.abs(outer[i, i])
            a = increasing_root(f, aim - reach, aim + reach)
            v = v.at[..., i].set(a)
            return (v, bump.at[..., i].set(jnp.tanh(inner[i, i] * a + offset))), None

        zeros = jnp.zeros_like(along)
        order = jnp.arange(along.shape[-1])
        (_, bump), _ = jax.lax.scan(solve, (zeros, zeros), order, reverse=True)
        log_det = jnp.sum(jnp.log1p(products * (1 - bump**2)), axis=-1)
        return y - bump @ (q @ outer).T, -log_det
