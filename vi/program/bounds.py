r"""Bounds on the log evidence: the importance-weighted family, Rényi's and the chi-square bound.

With weights :math:`w_k = p(x, z_k) / q(z_k)` of K independent draws. Where all random sites of a
guide are under a plate, each of these is taken datum by datum and then summed (and scaled by N/B).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.program.objective import objective
from vi.program.requirements import POSITIVE, Requirement
from vi.program.surrogate import only_gradient, stop


def log_mean_exp(x: Array, axis: int = 0) -> Array:
    """Logarithm of the mean of exponentials along an axis."""
    return jax.nn.logsumexp(x, axis=axis) - jnp.log(x.shape[axis]).astype(x.dtype)


@objective
def iwae(p: Any, q: Any, *, num_particles: int) -> Float[Array, ""]:
    r"""Importance-weighted bound.

    .. math:: \mathrm{IWAE}_K = E\Big[\log \tfrac1K \sum_k w_k\Big] \le \log p(x)

    It rises to log p(x) as K grows, at rate :math:`\operatorname{Var}[w] / (2 K p(x)^2)`. The
    signal-to-noise ratio of its pathwise gradient falls with K; that of
    `DoublyReparameterized` rises. Discrete sites: `Score` is VIMCO.

    Args:
      p: view of the target.
      q: view of the family or guide.
      num_particles: K.

    Returns:
      Unbiased estimate of the bound, nats.

    Complexity: K evaluations of the model.

    Reference: Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders",
    equation 8.

    Example:
      >>> import jax, jax.numpy as jnp, vi
      >>> target = vi.target(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
      >>> bound = vi.iwae(num_particles=8, estimator=vi.DoublyReparameterized())
      >>> loss, grads = bound(jax.random.key(0), vi.mean_field(2, scale=0.7), target)
      >>> grads.loc.shape
      (2,)
    """
    z = q.sample(num_particles)
    return log_mean_exp(p.log_density(z) - q.log_density(z))


@objective
def miwae(p: Any, q: Any, *, num_bounds: int, num_particles: int) -> Float[Array, ""]:
    r"""Mean of M importance-weighted bounds of K particles.

    .. math:: \mathrm{MIWAE}_{M,K} = \tfrac1M \sum_m \log \tfrac1K \sum_k w_{m,k}

    Between the ELBO (K = 1) and `iwae` (M = 1) of MK particles.

    Args:
      p: view of the target.
      q: view of the family or guide.
      num_bounds: M.
      num_particles: K.

    Returns:
      Unbiased estimate of the bound, nats.

    Reference: Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh (2018), "Tighter variational
    bounds are not necessarily better", section 4.
    """
    z = q.sample(num_bounds * num_particles)
    log_w = p.log_density(z) - q.log_density(z)
    return jnp.mean(log_mean_exp(log_w.reshape(num_bounds, num_particles), axis=1))


@objective(requires={"beta": Requirement("in [0, 1]", lambda x: (x >= 0) & (x <= 1))})
def ciwae(p: Any, q: Any, *, num_particles: int, beta: float | Array) -> Float[Array, ""]:
    r"""A convex combination of the ELBO and the importance-weighted bound.

    .. math:: β \tfrac1K \sum_k \log w_k + (1 - β) \log \tfrac1K \sum_k w_k

    Args:
      p: view of the target.
      q: view of the family or guide.
      num_particles: K, the same draws in both.
      beta: weight of the ELBO, in [0, 1].

    Returns:
      Unbiased estimate of the bound, nats.

    Raises:
      ValueError: if ``beta`` is outside.

    Reference: Rainforth et al. (2018), section 4.
    """
    z = q.sample(num_particles)
    log_w = p.log_density(z) - q.log_density(z)
    return beta * jnp.mean(log_w) + (1 - beta) * log_mean_exp(log_w)


@objective
def piwae(p: Any, q: Any, *, num_bounds: int, num_particles: int) -> Float[Array, ""]:
    r"""Importance-weighted bound for the model, `miwae` for the guide, of the same draws.

    The parameters of p follow the gradient of :math:`\mathrm{IWAE}_{MK}`, those of q that of
    :math:`\mathrm{MIWAE}_{M,K}`; the value is the former. A parameter that both use gets both.
    For reparameterised sites.

    Args:
      p: view of the target.
      q: view of the family or guide.
      num_bounds: M.
      num_particles: K.

    Returns:
      Estimate of :math:`\mathrm{IWAE}_{MK}`, nats.

    Reference: Rainforth et al. (2018), section 4.
    """
    z = q.sample(num_bounds * num_particles, reparameterized=True)
    for_model = p.log_density(z, through="parameters") - stop(q.log_density(z))
    for_guide = p.log_density(z, through="draws") - q.log_density(z)
    guide = jnp.mean(log_mean_exp(for_guide.reshape(num_bounds, num_particles), axis=1))
    return log_mean_exp(for_model) + only_gradient(guide)


@objective(
    requires={"alpha": Requirement("other than 1, whose limit is vi.elbo", lambda x: x != 1)}
)
def renyi(p: Any, q: Any, *, num_particles: int, alpha: float | Array) -> Float[Array, ""]:
    r"""Rényi bound.

    .. math:: \mathcal L_α = \frac{1}{1 - α} \log E_q\big[w^{1-α}\big]
        \approx \frac{1}{1 - α} \log \tfrac1K \sum_k w_k^{1-α}

    α = 0 is `iwae`, α → 1 the ELBO; α < 0 tends to an upper bound as K grows. The estimate is
    biased for finite K; the gradient is unbiased for the mean of the estimate.

    Args:
      p: view of the target.
      q: view of the family or guide.
      num_particles: K.
      alpha: order, not 1; nor may a schedule come to 1, where the estimate is 0/0.

    Returns:
      The estimate, nats.

    Raises:
      ValueError: if ``alpha`` is 1.

    Reference: Li and Turner (2016), "Rényi divergence variational inference", equations 9 and 11.
    """
    z = q.sample(num_particles)
    return log_mean_exp((1 - alpha) * (p.log_density(z) - q.log_density(z))) / (1 - alpha)


@objective(requires={"order": Requirement(">= 1", lambda x: x >= 1)})
def chi_square(p: Any, q: Any, *, num_particles: int, order: float = 2.0) -> Float[Array, ""]:
    r"""Minus the chi upper bound (CUBO), so that it is maximised like the others.

    .. math:: \mathrm{CUBO}_n = \tfrac1n \log E_q[w^n] \ge \log p(x), \qquad n \ge 1

    The estimate from K draws lies below the bound in the mean; the gradient is unbiased for the
    mean of the estimate. Its fits cover the posterior where the ELBO's are too narrow.

    Args:
      p: view of the target.
      q: view of the family or guide.
      num_particles: K.
      order: n >= 1.

    Returns:
      Minus the estimate, nats.

    Raises:
      ValueError: if ``order`` is less than 1.

    Reference: Dieng, Tran, Ranganath, Paisley and Blei (2017), "Variational inference via χ upper
    bound minimization", equation 3.
    """
    z = q.sample(num_particles)
    return -log_mean_exp(order * (p.log_density(z) - q.log_density(z))) / order


@objective(requires={"temperature": POSITIVE})
def tempered_elbo(
    p: Any, q: Any, *, temperature: float | Array, num_particles: int = 1
) -> Float[Array, ""]:
    r"""Evidence lower bound of an annealed target.

    .. math:: E_q[β \log p(x, z) - \log q(z)]

    Args:
      p: view of the target.
      q: view of the family or guide.
      temperature: inverse temperature β > 0; a JAX array may be changed from step to step without
        a new compilation, and `vi.scheduled` makes it a function of the step. The reference
        takes :math:`\min(1, 0.01 + t / 10000)`.
      num_particles: draws the expectation is estimated with.

    Returns:
      Unbiased estimate, nats.

    Raises:
      ValueError: if ``temperature`` is not positive.

    Reference: Rezende and Mohamed (2015), "Variational inference with normalizing flows",
    equation 20.
    """
    return q.expect(lambda z: temperature * p.log_density(z) - q.log_density(z), num_particles)
