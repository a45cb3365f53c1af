"""Resampling: how particles of little weight are replaced, and what gradients see of it."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.distances import implicit, sinkhorn
from vi.module import module, static

TRANSPORT_STEPS = 200


@module
class Resampling:
    r"""Resampling with replacement, from weights that may be mixed with equal ones.

    Ancestors a are drawn with probabilities :math:`r_a = α W_a + (1 - α)/N`, and their new weights
    are :math:`W_a / (N r_a)`: equal for α = 1. The evidence of a filter is unbiased for every α.

    The choice of ancestors has no derivative of its own. What stands for it is ``gradient``:

    - ``"score"``: :math:`W_a / r_a` is differentiated with r held fixed. The gradient of the
      evidence Ẑ is then unbiased for that of the evidence, and that of log Ẑ has a bias that falls
      as 1/N (Ścibior and Wood 2021, "Differentiable particle filtering without modifying the
      forward pass"). It is noisy over long series.
    - ``"soft"``: it is differentiated with r too (Karkus, Hsu and Lee 2018, "Particle filter
      networks with application to visual localization"). **Biased**; at α = 1 the same as "none".
    - ``"none"``: nothing, as usual in variational sequential Monte Carlo. **Biased**, least noise.

    Attributes:
      scheme: ``"systematic"``, with less noise, or ``"multinomial"``.
      mix: α, in (0, 1].
      gradient: as above.
    """

    scheme: Literal["systematic", "multinomial"] = static(default="systematic")
    mix: float | Array = 1.0
    gradient: Literal["score", "soft", "none"] = static(default="score")

    def __call__(
        self, key: Array, particles: Float[Array, "N D"], log_weights: Float[Array, " N"]
    ) -> tuple[Float[Array, "N D"], Float[Array, " N"]]:
        """New particles and log weights; the old weights sum to one."""
        n = len(log_weights)
        mix = jnp.asarray(self.mix, log_weights.dtype)
        rates = mix * jnp.exp(log_weights) + (1 - mix) / n
        steps = jnp.cumsum(jax.lax.stop_gradient(rates))
        steps = steps / steps[-1]
        if self.scheme == "systematic":
            points = (jnp.arange(n) + jax.random.uniform(key, (), steps.dtype)) / n
        elif self.scheme == "multinomial":
            points = jax.random.uniform(key, (n,), steps.dtype)
        else:
            raise ValueError(
                f"Resampling: expected scheme 'systematic' or 'multinomial'; got {self.scheme!r}."
            )
        points = jnp.minimum(points, 1 - jnp.finfo(steps.dtype).epsneg)  # rounding reaches 1
        ancestors = jnp.searchsorted(steps, points, side="right")
        log_rates = jnp.log(rates[ancestors])  # of those chosen, none of which is zero
        if self.gradient == "score":
            log_rates = jax.lax.stop_gradient(log_rates)
        elif self.gradient not in ("soft", "none"):
            raise ValueError(
                f"Resampling: expected gradient 'score', 'soft' or 'none'; got {self.gradient!r}."
            )
        new = log_weights[ancestors] - log_rates - jnp.log(n)
        if self.gradient == "none":
            new = jax.lax.stop_gradient(new)
        return particles[ancestors], new


@module
class Transport:
    r"""Resampling by optimal transport: the particles move to where equal weights say the same.

    .. math:: \tilde z_i = N \sum_j P_{ij} z_j

    with P the entropic transport plan from equal weights to the given ones, in the squared distance
    over its mean. Deterministic and differentiable, in particles and weights. **Biased**: particles
    shrink together by the entropy, so the evidence is not unbiased; consistent as N grows and ε
    falls.

    Attributes:
      regularization: ε, in units of the mean squared distance.

    Reference: Corenflos, Thornton, Deligiannidis and Doucet (2021), "Differentiable particle
    filtering via entropy-regularized optimal transport"; here gradients are of the exact plan,
    by the implicit function theorem.
    """

    regularization: float | Array = 0.05

    def __call__(
        self, key: Array, particles: Float[Array, "N D"], log_weights: Float[Array, " N"]
    ) -> tuple[Float[Array, "N D"], Float[Array, " N"]]:
        """New particles and equal log weights; O(N²) a step of Sinkhorn, O(N³) a gradient."""
        del key
        n = len(log_weights)
        squared = jnp.sum((particles[:, None] - particles[None]) ** 2, -1)
        scale = jax.lax.stop_gradient(jnp.mean(squared))
        cost = squared / jnp.where(scale > 0, scale, 1)
        weights = jnp.exp(log_weights)
        plan = sinkhorn(
            cost, None, weights, regularization=self.regularization, max_steps=TRANSPORT_STEPS
        )
        moved = n * implicit(plan).matrix() @ particles
        return moved, jnp.full_like(log_weights, -jnp.log(n))
