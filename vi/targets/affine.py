"""A target in shifted and scaled coordinates."""

from typing import Any

from jaxtyping import Array, Float

from vi.module import module
from vi.targets.target import Target
from vi.targets.wrapped import Wrapped


@module
class AffineTarget(Wrapped):
    """The density of x where z = shift + L x has the base target's density.

    For optimisers whose steps are of one size in all coordinates.

    Attributes:
      base: the target of z.
      shift: shape ``(D,)``.
      scale: L, one of `vi.families.scale` with as many columns as rows.
    """

    base: Target
    shift: Float[Array, " D"]
    scale: Any

    def log_density(self, x: Float[Array, " D"], key: Array | None = None) -> Float[Array, ""]:
        """Log density of x, nats; ``key`` as for the base target."""
        z = self.shift + self.scale.apply(x)
        return self.base.log_density(z, key) + self.scale.log_det()
