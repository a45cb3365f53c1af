"""Monotone polynomials as distrax's scalar bijectors."""

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jaxtyping import Array, Float

from flows.imports import load_distrax
from flows.transport import evaluate, integral, invert

if TYPE_CHECKING:
    import distrax
else:
    distrax = load_distrax()

Scalars = tuple[Float[Array, "*S"], Float[Array, "*S"]]


class MonotonePolynomialBijector(distrax.Bijector):
    """The integral of a positive polynomial, scaled and shifted."""

    def __init__(self, slope: Array, log_scale: Array, shift: Array):
        """From the coefficients of the polynomial that is integrated, lowest first."""
        super().__init__(event_ndims_in=0)
        self._slope, self._log_scale, self._shift = slope, log_scale, shift

    def forward_and_log_det(self, x: Float[Array, "*S"]) -> Scalars:
        """The image of x and the log of the slope there."""
        y = self._shift + jnp.exp(self._log_scale) * integral(self._slope, x)
        return y, self._log_slope(x)

    def inverse_and_log_det(self, y: Float[Array, "*S"]) -> Scalars:
        """The x of which y is the image, a root, and the log of the inverse's slope."""
        aim = (y - self._shift) * jnp.exp(-self._log_scale)
        x = invert(self._slope, aim)
        return x, -self._log_slope(x)

    def _log_slope(self, x: Array) -> Array:
        return jnp.log(evaluate(self._slope, x)) + self._log_scale
