"""A target in shifted and scaled coordinates."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.module import module
from vi.targets.target import Target
from vi.targets.wrapped import Wrapped


@module
class AffineTarget(Wrapped):
    """The density of x where z = shift + scale · x has the base target's density.

    For optimisers whose steps are of one size in all coordinates.
    """

    base: Target
    shift: Float[Array, " D"]
    scale: Float[Array, " D"]

    def log_density(self, x: Float[Array, " D"], key: Array | None = None) -> Float[Array, ""]:
        """Log density of x, nats; ``key`` as for the base target."""
        volume = jnp.sum(jnp.log(self.scale))
        return self.base.log_density(self.shift + self.scale * x, key) + volume
