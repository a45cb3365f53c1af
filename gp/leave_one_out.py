"""Leave-one-out predictions from one fit, through the sites."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from gp.model import Data, expectations
from gp.prior import Conditional
from vi.compile import quick_jit


@quick_jit
def leave_one_out(
    likelihood: Any, q: Conditional, data: Data, rest: Array | float = 0.0
) -> tuple[Array, Array, Array]:
    r"""The law of each latent value without its own target, and the target's log density there.

    .. math:: q_{-i}(f_i) \propto q(f_i) / t_i(f_i)

    Exact for a Gaussian likelihood; for others to the accuracy of the sites.

    Args:
      likelihood: the likelihood.
      q: the posterior.
      data: targets.
      rest: the part of each variance that no site acts on: what inducing inputs leave out.

    Returns:
      Means and variances without the target, shape ``(K,)`` or ``(K, L)``, and log predictive
      densities, shape ``(K,)``, nats.

    Complexity:
      O(K).

    Reference: Vehtari, Mononen, Tolvanen, Sivula and Winther (2016), "Bayesian leave-one-out
    cross-validation approximations for Gaussian latent variable models", section 3.2.
    """
    mean, variance = data.of_targets(q.mean), data.of_targets(q.variance)
    found = expectations(likelihood, q.mean, q.variance, data)
    curvature = jnp.maximum(found.curvature, 0.0)
    rest = data.of_targets(jnp.broadcast_to(rest, q.variance.shape))
    known = jnp.maximum(variance - rest, 0.0)
    # With one's own factor of precision c taken out: v / (1 - c v), its shift c m + g with it.
    left = jnp.maximum(1 - curvature * known, 100 * jnp.finfo(mean.dtype).eps)
    without = known / left
    centre, without = mean - without * found.gradient, without + rest
    return centre, without, likelihood.log_predictive(centre, without, data.y)
