"""How good a fit is: importance weights of draws against the sites, and leave-one-out coverage."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gp.leave_one_out import leave_one_out
from gp.model import Data, expectations
from gp.prior import Conditional
from gp.sites import Sites
from vi.compile import quick_jit
from vi.posterior.psis import psis
from vi.posterior.verdict import Verdict
from vi.status import Status

DRAWS = 1000
MOST = 2000  # latent values up to which draws are weighed; the weights of more always vary
LEVEL = 0.9  # of the intervals whose coverage is looked at
FAR = 0.05, 5.0  # off that share, and standard errors, for a caution
LIMIT = 0.7
MUCH = 10.0  # times the variance, from which an approximate one is not divided by its site


class Checks(NamedTuple):
    """What a fit's quality is known by.

    Attributes:
      khat: Pareto shape of the weights p(f, y) / q(f); -inf where q is exact, NaN if not computed.
      log_evidence: by those weights, nats; NaN if not computed.
      loo: leave-one-out log predictive density of each target, nats.
      coverage: share of targets inside their leave-one-out intervals of 90 %; NaN where the
        likelihood is not Gaussian.
    """

    khat: float
    log_evidence: float
    loo: np.ndarray
    coverage: float


@quick_jit
def _log_weights(likelihood: Any, data: Data, sites: Sites, f: Array, through: Array) -> Array:
    """Σ log p(y | f) - log t for each draw, with t in the form of pseudo-observations.

    Sites are factors of ``through``: of f, or of what inducing variables say of it.
    """
    fit = jax.vmap(lambda f: jnp.sum(likelihood.log_prob(data.of_targets(f), data.y)))(f)
    off = sites.precision * (through - sites.centre) ** 2
    return fit + 0.5 * jnp.sum(off.reshape(len(f), -1), 1)


def check(
    key: Array, prior: Any, likelihood: Any, data: Data, sites: Sites, q: Conditional
) -> Checks:
    r"""Weigh draws of q against the posterior, and targets against the others' predictions.

    .. math:: \frac{p(f, y)}{q(f)} = Z \prod_i \frac{p(y_i | f_i)}{t_i(f_i)}

    Args:
      key: a key.
      prior: the back-end.
      likelihood: the likelihood.
      data: targets.
      sites: of q.
      q: the posterior.

    Returns:
      The checks; weights only for up to 2000 latent values.

    Complexity:
      1000 joint draws.
    """
    rest = prior.unexplained(q) if hasattr(prior, "unexplained") else 0.0
    without = leave_one_out(likelihood, q, data, rest)
    if hasattr(prior, "left_out"):
        without = _mended(prior, likelihood, data, sites, q, without)
    centre, variance, loo = without
    loo = np.asarray(loo, float)
    if likelihood.conjugate:
        noise = np.asarray(likelihood.predict(centre, variance)[1])
        off = np.abs(np.asarray(data.y) - np.asarray(centre)) / np.sqrt(noise)
        half = 1.6448536269514722  # standard deviations of a central interval of 90 %
        return Checks(-math.inf, math.nan, loo, float(np.mean(off < half)))
    if sites.linear.size > MOST:
        return Checks(math.nan, math.nan, loo, math.nan)
    if getattr(prior, "sample_projected", None):
        f, through, log_normalizer = prior.sample_projected(key, q, DRAWS)
    else:
        f = through = prior.sample(key, q, data.x, DRAWS)
        log_normalizer = q.log_normalizer
    ratios = np.asarray(_log_weights(likelihood, data, sites, f, through), float)
    found = psis(ratios)
    typical = int(np.argsort(ratios)[DRAWS // 2])
    mean_weight = ratios[typical] - found.log_weights[typical] - math.log(DRAWS)
    return Checks(found.khat, float(log_normalizer) + mean_weight, loo, math.nan)


def _mended(
    prior: Any, likelihood: Any, data: Data, sites: Sites, q: Conditional, found: tuple
) -> tuple:
    """Leave-one-out laws, of the prior's own making where a datum says much beside all others."""
    centre, variance, _ = map(np.array, found)
    index = np.asarray(data.index)
    rows = np.flatnonzero(variance > MUCH * np.asarray(q.variance)[index])
    if not len(rows):
        return found
    of = expectations(likelihood, q.mean, q.variance, data)
    curvature = jnp.maximum(of.curvature, 0.0)
    own = Sites(curvature * data.of_targets(q.mean) + of.gradient, curvature)
    alone = np.bincount(index)[index[rows]] == 1
    whole = (np.asarray(part)[index[rows]] for part in sites)
    own = Sites(*(np.where(alone, a, np.asarray(b)[rows]) for a, b in zip(whole, own, strict=True)))
    centre[rows], variance[rows] = prior.left_out(sites, own, index[rows])
    at = jnp.asarray(centre), jnp.asarray(variance)
    return *at, likelihood.log_predictive(*at, data.y)


def judge(
    found: Checks,
    status: Status,
    elbo: float,
    jitter: float,
    what: str,
    notes: Sequence[str],
    cautions: Sequence[str] = (),
    *,
    exact: bool,
) -> Verdict:
    """Grade a fit.

    ``good``: q is exact or k-hat is below 0.7, training ended by itself, 90 % intervals cover
    what they should, and nothing speaks against the prior's approximation. ``fair``: one of these
    is not so, or was not computed. ``poor``: k-hat is above 1. ``failed``: the run broke down.

    Args:
      found: the checks.
      status: how training ended.
      elbo: nats.
      jitter: what was added to variances.
      what: a phrase for the approximation.
      notes: further sentences.
      cautions: sentences against the approximation of the prior.
      exact: whether q is the posterior, and the ELBO the log evidence.

    Returns:
      The verdict.
    """
    grade, said = "good", []
    if status.failed:
        grade = "failed"
        said.append(f"{status.message} This is the {what} there.")
    elif exact:
        said.append(f"the {what}: log evidence {elbo:.3f} nats at these hyperparameters.")
    elif found.khat == -math.inf:
        said.append(f"the {what}: ELBO {elbo:.3f} nats at these hyperparameters.")
    elif math.isnan(found.khat):
        grade = "fair"
        said.append(f"the {what}: ELBO {elbo:.3f} nats; with so many latent values not weighed.")
    else:
        gap = found.log_evidence - elbo
        grade = "good" if found.khat < LIMIT else "fair" if found.khat < 1 else "poor"
        said.append(
            f"the {what}: k-hat {found.khat:.2f}, ELBO {elbo:.3f} nats, about "
            f"{max(gap, 0.0):.2g} below the log evidence."
        )
        if grade != "good":
            said.append(
                "Joint probabilities may be off; marginals usually are less. For the exact "
                "posterior run MCMC."
            )
    if not status.failed and status not in (Status.CONVERGED, Status.RUNNING):
        grade = "fair" if grade == "good" else grade
        said.append(status.message)
    said.append(f"Leave-one-out log density {found.loo.mean():.4g} nats a target")
    if math.isfinite(found.coverage):
        said[-1] += f", and {found.coverage:.0%} of targets in their {LEVEL:.0%} intervals"
    said[-1] += "."
    sem = math.sqrt(LEVEL * (1 - LEVEL) / len(found.loo))
    if abs(found.coverage - LEVEL) > max(FAR[0], FAR[1] * sem):
        grade = "fair" if grade == "good" else grade
        said.append("That is far off: the noise is not what the likelihood says, or not even.")
    if jitter > 0:
        said.append(f"Variances got a jitter of {jitter:.1e} to keep matrices positive definite.")
    if cautions and grade == "good":
        grade = "fair"
    return Verdict(grade, " ".join([*said, *cautions, *notes]))
