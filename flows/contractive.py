"""Residual layers: the identity plus a network that is a contraction."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flows.layer import Context, Layer, Mapped, stop
from flows.networks import initial_parameters
from vi.module import module, static

STEEPEST = 1.1  # the largest slope of SiLU is 1.0998
_CONTRACTIONS, _NEWTON = 60, 4  # steps of the inverse


@module
class Residual(Layer):
    r"""The identity plus a contraction.

    .. math::
        y = x + W_2^T φ(W_1^T x + C^T c + b), \qquad
        \log|\det| = \log\det\big(I_H + Φ' W_1^T W_2^T\big), \quad Φ' = \operatorname{diag} φ'

    with φ SiLU over its largest slope, and each of W₁ and W₂ scaled down so that its spectral norm
    is at most the square root of ``contraction``. The norm is bounded from above by the Schatten
    norm of order 16, which is at most :math:`R^{1/16}` times as large for rank R, so that the map
    is a contraction for all parameters and not only where a power iteration has converged.

    The log-determinant is exact: of the D x D Jacobian, or, where there are fewer hidden units than
    coordinates, of H x H by Sylvester's identity. With one hidden layer it costs less than the
    power series, and training needs no Russian roulette to be unbiased; stack layers for depth.
    The inverse is by fixed-point and then Newton steps.

    References: Behrmann, Grathwohl, Chen, Duvenaud and Jacobsen (2019), "Invertible residual
    networks", theorem 1 and algorithm 1; Chen, Behrmann, Duvenaud and Jacobsen (2019), "Residual
    flows for invertible generative modeling", section 3.2 (there deeper networks, and the series).

    Attributes:
      weights: W₁, shape ``(D, H)``, and W₂, shape ``(H, D)``; W₂ = 0 is the identity.
      bias: b, shape ``(H,)``.
      given: C, shape ``(C, H)``, by which the context enters; no rows without one.
      contraction: largest Lipschitz constant of what is added, below 1.
    """

    weights: tuple[Float[Array, "D H"], Float[Array, "H D"]]
    bias: Float[Array, " H"]
    given: Float[Array, "C H"]
    contraction: float = static(default=0.95)

    @property
    def explicit(self) -> bool:
        """False: the inverse is iterated."""
        return False

    @classmethod
    def initial(
        cls, generator: np.random.Generator, dim: int, hidden: int, context_dim: int, dtype: Any
    ) -> "Residual":
        """The identity, with hidden weights at random."""
        (inner, outer), _ = initial_parameters(
            generator, (dim + context_dim, hidden, dim), np.dtype(dtype)
        )
        bias = jnp.asarray(generator.normal(size=hidden), dtype)
        return cls((inner[:dim], outer), bias, inner[dim:])

    def _scaled(self) -> tuple[Array, Array]:
        """W₁ and W₂ / 1.1, each with its norm bounded."""
        inner, outer = (_at_most(w, self.contraction**0.5) for w in self.weights)
        return inner, outer / STEEPEST

    def _hidden(self, x: Array, inner: Array, context: Context) -> Array:
        out = x @ inner + self.bias
        return out if context is None else out + context @ self.given

    def _slopes(self, x: Array, inner: Array, context: Context) -> Array:
        u = self._hidden(x, inner, context)
        gate = jax.nn.sigmoid(u)
        return gate * (1 + u * (1 - gate))

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and ``log |det ∂y/∂x|``."""
        inner, outer = self._scaled()
        y = x + jax.nn.silu(self._hidden(x, inner, context)) @ outer
        slopes = self._slopes(x, inner, context)
        if inner.shape[0] <= inner.shape[1]:
            jacobian = (inner * slopes[..., None, :]) @ outer  # transposed
        else:
            jacobian = slopes[..., None] * (outer @ inner).T
        eye = jnp.eye(jacobian.shape[-1], dtype=x.dtype)
        return y, jnp.linalg.slogdet(jacobian + eye)[1]

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and ``log |det ∂x/∂y|``; about 70 evaluations."""
        fixed = stop(self)
        inner, outer = fixed._scaled()
        at, context_at = stop(y), stop(context)
        bump = lambda x: jax.nn.silu(fixed._hidden(x, inner, context_at)) @ outer

        def newton(_: int, x: Array) -> Array:
            slopes = fixed._slopes(x, inner, context_at)
            return x - _solve(x + bump(x) - at, slopes, inner, outer)

        x = jax.lax.fori_loop(0, _CONTRACTIONS, lambda _, x: at - bump(x), at)
        x = jax.lax.fori_loop(0, _NEWTON, newton, x)
        # One more step, through which first derivatives are those of the inverse.
        image, _ = self.forward_and_log_det(x, context)
        slopes = fixed._slopes(x, inner, context_at)
        x = x - _solve(image - y, slopes, inner, outer)
        return x, -self.forward_and_log_det(x, context)[1]

    def _push_score(self, x: Array, y: Array, score: Array, context: Context) -> Array:
        """The score at y, by one solve with the Jacobian transposed."""
        del y
        (image, log_det), pull = jax.vjp(lambda x: self.forward_and_log_det(x, context), x)
        bend = pull((jnp.zeros_like(image), jnp.ones_like(log_det)))[0]
        inner, outer = self._scaled()
        return _solve(score - bend, self._slopes(x, inner, context), outer.T, inner.T)


def _solve(right: Array, slopes: Array, inner: Array, outer: Array) -> Array:
    """Solve :math:`(I + W_2^T Φ' W_1^T) v = r` for rows r.

    With the two matrices transposed and in each other's place, the same with the transpose.
    """
    if inner.shape[0] <= inner.shape[1]:
        jacobian = jnp.swapaxes((inner * slopes[..., None, :]) @ outer, -1, -2)
        eye = jnp.eye(jacobian.shape[-1], dtype=right.dtype)
        return jnp.linalg.solve(jacobian + eye, right[..., None])[..., 0]
    small = slopes[..., None] * (outer @ inner).T
    eye = jnp.eye(small.shape[-1], dtype=right.dtype)
    inside = jnp.linalg.solve(small + eye, (slopes * (right @ inner))[..., None])[..., 0]
    return right - inside @ outer


def _at_most(weight: Array, norm: float) -> Array:
    """The matrix, scaled down where a bound on its spectral norm is above ``norm``."""
    tiny = jnp.finfo(weight.dtype).tiny ** 0.5
    length = jnp.sqrt(jnp.sum(weight**2) + tiny)
    unit = weight / length
    gram = unit @ unit.T if weight.shape[0] <= weight.shape[1] else unit.T @ unit
    fourth = gram @ gram
    fourth = fourth @ fourth
    bound = length * (jnp.sum(fourth**2) + tiny) ** (1 / 16)
    return weight / jnp.maximum(1.0, bound / norm)
