r"""Expectations in closed form, which replace sampled ones where a rule is known.

Rules are registered by the types of the law and of the integrand. What has no rule is evaluated at
the draws, so that a program needs no case distinctions. For the sites of guides see
`vi.program.closed`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.families import Gaussian
from vi.module import module

_RULES: dict[tuple[type, type], Callable[[Any, Any], Array | None]] = {}


def register_expectation(law: type, integrand: type) -> Callable:
    """Decorator that registers a rule for E_q[f] by the types of q and f.

    ``q.expect(f, ...)`` and ``q.exact(f, z)`` in programs look for it. A rule for a class serves
    its subclasses; one that returns None leaves f to be sampled.

    Args:
      law: the type of family, such as `vi.Gaussian`.
      integrand: the type of f, which is called with draws of shape ``(K, D)`` where no rule fits.

    Returns:
      The decorator of a rule, called as ``rule(q, f)`` and returning shape ``()``.

    Example:
      >>> import jax.numpy as jnp, vi
      >>> class Total:
      ...     def __call__(self, z):
      ...         return z.sum(-1)
      >>> @vi.register_expectation(vi.Gaussian, Total)
      ... def total_of_gaussian(q, f):
      ...     return q.loc.sum()
    """

    def keep(rule: Callable[[Any, Any], Array | None]) -> Callable[[Any, Any], Array | None]:
        _RULES[law, integrand] = rule
        return rule

    return keep


def has_rules(f: Any) -> bool:
    """Whether some rule is for integrands of this type."""
    kinds = type(f).__mro__
    return any(integrand in kinds for _, integrand in _RULES)


def expectation(law: Any, f: Any) -> Array | None:
    """E_q[f] by the rule of the most special types; None if there is none."""
    for kind in type(law).__mro__:
        for integrand in type(f).__mro__:
            if (kind, integrand) in _RULES:
                return _RULES[kind, integrand](law, f)
    return None


@module
class LogDensity:
    """The log density of a family, as an integrand: of Gaussians it has a closed form.

    Attributes:
      of: a family.

    Example:
      >>> import jax, jax.numpy as jnp, vi
      >>> prior = vi.mean_field(2, scale=3.0)
      >>> @vi.objective
      ... def bound(p, q, *, num_particles):
      ...     z = q.sample(num_particles)
      ...     gap = q.exact(vi.LogDensity(prior), z) + q.entropy(z)  # minus the KL divergence
      ...     return jnp.mean(p.log_density(z) + gap)
      >>> likelihood = vi.target(lambda x: -0.5 * jnp.sum((x - 1) ** 2), jnp.zeros(2))
      >>> value = bound(num_particles=4).value(jax.random.key(0), vi.mean_field(2), likelihood)
      >>> value.shape
      ()
    """

    of: Any

    def __call__(self, z: Float[Array, "K D"]) -> Float[Array, " K"]:
        """Log density of each row, in nats."""
        return self.of.log_prob(z)


@register_expectation(Gaussian, LogDensity)
def _gaussian_cross_entropy(q: Gaussian, f: LogDensity) -> Array | None:
    r""":math:`E_q \log p = \log p(m_q) - \tfrac12 \operatorname{tr}(Σ_p^{-1} Σ_q)`."""
    if not isinstance(f.of, Gaussian):
        return None
    columns = q.scale.apply(jnp.eye(q.scale.noise_dim, dtype=q.loc.dtype))
    return f.of.log_prob(q.loc) - 0.5 * jnp.sum(f.of.scale.mahalanobis(columns))


@module
class LinearLogLikelihood:
    r"""Log likelihood of a linear model with Gaussian noise; closed for Gaussian families.

    .. math:: E_q\Big[\sum_n \log N(y_n; x_n^T z, s^2)\Big] = \sum_n \Big(\log N(y_n; x_n^T m, s^2)
        - \frac{x_n^T Σ x_n}{2 s^2}\Big)

    Attributes:
      features: x, shape ``(N, D)``.
      observations: y, shape ``(N,)``.
      scale: s.

    Complexity: O(N D E) time for a covariance of E columns of noise.
    """

    features: Float[Array, "N D"]
    observations: Float[Array, " N"]
    scale: Float[Array, ""]

    def __call__(self, z: Float[Array, "K D"]) -> Float[Array, " K"]:
        """Log likelihood at each row, in nats."""
        means = z @ self.features.T
        return jax.scipy.stats.norm.logpdf(self.observations, means, self.scale).sum(-1)


@register_expectation(Gaussian, LinearLogLikelihood)
def _linear_log_likelihood(q: Gaussian, f: LinearLogLikelihood) -> Array:
    columns = q.scale.apply(jnp.eye(q.scale.noise_dim, dtype=q.loc.dtype))
    spread = jnp.sum((columns @ f.features.T) ** 2)
    return f(q.loc[None])[0] - 0.5 * spread / f.scale**2
