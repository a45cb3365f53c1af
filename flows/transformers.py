r"""Transformers: increasing maps of one number whose parameters a conditioner gives.

With all parameters zero each is the identity. They build scalar bijectors of distrax.
"""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from flows.imports import load_distrax
from vi.module import module, static

if TYPE_CHECKING:
    import distrax

MIN_BIN = 0.08  # of an even bin: smallest width and height
MIN_SLOPE = 0.1  # at a knot; smaller ones let a flow end at a wall, which its own draws never see


@module
class Affine:
    r"""A shift and a scale.

    .. math:: y = x \exp(c \tanh(a / c)) + b

    Attributes:
      limit: c, the largest absolute log scale of one layer.
    """

    limit: float = static(default=2.0)

    @property
    def num_params(self) -> int:
        """Numbers a coordinate takes: a and b."""
        return 2

    def bijector(self, params: Float[Array, "*S 2"]) -> "distrax.Bijector":
        """The map as a scalar `distrax.Bijector`."""
        log_scale = self.limit * jnp.tanh(params[..., 0] / self.limit)
        return load_distrax().ScalarAffine(params[..., 1], log_scale=log_scale)


@module
class Spline:
    r"""A monotone rational-quadratic spline, and then a shift and a scale.

    The spline maps [-B, B] onto itself and goes on linearly outside, with free slopes at the ends.
    Reference: Durkan, Bekasov, Murray and Papamakarios (2019), "Neural spline flows", section
    3.1; there slopes at the ends are 1 and no affine map follows. Here tails can widen, and the
    whole conditional can move, as it must in funnels.

    Attributes:
      num_bins: K.
      bound: B, in standard deviations of the noise.
      limit: of the log scale, as in `Affine`.
    """

    num_bins: int = static(default=8)
    bound: float = static(default=4.0)
    limit: float = static(default=2.0)

    @property
    def num_params(self) -> int:
        """Numbers a coordinate takes: widths, heights and slopes, scale and shift."""
        return 3 * self.num_bins + 3

    def bijector(self, params: Float[Array, "*S P"]) -> "distrax.Bijector":
        """The map as a scalar `distrax.Bijector`."""
        distrax = load_distrax()
        from flows.spline_bijector import SplineBijector

        least = MIN_BIN * 2 * self.bound / self.num_bins
        spline = SplineBijector(params[..., 2:], self.bound, least, MIN_SLOPE)
        return distrax.Chain([Affine(self.limit).bijector(params[..., :2]), spline])


def transformer_named(transformer: Any, num_bins: int, owner: str) -> Affine | Spline:
    """The transformer of a name, or the one given.

    Raises:
      ValueError: for a name that is none.
    """
    if transformer == "affine":
        return Affine()
    if transformer == "spline":
        return Spline(num_bins)
    if isinstance(transformer, (Affine, Spline)):
        return transformer
    raise ValueError(
        f"{owner}: expected transformer 'affine', 'spline', flows.Affine or flows.Spline; got "
        f"{transformer!r}."
    )
