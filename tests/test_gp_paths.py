"""Draws of posteriors as functions: their law is the posterior's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import gp
from gp.independent import IndependentPrior
from gp.methods import build
from gp.model import Model
from gp.paths import draw_paths
from gp.spectral import coordinates, frequencies, power
from vi.compile import quick_jit

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
N, S = 12, 8_000
X = RNG.uniform(0, 3, size=(N, 1))
NEW = np.array([[0.5], [1.7], [3.5]])
PRECISION = np.where(np.arange(N) == 2, 0.0, 8.0)
CENTRE = np.sin(3 * X[:, 0])
OPTIONS = {"inducing": {"num_inducing": 6}, "sic": {"num_neighbors": N - 1}}
LIMIT = stats.norm.isf(1e-6 / 24) / np.sqrt(S)


_condition = quick_jit(lambda prior, sites: prior.condition(sites))


def prior_of(method, model):
    return build(method, model, jnp.asarray(X), OPTIONS.get(method, {}))


def model(kernel):
    kernel = jax.tree.map(jnp.asarray, kernel)
    return Model(kernel, gp.ConstantMean(jnp.asarray(0.3)), gp.Gaussian(jnp.asarray(0.1)))


def off(draws, mean, covariance):
    """The largest deviation of a mean or covariance of whitened draws."""
    white = np.linalg.solve(np.linalg.cholesky(covariance), (draws - mean).T)
    return max(np.abs(white.mean(1)).max(), np.abs(np.cov(white) - np.eye(len(mean))).max() / 2)


@pytest.mark.parametrize(
    "method",
    [
        "dense",
        "inducing",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("state_space", "sic")),
    ],
)
def test_paths_have_the_posteriors_law(method, x64):
    """False alarm 1e-6 for each of 12 numbers; detects 0.1 standard deviations.

    Draws are sums of few cosines, whose squares vary more than those of normals: by less than a
    factor of four, which the half in `off` allows for.
    """
    prior = prior_of(method, model(gp.Matern(0.8, 1.5)))
    sites = gp.Sites(jnp.asarray(PRECISION * CENTRE), jnp.asarray(PRECISION))
    q = _condition(prior, sites)
    new = jnp.asarray(NEW)
    mean, covariance = map(np.asarray, prior.predict(q, new, full_cov=True))
    paths = draw_paths(KEY, prior, q, sites, S, 16)
    draws = np.asarray(paths(new))
    assert off(draws, mean, covariance) < LIMIT < 0.1
    assert off(draws + 0.1, mean, covariance) > LIMIT
    at_data = np.asarray(paths(jnp.asarray(X[:1])))
    spread = np.sqrt(float(q.variance[0]) / S)
    assert abs(at_data.mean() - float(q.mean[0])) < 6 * spread


MADE = {
    "squared_exponential": gp.SquaredExponential(np.array([0.7, 2.0]), 1.5),
    "matern": gp.Matern(np.array([0.7, 2.0]), 1.5, nu=2.5),
    "rational_quadratic": gp.RationalQuadratic(1.3, 0.7, 0.5),
    "periodic": gp.Periodic(np.array([1.0, 0.8]), 1.2, 3.0),
    "mixed": gp.ActiveDimensions(gp.Matern(0.8, 2.0), (1,)) * (gp.Constant(0.3) + gp.Periodic())
    + 0.5 * gp.deep(gp.SquaredExponential(), jnp.tanh),
}


@pytest.mark.parametrize("name", MADE)
def test_frequencies_are_the_kernels(name, x64):
    """False alarm 1e-6 for each of 5 covariances; detects 0.02 of the variance."""
    kernel = jax.tree.map(jnp.asarray, MADE[name])
    x = jnp.asarray(RNG.normal(size=(6, 2)))
    count = 200_000

    def average(key, kernel):
        there = coordinates(kernel, x)
        angles = (there[1:] - there[:1]) @ frequencies(key, kernel, x, (count,)).T
        return power(kernel) * jnp.mean(jnp.cos(angles), 1)

    found, exact = quick_jit(average)(KEY, kernel), np.asarray(kernel(x[:1], x[1:])[0])
    whole = float(power(kernel))
    limit = stats.norm.isf(1e-6 / 2) * whole / np.sqrt(count)  # cosines vary by at most one
    assert np.abs(found - exact).max() < limit < 0.02 * whole
    assert np.abs(found + 0.02 * whole - exact).max() > limit
    np.testing.assert_allclose(power(kernel), kernel.diagonal(x), rtol=1e-12)


def test_paths_of_a_fit_can_be_differentiated(x64):
    x = np.linspace(0, 3, 30)
    fitted = gp.fit(x, np.sin(3 * x), key=KEY, train=False, kernel=gp.Matern(0.8, 1.0))
    paths = fitted.sample_paths(KEY, 3)
    assert paths(NEW).shape == (3, 3)
    np.testing.assert_array_equal(paths(NEW), paths(NEW))
    slope = jax.grad(lambda x: paths(x[None])[0, 0])(jnp.asarray([1.7]))
    h = 1e-5
    both = paths(np.array([[1.7 + h], [1.7 - h]]))[0]
    np.testing.assert_allclose(slope[0], (both[0] - both[1]) / (2 * h), rtol=1e-4)


@pytest.mark.slow
def test_several_latents_are_drawn_side_by_side(x64):
    two = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), model(gp.Matern(0.8, 1.5)))
    prior = IndependentPrior(prior_of("dense", model(gp.Matern(0.8, 1.5))))
    prior = prior.with_functions(two.kernel, two.mean)
    wide = np.stack([PRECISION, PRECISION], 1)
    sites = gp.Sites(jnp.asarray(wide * CENTRE[:, None]), jnp.asarray(wide))
    q = _condition(prior, sites)
    paths = draw_paths(KEY, prior, q, sites, S, 16)
    draws = np.asarray(paths(jnp.asarray(NEW)))
    assert draws.shape == (S, 3, 2)
    mean, covariance = prior.predict(q, jnp.asarray(NEW), full_cov=True)
    for i in range(2):
        part = off(draws[..., i], np.asarray(mean[:, i]), np.asarray(covariance[i]))
        assert part < LIMIT


def test_other_kernels_have_no_features():
    x = np.linspace(0, 1, 5)
    fitted = gp.fit(x, x, key=KEY, train=False, kernel=gp.Matern() + gp.Linear())
    with pytest.raises(ValueError, match=r"got Linear. Draw at given points instead"):
        fitted.sample_paths(KEY)


def test_inputs_are_taken_as_elsewhere(x64):
    x = jnp.linspace(0.0, 3.0, 12)
    paths = gp.fit(x, jnp.sin(x), key=KEY, train=False).sample_paths(KEY, 3)
    np.testing.assert_array_equal(paths(x[:5]), paths(x[:5, None]))
    with pytest.raises(ValueError, match=r"shape \(M, 1\); got \(5, 3\)"):
        paths(jnp.zeros((5, 3)))
