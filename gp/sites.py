"""Sites: what the data say of each latent value, as a Gaussian factor."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Sites(NamedTuple):
    r"""One Gaussian factor for each latent value.

    .. math:: t_i(f_i) = e^{λ_{1i} f_i - λ_{2i} f_i^2/2}, \qquad q(f) \propto p(f) \prod_i t_i(f_i)

    Every approximate posterior is of this form, the exact one among them where the likelihood is
    Gaussian. A site of zero precision is a datum that is missing.

    Attributes:
      linear: :math:`λ_1`, shape ``(N,)``, or ``(N, L)`` for likelihoods of L latent functions.
      precision: :math:`λ_2 \ge 0`, the same shape.
    """

    linear: Float[Array, "N ..."]
    precision: Float[Array, "N ..."]

    @property
    def centre(self) -> Float[Array, "N ..."]:
        """Pseudo-observations :math:`λ_1 / λ_2`, zero where the precision is."""
        known = self.precision > 0
        return jnp.where(known, self.linear / jnp.where(known, self.precision, 1.0), 0.0)


def misfits(key: Array, sites: Sites, values: Float[Array, "S N"]) -> Float[Array, "S N"]:
    """Pseudo-observations less values, and less a draw of their noise; zero where there is none."""
    known = sites.precision > 0
    spread = jnp.where(known, jax.lax.rsqrt(jnp.where(known, sites.precision, 1.0)), 0.0)
    noise = spread * jax.random.normal(key, values.shape, values.dtype)
    return jnp.where(known, sites.centre - values - noise, 0.0)
