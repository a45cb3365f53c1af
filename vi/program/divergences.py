r"""Other divergences between q and the posterior: forward KL, symmetric KL, f-divergences.

The posterior is known up to its normalisation, which is estimated from the same draws: weights
are self-normalised, :math:`\tilde w_k = w_k / \sum_j w_j`. Estimates are then biased by O(1/K).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.program.bounds import log_mean_exp
from vi.program.objective import objective
from vi.program.requirements import SEVERAL
from vi.program.surrogate import only_gradient, stop


def _wake(p: Any, q: Any, num_particles: int, *, reparameterized: bool) -> tuple[Array, Array]:
    """Log weights, live in the model's parameters only; and zero with the gradient of wake-φ."""
    if reparameterized:
        z = q.sample(num_particles, reparameterized=True)
        log_w = p.log_density(z, through="draws") - q.log_density(z, through="draws")
        share = stop(jax.nn.softmax(log_w))
        guide = only_gradient(jnp.sum((share - share**2) * log_w))
        model = p.log_density(z, through="parameters")
        return model - stop(q.log_density(z)), guide
    z = q.sample(num_particles, detached=True)
    log_q = q.log_density(z, through="parameters")
    log_w = p.log_density(z) - stop(log_q)
    return log_w, only_gradient(jnp.sum(stop(jax.nn.softmax(log_w)) * log_q))


def _divergence(log_w: Array) -> Array:
    """Of the posterior from q: log K less the entropy of the weights; some may be zero."""
    share = stop(jax.nn.softmax(log_w))
    return jnp.log(len(share)).astype(share.dtype) - jnp.sum(jax.scipy.special.entr(share))


@objective
def reweighted_wake_sleep(
    p: Any, q: Any, *, num_particles: int, reparameterized: bool = False
) -> Float[Array, ""]:
    r"""Reweighted wake-sleep: wake-θ for the model, wake-φ for the guide.

    .. math:: \nabla_θ = \sum_k \tilde w_k \nabla_θ \log p_θ(x, z_k), \qquad
        \nabla_φ = \sum_k \tilde w_k \nabla_φ \log q_φ(z_k)

    The model climbs the importance-weighted bound, the guide descends the forward KL divergence
    from the posterior. Draws are data, so that any site will do, discrete ones without any
    estimator; the φ-gradient is consistent as K grows, with bias O(1/K), and not the gradient of
    the value. With ``reparameterized`` the φ-gradient is

    .. math:: \sum_k (\tilde w_k - \tilde w_k^2) \nabla_z \log w_k\,\partial_φ z_k ,

    of the same mean and less noise, for reparameterised sites.

    Args:
      p: view of the target.
      q: view of the family or guide.
      num_particles: K.
      reparameterized: use the doubly reparameterised form.

    Returns:
      Importance-weighted bound, nats.

    References: Bornschein and Bengio (2015), "Reweighted wake-sleep", equations 9 and 13; Tucker
    et al. (2019), "Doubly reparameterized gradient estimators for Monte Carlo objectives",
    section 6.1.
    """
    log_w, guide = _wake(p, q, num_particles, reparameterized=reparameterized)
    return log_mean_exp(log_w) + guide


@objective
def sleep(p: Any, q: Any, *, arguments: dict[str, str], num_particles: int = 1) -> Float[Array, ""]:
    r"""Sleep-φ: the guide learns from data that the model dreams up; for NumPyro models.

    .. math:: E_{p(z, x)}[\log q_φ(z \mid x)] = -E_{p(x)}\big[KL(p(z \mid x) \| q_φ(z \mid x))\big]
        - H(z \mid x)

    The forward KL divergence without weights or bias, but at data of the model in place of the
    real ones. For amortised guides; sites of any kind, without estimators. Model parameters
    get no gradient.

    Args:
      p: view of the model.
      q: view of the guide.
      arguments: for each observed site, the name of the argument that has its data, which guide
        and model share.
      num_particles: data sets, of the size of the batch.

    Returns:
      Unbiased estimate, nats.

    References: Hinton, Dayan, Frey and Neal (1995), "The wake-sleep algorithm for unsupervised
    neural networks"; Bornschein and Bengio (2015), "Reweighted wake-sleep".

    Example:
      >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, optax, vi
      >>> def model(x):
      ...     with numpyro.plate("rows", len(x)):
      ...         z = numpyro.sample("z", dist.Normal(0.0, 1.0))
      ...         numpyro.sample("x", dist.Normal(z, 1.0), obs=x)
      >>> def guide(x):
      ...     a = numpyro.param("a", 0.0)
      ...     with numpyro.plate("rows", len(x)):
      ...         numpyro.sample("z", dist.Normal(a * x, 0.7))
      >>> svi = vi.SVI(model, guide, optax.adam(0.05), vi.sleep(arguments={"x": "x"}))
      >>> result = svi.run(jax.random.key(0), 300, jnp.zeros(20), progress_bar=False)
      >>> bool(abs(result.params["a"] - 0.5) < 0.1)
      True
    """
    z = p.simulate(num_particles, arguments)
    return jnp.mean(q.log_density(z))


@objective
def forward_kl(
    p: Any, q: Any, *, num_particles: int, reparameterized: bool = False
) -> Float[Array, ""]:
    r"""Minus the forward (inclusive) KL divergence, of the posterior from q.

    .. math:: -KL(p \| q) = -E_p\Big[\log \frac{p(z \mid x)}{q(z)}\Big] \approx
        -\sum_k \tilde w_k \log (K \tilde w_k)

    The gradient is wake-φ, :math:`\sum_k \tilde w_k \nabla \log q(z_k)`; model parameters get
    none. Covers all of the posterior's mass; weights degenerate in high dimension.

    Args:
      p: view of the target.
      q: view of the family or guide.
      num_particles: K.
      reparameterized: as in `reweighted_wake_sleep`.

    Returns:
      Estimate, nats; at most 0.
    """
    log_w, guide = _wake(p, q, num_particles, reparameterized=reparameterized)
    return guide - _divergence(log_w)


@objective
def symmetric_kl(p: Any, q: Any, *, num_particles: int) -> Float[Array, ""]:
    r"""Minus the sum of both KL divergences, up to the log evidence.

    .. math:: \mathrm{ELBO}(q) - KL(p \| q)

    Args:
      p: view of the target.
      q: view of the family or guide.
      num_particles: K draws for each of the two terms.

    Returns:
      Estimate, nats.
    """
    bound = q.expect(lambda z: p.log_density(z) - q.log_density(z), num_particles)
    log_w, guide = _wake(p, q, num_particles, reparameterized=False)
    return bound + guide - _divergence(log_w)


@objective(requires={"num_particles": SEVERAL})
def f_divergence(
    p: Any, q: Any, *, generator: Callable[[Array], Array], num_particles: int
) -> Float[Array, ""]:
    r"""Minus an f-divergence of the posterior from q, for any convex generator.

    .. math:: D_f(p \| q) = E_q\Big[f\Big(\frac{p(z \mid x)}{q(z)}\Big)\Big] \approx
        \tfrac1K \sum_k f(K \tilde w_k)

    Args:
      p: view of the target.
      q: view of the family or guide.
      generator: f, convex with f(1) = 0, as a function of the log ratio log t: for example
        ``lambda u: -u`` (reverse KL), ``lambda u: u * jnp.exp(u)`` (forward KL),
        ``lambda u: jnp.expm1(0.5 * u) ** 2`` (squared Hellinger, twice).
      num_particles: K ≥ 2.

    Returns:
      Minus the estimate.

    Raises:
      ValueError: for one particle, whose estimate is f(1) = 0 whatever q.

    Example:
      >>> import jax, jax.numpy as jnp, vi
      >>> def hellinger(u):
      ...     return jnp.expm1(0.5 * u) ** 2
      >>> target = vi.target(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
      >>> objective = vi.f_divergence(generator=hellinger, num_particles=16)
      >>> bool(objective.value(jax.random.key(0), vi.mean_field(2, scale=2.0), target) < 0)
      True
    """
    z = q.sample(num_particles)
    log_w = p.log_density(z) - q.log_density(z)
    return -jnp.mean(generator(log_w - log_mean_exp(log_w)))


@objective(requires={"num_particles": SEVERAL})
def log_variance(p: Any, q: Any, *, num_particles: int) -> Float[Array, ""]:
    r"""Minus half the variance of the log weights, over draws that are data.

    .. math:: -\tfrac12 \operatorname{Var}_k[\log q(z_k) - \log p(x, z_k)]

    (variance with K - 1). Its gradient in the guide's parameters is, identically, the ELBO's
    leave-one-out score estimate. Parameters of the model get none: theirs would be another one.

    Args:
      p: view of the target.
      q: view of the family or guide.
      num_particles: K ≥ 2.

    Returns:
      The estimate, nats squared.

    Raises:
      ValueError: for one particle.

    Reference: Richter, Boustati, Nüsken, Ruiz and Akyildiz (2020), "VarGrad: a low-variance
    gradient estimator for variational inference", equations 8 and 9.
    """
    z = q.sample(num_particles, detached=True)
    log_w = stop(p.log_density(z)) - q.log_density(z, through="parameters")
    return -0.5 * jnp.var(log_w, ddof=1)
