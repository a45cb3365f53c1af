"""What training maximises: the ELBO at its best sites, and its gradient by the envelope."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gp.independent import IndependentPrior, with_functions
from gp.model import Data, Model, expectations
from gp.natural_gradient import ascend
from gp.prior import Conditional
from gp.sites import Sites
from vi.compile import quick_jit

stop = jax.lax.stop_gradient
_MOST = 25  # steps of an ascent, which begins near its end


class Evidence(NamedTuple):
    """The best ELBO for given hyperparameters, differentiable in them."""

    elbo: Float[Array, ""]
    sites: Sites
    steps: Array  # evaluations that finding the sites took


def exact_sites(likelihood: Any, data: Data) -> Sites:
    """The sites of a likelihood that is Gaussian in f: its own factors, exact without a search.

    Args:
      likelihood: with `sites`, from targets to their λ₁ and λ₂.
      data: the targets; those of merged inputs are summed.
    """
    return Sites(*map(data.collect, likelihood.sites(data.y)))


known_sites = quick_jit(exact_sites)  # outside of other compiled functions


def evidence(
    model: Model, prior: Any, data: Data, start: Sites, *, tolerance: float = 1e-4
) -> Evidence:
    r"""The optimised ELBO and what its gradient needs.

    For a Gaussian likelihood this is the log evidence. Otherwise, with sites that maximise the
    ELBO, q does not move it to first order, so that with sites and q held

    .. math::

       \frac{d}{dθ} \max_q \mathrm{ELBO} = \frac{∂}{∂θ} \log Z(θ, λ), \qquad
       \frac{d}{dφ} \max_q \mathrm{ELBO} = \sum_i E_q[∂_φ \log p(y_i | f_i, φ)]

    for hyperparameters θ of the prior and φ of the likelihood, where log Z is the pseudo-evidence
    of `gp.prior.Prior.log_normalizer`. (Write the ELBO as :math:`\log Z + \sum_i E_q[\log p_i -
    \log t_i]`; the derivatives of the sum in means and variances of q vanish at the sites that the
    natural gradient leaves where they are.) A back-end with a ``divergence`` gives the same by
    :math:`-∂/∂θ\, KL(q ‖ p_θ)`, without conditioning once more. Where a site's precision is held
    at its floor, as for outliers under `gp.StudentT`, the identity is approximate.

    Args:
      model: hyperparameters.
      prior: a back-end; its own hyperparameters are replaced by the model's.
      data: targets.
      start: sites to begin from; not used for Gaussian likelihoods.
      tolerance: of `gp.natural_gradient.ascend`, nats.

    Returns:
      The evidence. Its value has the stated gradient under `jax.grad`.

    Complexity:
      One `Prior.log_normalizer` with its gradient, and one `Prior.condition` for each step of the
      ascent.

    Reference: Adam, Chang, Khan and Solin (2021), "Dual parameterization of sparse variational
    Gaussian processes", section 3.3, whose bound this maximises over q at every θ.
    """
    likelihood = model.likelihood
    prior = with_functions(prior, model.kernel, model.mean)
    if likelihood.conjugate:
        return _exact(likelihood, prior, data)
    fixed = stop(prior)
    found = ascend(fixed, stop(likelihood), data, stop(start), tolerance=tolerance, max_steps=_MOST)
    sites, q = stop((found.sites, found.q))
    fit = jnp.sum(expectations(likelihood, q.mean, q.variance, data).value)
    surrogate = _of_prior(prior, q, sites) + fit
    elbo = stop(fit - q.kl) + surrogate - stop(surrogate)
    return Evidence(elbo, sites, found.steps)


def _of_prior(prior: Any, q: Conditional, sites: Sites) -> Array:
    """What has the derivatives of the ELBO in the prior's hyperparameters, at fixed q."""
    one = prior.prior if isinstance(prior, IndependentPrior) else prior
    return -prior.divergence(q) if hasattr(one, "divergence") else prior.log_normalizer(sites)


def _exact(likelihood: Any, prior: Any, data: Data) -> Evidence:
    """The log evidence: targets of one input count by their mean, and by their spread about it."""
    each, sites = likelihood.sites(data.y), exact_sites(likelihood, data)
    spread = each.precision * (each.centre - data.of_targets(sites.centre)) ** 2
    heights = likelihood.log_prob(each.centre, data.y)
    elbo = prior.log_normalizer(sites) + jnp.sum(heights - 0.5 * spread)
    return Evidence(elbo, stop(sites), jnp.int32(0))
