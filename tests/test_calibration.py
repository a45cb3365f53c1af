"""Calibration by simulation: ranks of true parameters, and how often the stopping test errs.

Where parameters are drawn from the prior and data from the model, the rank of each true value among
draws of its posterior is uniform (Talts et al. 2018). For an approximation it is not, but is known
where posterior and approximation are (Yao et al. 2018, section 3). Every test fails by chance with
probability 1e-6.
"""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import vi
from tests.stats import ALPHA
from vi import stochastic

pytestmark = pytest.mark.slow

REPLICATIONS, DRAWS, BINS = 240, 199, 8
RNG = np.random.default_rng(20)
MIX = np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.5], [0.0, 0.0, 0.8]])
X = (RNG.normal(size=(20, 3)) @ MIX).astype(np.float32)


def linear(X, y):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([3]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ beta, 1.0).to_event(1), obs=y)


def counts(X, y):
    beta = numpyro.sample("beta", dist.Normal(0, 0.5).expand([3]).to_event(1))
    numpyro.sample("y", dist.Poisson(np.e * jax.numpy.exp(X @ beta)).to_event(1), obs=y)


def ranks(model, simulate, sd, draw, **options):
    """Ranks of true coefficients among draws, in (0, 1), shape ``(REPLICATIONS, 3)``."""
    rng = np.random.default_rng(5)
    found = []
    for i in range(REPLICATIONS):
        beta = rng.normal(0, sd, 3)
        y = simulate(rng, X @ beta).astype(np.float32)
        fit = vi.fit(model, X, y, key=jax.random.key(i), on_failure="return", **options)
        draws = draw(fit, jax.random.key(10_000 + i), DRAWS)["beta"]
        found.append(((draws < beta).sum(0) + rng.uniform(size=3)) / (DRAWS + 1))
    return np.array(found)


def smallest_p(found, edges):
    """The smallest p-value of chi-squared tests of each coordinate, Bonferroni included.

    ``edges``, shape ``(3, BINS + 1)``: of bins of equal probability under what is expected.
    """
    p = [
        stats.chisquare(np.histogram(u, edge)[0]).pvalue
        for u, edge in zip(found.T, edges, strict=True)
    ]
    return min(p) * len(p)


UNIFORM = np.tile(np.linspace(0, 1, BINS + 1), (3, 1))


@pytest.fixture(scope="module")
def exact():
    noise = lambda rng, mean: mean + rng.normal(size=len(mean))
    return ranks(linear, noise, 1.0, vi.Posterior.sample)


def test_ranks_are_uniform_where_the_posterior_is_gaussian(exact):
    assert smallest_p(exact, UNIFORM) > ALPHA


def test_draws_too_narrow_by_a_quarter_would_be_seen(exact):
    """The twin."""
    narrow = stats.norm.cdf(stats.norm.ppf(exact) / 0.7)
    assert smallest_p(narrow, UNIFORM) < ALPHA


def test_ranks_are_uniform_after_importance_resampling():
    """Counts, whose posteriors are skewed."""
    draw = lambda fit, key, count: fit.resample(key, count)
    found = ranks(counts, lambda rng, eta: rng.poisson(np.exp(1 + eta)), 0.5, draw)
    assert smallest_p(found, UNIFORM) > ALPHA


def test_mean_field_ranks_are_too_extreme_by_as_much_as_theory_says():
    """The mean-field variance is one over the precision's diagonal, so that u = Phi(z / ratio)."""
    noise = lambda rng, mean: mean + rng.normal(size=len(mean))
    found = ranks(linear, noise, 1.0, vi.Posterior.sample, family="mean_field")
    precision = np.eye(3) + X.T.astype(float) @ X
    ratio = 1 / np.sqrt(np.diag(precision) * np.diag(np.linalg.inv(precision)))
    assert ratio.min() < 0.6
    inner = stats.norm.ppf(UNIFORM[:, 1:-1]) / ratio[:, None]
    edges = np.column_stack([np.zeros(3), stats.norm.cdf(inner), np.ones(3)])
    assert smallest_p(found, edges) > ALPHA
    assert smallest_p(found, UNIFORM) < ALPHA  # the twin: they are not uniform


def stops(rise, replications, noise=0.1):
    """How often the stopping test ends a run whose ELBO rises so much at every look."""
    rng = np.random.default_rng(3)
    chunk = np.arange(1, stochastic.LOOKS[-1] + 1)
    # The mean of c log n over the last third of n chunks less that over the third before.
    third = lambda a, b: (b * np.log(b) - a * np.log(a)) / (b - a) - 1
    unit = third(2, 3) - third(1, 2)
    elbos = rise / unit * np.log(chunk - 0.5) + noise * rng.normal(size=(replications, len(chunk)))
    return sum(any(stochastic.settled(e[:n]) for n in stochastic.LOOKS) for e in elbos)


def test_runs_with_more_to_gain_are_stopped_at_most_as_often_as_stated():
    """At the tolerance itself, where it is hardest: 5 % in all looks together."""
    number = 3000
    limit = stats.binom.isf(ALPHA, number, 0.05)
    assert stops(1.02 * stochastic.TOLERANCE, number) <= limit


def test_the_stopping_test_errs_more_without_its_margin(monkeypatch):
    """The twin, and the other side: runs that have stopped rising are ended."""
    assert stops(0.0, 300, noise=0.03) > 290
    monkeypatch.setattr(stochastic, "CONFIDENCE", 0.5)
    assert stops(1.02 * stochastic.TOLERANCE, 3000) > stats.binom.isf(ALPHA, 3000, 0.05)
