"""Conditioning and the loop over sites: against NumPy, SciPy and quadrature."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats

import gp
from gp.dense import DensePrior
from gp.evidence import evidence, exact_sites
from gp.independent import IndependentPrior
from gp.model import Data, Model
from gp.natural_gradient import ascend, start_sites
from gp.parameters import as_arrays, constrained, parameters, unconstrained
from tests.test_contracts import finite_differences, precision
from vi.compile import quick_jit

RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, size=(8, 2))
F = 2 * np.sin(2 * X[:, 0])
LABELS = (F + RNG.logistic(size=8) > 0) * 1.0
COUNTS = RNG.poisson(np.exp(F)) * 1.0

_ascend = quick_jit(lambda p, l, d, s: ascend(p, l, d, s, tolerance=1e-10))


def kernel(lengthscale=1.2, variance=1.5):
    return gp.Matern(jnp.asarray(lengthscale), jnp.asarray(variance))


def dense(x, **scales):
    return DensePrior(kernel(**scales), gp.ConstantMean(jnp.asarray(0.3)), jnp.asarray(x))


def moments(prior, sites):
    """By inverses, in NumPy."""
    k, mu = np.asarray(prior.kernel(prior.x, prior.x)), np.asarray(prior.mean(prior.x))
    covariance = np.linalg.inv(np.linalg.inv(k) + np.diag(sites.precision))
    return k, mu, covariance @ (np.linalg.solve(k, mu) + sites.linear), covariance


def divergence(k, mu, mean, covariance):
    """KL between Gaussians."""
    move = np.linalg.solve(k, mean - mu)
    log_dets = np.linalg.slogdet(k)[1] - np.linalg.slogdet(covariance)[1]
    return 0.5 * (
        np.trace(np.linalg.solve(k, covariance)) - len(mu) + (mean - mu) @ move + log_dets
    )


def sites_of(precision):
    return gp.Sites(*map(jnp.asarray, (precision * RNG.normal(size=len(precision)), precision)))


def test_dense_conditional(x64):
    precision = RNG.uniform(0.5, 3, size=8)
    precision[2] = 0  # missing
    prior, sites = dense(X), sites_of(precision)
    q = quick_jit(lambda p, s: p.condition(s))(prior, sites)
    k, mu, mean, covariance = moments(prior, sites)
    np.testing.assert_allclose(q.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(q.variance, np.diag(covariance), rtol=1e-10)
    np.testing.assert_allclose(q.kl, divergence(k, mu, mean, covariance), rtol=1e-9)
    assert float(q.jitter) == 0
    # The evidence of the observations that are there.
    known = precision > 0
    noisy = k[np.ix_(known, known)] + np.diag(1 / precision[known])
    law = stats.multivariate_normal(mu[known], noisy)
    heights = 0.5 * np.log(2 * np.pi / precision[known]).sum()
    expected = law.logpdf(np.asarray(sites.centre)[known]) + heights
    np.testing.assert_allclose(q.log_normalizer, expected, rtol=1e-10)
    np.testing.assert_allclose(prior.log_normalizer(sites), expected, rtol=1e-10)
    new = jnp.asarray(RNG.normal(size=(5, 2)))
    means, full = prior.predict(q, new, full_cov=True)
    _, variances = prior.predict(q, new)
    cross = np.asarray(prior.kernel(new, prior.x))[:, known]
    gain = cross @ np.linalg.inv(noisy)
    off = np.asarray(sites.centre)[known] - mu[known]
    np.testing.assert_allclose(means, 0.3 + gain @ off, rtol=1e-9)
    np.testing.assert_allclose(full, prior.kernel(new, new) - gain @ cross.T, atol=1e-10)
    np.testing.assert_allclose(variances, np.diag(full), rtol=1e-9)
    at_data, _ = prior.predict(q, prior.x)
    np.testing.assert_allclose(at_data, q.mean, rtol=1e-9)


@pytest.mark.parametrize("precision", [RNG.uniform(0.5, 3, size=8), np.full(8, 1e3)])
def test_dense_evidence_gradient(precision, x64):
    prior, sites = jax.tree.map(jnp.asarray, dense(X)), sites_of(precision)
    value = lambda both: both[0].log_normalizer(both[1])
    gradient = jax.grad(value)((prior, sites))
    finite_differences(jax.jit(value), (prior, sites), gradient)


def test_draws_have_the_posteriors_law(x64):
    """False alarm 1e-6 for each of 12 numbers; detects 0.05 standard deviations."""
    prior, new = dense(X), jnp.asarray(X[:3] + 0.1)
    q = prior.condition(sites_of(np.full(8, 2.0)))
    mean, covariance = prior.predict(q, new, full_cov=True)
    draws = np.asarray(prior.sample(jax.random.key(1), q, new, 40_000))
    white = np.linalg.solve(np.linalg.cholesky(covariance), (draws - mean).T)
    limit = stats.norm.isf(1e-6 / 24) / np.sqrt(40_000)
    off = lambda white: max(
        np.abs(white.mean(1)).max(), np.abs(np.cov(white) - np.eye(3)).max() / np.sqrt(2)
    )
    assert off(white) < limit < 0.05
    assert off(white + 0.05) > limit


def test_singular_kernels_get_jitter_and_say_so():
    with precision("float32"):
        x = jnp.linspace(0.0, 1.0, 60, dtype=jnp.float32)[:, None]
        smooth = gp.SquaredExponential(jnp.float32(2.0), jnp.float32(1.0))
        prior = DensePrior(smooth, gp.Zero(), x)
        q = prior.condition(
            gp.Sites(jnp.full(60, 1e7, jnp.float32), jnp.full(60, 1e7, jnp.float32))
        )
        assert 0 < float(q.jitter) <= 1e-2
        np.testing.assert_allclose(q.mean, 1.0, atol=1e-2)
        broken = gp.pointwise(lambda a, b: -jnp.exp(-jnp.sum((a - b) ** 2)))
        q = DensePrior(broken, gp.Zero(), x).condition(gp.Sites(jnp.ones(60), jnp.ones(60)))
        assert np.isnan(float(q.kl))


def test_a_matrix_used_twice_keeps_its_diagonal(x64):
    """Compilers may compute distances twice; a root must not fall between the two."""
    x, root = jnp.asarray(RNG.uniform(-2, 2, size=(150, 2))), jnp.ones(150)
    scales = jnp.asarray([0.9, 1.7])
    both = jax.jit(lambda k, x, s: (k(x, x), k(x, x) * s))
    for nu in (0.5, 1.5):
        first, second = both(gp.Matern(scales, jnp.asarray(3.0), nu=nu), x, root)
        np.testing.assert_allclose(jnp.diagonal(first), 3.0, rtol=1e-12)
        np.testing.assert_allclose(jnp.diagonal(second), 3.0, rtol=1e-12)


# ---- the loop ----------------------------------------------------------------------------------


def test_gaussian_likelihoods_take_one_step(x64):
    data = Data.merged(X, F)
    likelihood = gp.Gaussian(jnp.asarray(0.2))
    start = gp.Sites(jnp.ones(8), jnp.ones(8))
    found = _ascend(dense(X), likelihood, data, start)
    exact = exact_sites(likelihood, data)
    assert int(found.steps) <= 3
    np.testing.assert_allclose(jnp.stack(found.sites), jnp.stack(exact), rtol=1e-12)
    prior = dense(X)
    law = stats.multivariate_normal(np.full(8, 0.3), prior.kernel(X, X) + 0.2 * np.eye(8))
    np.testing.assert_allclose(found.elbo, law.logpdf(F), rtol=1e-12)
    model = Model(prior.kernel, prior.mean, likelihood)
    np.testing.assert_allclose(evidence(model, prior, data, start).elbo, law.logpdf(F), rtol=1e-12)


def test_an_ascent_ends_where_no_rate_raises_the_elbo(x64):
    """Outliers' sites at the floor: from its own end, where it halved the rate eight times."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(100, 1)) * 10
    y = np.sin(x[:, 0]) + 0.1 * rng.normal(size=100)
    far = rng.random(100) < 0.2
    y[far] += 5 * rng.normal(size=far.sum())
    likelihood, data = gp.StudentT(jnp.asarray(0.05), jnp.asarray(0.5)), Data.merged(x, y)
    prior = DensePrior(kernel(3.0, 1.0), gp.Zero(), data.x)
    climb = quick_jit(lambda sites: ascend(prior, likelihood, data, sites))
    found = climb(start_sites(likelihood, data))
    again = climb(found.sites)
    assert found.converged
    assert again.converged
    assert int(again.steps) <= 6
    np.testing.assert_allclose(again.elbo, found.elbo, atol=1e-3)


@pytest.mark.parametrize("count", [1, 2])
def test_bernoulli_elbo_against_quadrature(count, x64):
    """The expected log likelihood and the divergence, of q as it was found, on a fine grid."""
    x, y = np.array([[0.0], [0.5]])[:count], np.array([1.0, 0.0])[:count]
    prior, data = dense(x), Data.merged(x, y)
    found = _ascend(prior, gp.Bernoulli(), data, start_sites(gp.Bernoulli(), data))
    k, mu, mean, covariance = moments(prior, found.sites)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z = np.array(list(itertools.product(nodes, repeat=count)))
    w = np.prod(list(itertools.product(weights / weights.sum(), repeat=count)), 1)
    f = mean + z @ np.linalg.cholesky(covariance).T
    fit = special.log_expit((2 * y - 1) * f).sum(1)
    log_p = stats.multivariate_normal(mu, k).logpdf(f)
    log_q = stats.multivariate_normal(mean, covariance).logpdf(f)
    np.testing.assert_allclose(found.elbo, w @ (fit + log_p - log_q), atol=1e-7)
    g = mu + z @ np.linalg.cholesky(k).T
    log_evidence = np.log(w @ np.exp(special.log_expit((2 * y - 1) * g).sum(1)))
    assert found.elbo < log_evidence < found.elbo + 0.02


@pytest.mark.parametrize(("likelihood", "y"), [(gp.Bernoulli(), LABELS), (gp.Poisson(), COUNTS)])
def test_no_gaussian_is_better(likelihood, y, x64):
    """A free mean and covariance, optimised for long by SciPy from elsewhere, come to the same."""
    prior, data = dense(X), Data.merged(X, y)
    found = _ascend(prior, likelihood, data, start_sites(likelihood, data))
    k, mu = np.asarray(prior.kernel(X, X)), np.full(8, 0.3)
    root, lower = np.linalg.cholesky(k), np.tril_indices(8)

    def loss(values):
        tril = jnp.zeros((8, 8)).at[lower].set(values[8:])
        factor = jnp.asarray(root) @ tril
        expected = likelihood.expect(mu + root @ values[:8], jnp.sum(factor**2, 1), data.y).value
        log_det = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(tril))))
        kl = 0.5 * (jnp.sum(tril**2) - 8 + jnp.sum(values[:8] ** 2)) - log_det
        return kl - jnp.sum(expected)

    start = np.concatenate([np.zeros(8), np.eye(8)[lower]])
    slope = jax.jit(jax.value_and_grad(loss))
    best = optimize.minimize(lambda v: tuple(map(np.asarray, slope(v))), start, jac=True, tol=1e-12)
    np.testing.assert_allclose(found.elbo, -best.fun, atol=1e-6)
    assert int(found.steps) < 25


@pytest.mark.parametrize(
    ("likelihood", "y"),
    [
        pytest.param(gp.Gaussian(0.3), F, marks=pytest.mark.slow),
        (gp.Bernoulli(), LABELS),
        pytest.param(gp.NegativeBinomial(2.0), COUNTS, marks=pytest.mark.slow),
    ],
)
def test_envelope_gradient_of_the_optimised_elbo(likelihood, y, x64):
    """The pseudo-evidence at fixed sites has the gradient of the ELBO at its best sites."""
    prior, data = dense(X), Data.merged(X, y)
    model = as_arrays(Model(prior.kernel, prior.mean, likelihood), jnp.float64)
    values = unconstrained(model, parameters(model))
    start = start_sites(model.likelihood, data)
    elbo = lambda v: evidence(constrained(model, v), prior, data, start, tolerance=1e-12).elbo
    value, gradient = quick_jit(jax.value_and_grad(elbo))(values)
    once = quick_jit(elbo)
    np.testing.assert_allclose(value, once(values), rtol=1e-12)
    for name in values:
        moved = lambda h, name=name: once({**values, name: values[name] + h})
        slope = (moved(1e-4) - moved(-1e-4)) / 2e-4
        np.testing.assert_allclose(gradient[name], slope, rtol=1e-4, atol=1e-5)


def test_coincident_inputs_share_a_value_and_change_nothing(x64):
    x, y = np.concatenate([X, X[:3]]), np.concatenate([LABELS, 1 - LABELS[:3]])
    data = Data.merged(x, y)
    assert data.x.shape == (8, 2)
    found = _ascend(dense(data.x), gp.Bernoulli(), data, start_sites(gp.Bernoulli(), data))
    apart = Data(*map(jnp.asarray, (x, y, np.arange(11))))
    twin = _ascend(dense(x), gp.Bernoulli(), apart, start_sites(gp.Bernoulli(), apart))
    np.testing.assert_allclose(found.elbo, twin.elbo, atol=1e-8)
    gaussian = Model(kernel(), gp.ConstantMean(jnp.asarray(0.3)), gp.Gaussian(jnp.asarray(0.3)))
    noisy = Data.merged(x, y)
    law = stats.multivariate_normal(np.full(11, 0.3), kernel()(x, x) + 0.3 * np.eye(11))
    merged = evidence(gaussian, dense(noisy.x), noisy, found.sites).elbo
    np.testing.assert_allclose(merged, law.logpdf(y), rtol=1e-10)


def test_independent_latents_are_priors_side_by_side(x64):
    kernels = gp.Matern(jnp.asarray([0.8, 2.0]), jnp.asarray([1.0, 0.5]))
    means, one = gp.ConstantMean(jnp.asarray([0.3, -1.0])), dense(X)
    prior = IndependentPrior(one).with_functions(kernels, means)
    sites = gp.Sites(*(jnp.stack([a, 2 * a + 1], 1) for a in sites_of(np.full(8, 2.0))))
    q = quick_jit(lambda p, s: p.condition(s))(prior, sites)
    total = 0.0
    for i in range(2):
        alone = DensePrior(*jax.tree.map(lambda a, i=i: a[i], (kernels, means)), one.x)
        each = alone.condition(gp.Sites(*(a[:, i] for a in sites)))
        np.testing.assert_allclose(q.mean[:, i], each.mean, rtol=1e-10)
        np.testing.assert_allclose(q.variance[:, i], each.variance, rtol=1e-10)
        mean, covariance = alone.predict(each, one.x[:3], full_cov=True)
        both, full = prior.predict(q, one.x[:3], full_cov=True)
        np.testing.assert_allclose(both[:, i], mean, rtol=1e-10)
        np.testing.assert_allclose(full[i], covariance, atol=1e-12)
        total += each.kl
    np.testing.assert_allclose(q.kl, total, rtol=1e-10)
    assert prior.sample(jax.random.key(0), q, one.x[:3], 4).shape == (4, 3, 2)
