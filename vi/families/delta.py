"""A point: maximum a posteriori as a family."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.module import module


@module
class Delta:
    """All mass at ``loc``. Its log density is 0 by convention, so that the ELBO is log p(loc).

    Attributes:
      loc: the point, unconstrained.
    """

    loc: Float[Array, " D"]

    @property
    def dim(self) -> int:
        """Number D of coordinates."""
        return self.loc.shape[-1]

    def noise(self, key: Array, num_samples: int) -> Float[Array, "S 0"]:
        """No noise: one draw is as good as any number."""
        del key
        return jnp.zeros((num_samples, 0), self.loc.dtype)

    def draw(self, noise: Float[Array, "S 0"]) -> tuple[Float[Array, "S D"], Float[Array, " S"]]:
        """The point, once for each row of noise, and equal weights."""
        num = noise.shape[0]
        return jnp.tile(self.loc, (num, 1)), jnp.full(num, 1 / num, self.loc.dtype)

    def sample(self, key: Array, num_samples: int | None = None) -> Float[Array, "*S D"]:
        """The point, or copies of it."""
        del key
        return self.loc if num_samples is None else jnp.tile(self.loc, (num_samples, 1))

    def log_prob(self, z: Float[Array, "... D"]) -> Float[Array, "..."]:
        """Zero, whatever ``z``."""
        return jnp.zeros(z.shape[:-1], z.dtype)

    def sample_and_log_prob(
        self, key: Array, num_samples: int | None = None
    ) -> tuple[Float[Array, "*S D"], Float[Array, "*S"]]:
        """Draws and their log density."""
        z = self.sample(key, num_samples)
        return z, self.log_prob(z)

    def entropy(self) -> Float[Array, ""]:
        """Zero, by the same convention as `log_prob`."""
        return jnp.zeros((), self.loc.dtype)

    def variance(self) -> Float[Array, " D"]:
        """Zero."""
        return jnp.zeros_like(self.loc)

    def covariance(self) -> Float[Array, "D D"]:
        """Zero."""
        return jnp.zeros((self.dim, self.dim), self.loc.dtype)
