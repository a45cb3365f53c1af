"""The gradient of the ELBO of a flow, from one pass of noise through it."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.module import module, static
from vi.targets import Target

stop = jax.lax.stop_gradient


@module
class ReverseKL:
    r"""Minus the ELBO of a flow and its gradient, with log q taken from the pass forward.

    .. math:: -\mathrm{ELBO} = E_x\big[\log q(T(x)) - \log p(T(x))\big]

    Where the inverse of the layers is cheap, by sticking the landing: log q is evaluated at
    z = T(x) with stopped parameters, and only z is differentiated through; noise-free where q
    is exact. Where it is not (inverse autoregressive, planar, Sylvester), the total gradient, for
    which no inverse is needed. Both are unbiased. Reference: Roeder, Wu and Duvenaud (2017),
    "Sticking the landing: simple, lower-variance gradient estimators for variational inference".

    Attributes:
      num_particles: draws S.

    Complexity:
      S gradients of the log density; with sticking the landing one inverse of the layers more.
    """

    num_particles: int = static()

    def __call__(self, key: Array, q: Any, target: Target) -> tuple[Float[Array, ""], Any]:
        """Loss, and its gradient, a pytree like ``q``."""
        path_key, batch_key = jax.random.split(key)
        noise = q.noise(path_key, self.num_particles)
        batch = batch_key if target.subsampled else None

        def loss(q: Any) -> tuple[Array, Array]:
            z, log_q = q.draw_and_log_prob(noise)
            log_p = jax.vmap(lambda x: target.log_density(x, batch))(z)
            value = jnp.mean(log_q - log_p)
            if not q.explicit:
                return value, value
            return jnp.mean(stop(q).log_prob(z) - log_p), value

        (_, value), gradient = jax.value_and_grad(loss, has_aux=True)(q)
        return value, gradient
