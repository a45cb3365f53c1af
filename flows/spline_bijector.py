"""Rational-quadratic splines as distrax's scalar bijectors, for speed.

The map is that of `distrax.RationalQuadraticSpline` to the last digits. That one differentiates
through cumulative sums and gathers three tables of knots; here the bin is found without
derivatives, and its corner is a masked sum of the sizes before it: a training step of a flow of six
layers in 50 dimensions takes three quarters of the time.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flows.imports import load_distrax
from flows.layer import stop

if TYPE_CHECKING:
    import distrax
else:
    distrax = load_distrax()

Scalars = tuple[Float[Array, "*S"], Float[Array, "*S"]]


class _Bin(NamedTuple):
    """The bin that a number falls into: its corner, its size, and the slopes at its ends."""

    left: Array
    bottom: Array
    width: Array
    height: Array
    slopes: tuple[Array, Array]


class SplineBijector(distrax.Bijector):
    """A monotone spline of [-B, B] onto itself that goes on linearly outside."""

    def __init__(
        self, params: Float[Array, "*S P"], bound: float, min_size: float, min_slope: float
    ):
        """Set up.

        Args:
          params: K widths, K heights and K + 1 slopes before they are normalised; all zero is the
            identity.
          bound: B.
          min_size: of a bin.
          min_slope: at a knot.
        """
        super().__init__(event_ndims_in=0)
        num = (params.shape[-1] - 1) // 3
        sizes = params[..., : 2 * num].reshape(*params.shape[:-1], 2, num)
        self._sizes = jax.nn.softmax(sizes, axis=-1) * (2 * bound - num * min_size) + min_size
        offset = math.log(math.expm1(1 - min_slope))
        self._slopes = jax.nn.softplus(params[..., 2 * num :] + offset) + min_slope
        self._bound = bound

    def _bin(self, value: Array, axis: int) -> _Bin:
        """The bin of a value of x (axis 0) or y (axis 1)."""
        num = self._sizes.shape[-1]
        edges = jnp.cumsum(stop(self._sizes[..., axis, :-1]), axis=-1) - self._bound
        index = jnp.sum(stop(value)[..., None] >= edges, axis=-1, keepdims=True)
        here, before = jnp.arange(num) == index, jnp.arange(num) < index
        pick = lambda mask, x: jnp.sum(jnp.where(mask, x, 0), axis=-1)
        corner = pick(before[..., None, :], self._sizes) - self._bound
        size = pick(here[..., None, :], self._sizes)
        slopes = pick(here, self._slopes[..., :-1]), pick(here, self._slopes[..., 1:])
        return _Bin(corner[..., 0], corner[..., 1], size[..., 0], size[..., 1], slopes)

    def _log_slope(self, at: _Bin, share: Array) -> Array:
        """The log of the slope at a share of the bin's width."""
        mean = at.height / at.width
        first, last = at.slopes
        inner = share * (1 - share)
        top = last * share**2 + 2 * mean * inner + first * (1 - share) ** 2
        bottom = mean + (first + last - 2 * mean) * inner
        return 2 * jnp.log(mean) + jnp.log(top) - 2 * jnp.log(bottom)

    def _outside(self, value: Array) -> tuple[Array, Array, Array]:
        """Whether a value is outside, the end that is nearest, and the slope there."""
        below = value <= -self._bound
        slope = jnp.where(below, self._slopes[..., 0], self._slopes[..., -1])
        end = jnp.where(below, -self._bound, self._bound)
        return below | (value >= self._bound), end, slope

    def forward_and_log_det(self, x: Float[Array, "*S"]) -> Scalars:
        """The image of x and the log of the slope there."""
        at = self._bin(x, 0)
        first, last = at.slopes
        mean = at.height / at.width
        outside, end, slope = self._outside(x)
        share = jnp.where(outside, 0, (x - at.left) / at.width)  # a clip halves slopes at knots
        inner = share * (1 - share)
        rise = at.height * (mean * share**2 + first * inner)
        y = at.bottom + rise / (mean + (first + last - 2 * mean) * inner)
        y = jnp.where(outside, end + (x - end) * slope, y)
        return y, jnp.where(outside, jnp.log(slope), self._log_slope(at, share))

    def inverse_and_log_det(self, y: Float[Array, "*S"]) -> Scalars:
        """The x of which y is the image, by a quadratic, and the log of the inverse's slope."""
        at = self._bin(y, 1)
        first, last = at.slopes
        mean = at.height / at.width
        outside, end, slope = self._outside(y)
        up = jnp.where(outside, 0, y - at.bottom)
        bend = up * (first + last - 2 * mean)
        a, b, c = at.height * (mean - first) + bend, at.height * first - bend, -mean * up
        share = -2 * c / (b + jnp.sqrt(jnp.maximum(b**2 - 4 * a * c, 0)))
        x = jnp.where(outside, end + (y - end) / slope, at.left + share * at.width)
        return x, -jnp.where(outside, jnp.log(slope), self._log_slope(at, share))
