"""Likelihoods against quadrature of SciPy's densities, and their moments against draws' laws."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import gp
from tests.test_contracts import precision

M = np.array([-0.7, 0.2, 1.1])
V = np.array([0.3, 1.0, 0.05])
Z = np.linspace(-10, 10, 2001)
W = stats.norm.pdf(Z) * (Z[1] - Z[0])  # trapezoids, as good as exact here


class Entry(NamedTuple):
    make: object
    y: list
    log_prob: object  # of f and y, in SciPy
    moments: object  # of f
    tolerance: float = 1e-6


def _ordinal(f, y):
    cuts = np.array([-np.inf, -1.0, 0.5, 2.0, np.inf])
    k = int(y)
    return np.log(special.expit(cuts[k + 1] - f) - special.expit(cuts[k] - f))


def _sigmoid_moments(f):
    p = special.expit(f)
    return p, p * (1 - p)


def _beta(f):
    p = special.expit(f)
    return stats.beta(6 * p, 6 * (1 - p))


def _negative_binomial(f):
    return stats.nbinom(1.7, 1.7 / (1.7 + np.exp(f)))


ENTRIES = {
    "gaussian": Entry(
        lambda: gp.Gaussian(0.4),
        [0.1, -2.0, 1.5],
        lambda f, y: stats.norm.logpdf(y, f, 0.4**0.5),
        lambda f: (f, 0.4 + 0 * f),
    ),
    "student_t": Entry(
        lambda: gp.StudentT(0.8, 3.5),
        [0.1, -2.0, 1.5],
        lambda f, y: stats.t.logpdf(y, 3.5, f, 0.8),
        lambda f: (f, stats.t.var(3.5, 0, 0.8) + 0 * f),
        1e-3,
    ),
    "logit": Entry(
        gp.Bernoulli, [0, 1, 1], lambda f, y: special.log_expit((2 * y - 1) * f), _sigmoid_moments
    ),
    "probit": Entry(
        lambda: gp.Bernoulli("probit"),
        [0, 1, 1],
        lambda f, y: stats.norm.logcdf((2 * y - 1) * f),
        lambda f: (stats.norm.cdf(f), stats.norm.cdf(f) * stats.norm.sf(f)),
    ),
    "poisson": Entry(
        gp.Poisson,
        [0, 3, 7],
        lambda f, y: stats.poisson.logpmf(y, np.exp(f)),
        lambda f: (np.exp(f), np.exp(f)),
    ),
    "negative_binomial": Entry(
        lambda: gp.NegativeBinomial(1.7),
        [0, 3, 7],
        lambda f, y: _negative_binomial(f).logpmf(y),
        lambda f: (_negative_binomial(f).mean(), _negative_binomial(f).var()),
    ),
    "beta": Entry(
        lambda: gp.Beta(6.0),
        [0.1, 0.5, 0.9],
        lambda f, y: _beta(f).logpdf(y),
        lambda f: (_beta(f).mean(), _beta(f).var()),
    ),
    "ordinal": Entry(
        lambda: gp.Ordinal(jnp.asarray(-1.0), jnp.asarray([1.5, 1.5])), [0, 2, 3], _ordinal, None
    ),
}


def _expected(entry, m, v, y):
    return W @ entry.log_prob(m + np.sqrt(v) * Z, y)


@pytest.mark.parametrize("name", ENTRIES)
def test_expectations(name, x64):
    entry = ENTRIES[name]
    likelihood, y = entry.make(), np.array(entry.y, float)
    likelihood.check(y)
    found = likelihood.expect(*map(jnp.asarray, (M, V, y)))
    h = 1e-4
    for i, (m, v) in enumerate(zip(M, V, strict=True)):
        at = lambda dm, dv, m=m, v=v, i=i: _expected(entry, m + dm, v + dv, y[i])
        close = lambda a, b, t=entry.tolerance: np.testing.assert_allclose(a, b, rtol=t, atol=t)
        close(found.value[i], at(0, 0))
        close(found.gradient[i], (at(h, 0) - at(-h, 0)) / (2 * h))
        close(found.curvature[i], -(at(0, h) - at(0, -h)) / h)
        mass = W @ np.exp(entry.log_prob(m + np.sqrt(v) * Z, y[i]))
        close(
            likelihood.log_predictive(*map(jnp.asarray, (M, V, y)))[i],
            np.log(mass),
            max(entry.tolerance, 1e-4),
        )
    start = likelihood.start(jnp.asarray(y))
    assert np.all(np.isfinite(likelihood.log_prob(start, jnp.asarray(y))))
    mean, variance = likelihood.predict(jnp.asarray(M), jnp.asarray(V))
    if entry.moments is None:
        np.testing.assert_allclose(mean.sum(-1), 1.0)
        return
    f = M[:, None] + np.sqrt(V)[:, None] * Z
    means, variances = entry.moments(f)
    np.testing.assert_allclose(mean, means @ W, rtol=1e-6)
    np.testing.assert_allclose(variance, variances @ W + (means**2) @ W - (means @ W) ** 2, 1e-5)


def test_ordinal_probabilities_are_those_of_its_density(x64):
    likelihood, f = ENTRIES["ordinal"].make(), jnp.asarray(M)
    p, _ = likelihood.moments(f)
    for k in range(4):
        np.testing.assert_allclose(jnp.log(p[:, k]), likelihood.log_prob(f, jnp.full(3, 1.0 * k)))


def test_two_classes_in_order_are_a_bernoulli(x64):
    y = jnp.asarray([0.0, 1.0, 1.0])
    found = gp.ordinal(2).expect(jnp.asarray(M), jnp.asarray(V), y)
    expected = gp.Bernoulli().expect(jnp.asarray(M), jnp.asarray(V), y)
    np.testing.assert_allclose(jnp.stack(found), jnp.stack(expected), rtol=1e-12)


def _tensor(m, v):
    """Draws and weights of independent normals, on a tensor grid."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    grid = np.array(list(itertools.product(nodes, repeat=len(m))))
    mass = np.prod(list(itertools.product(weights / weights.sum(), repeat=len(m))), 1)
    return m + np.sqrt(v) * grid, mass


def test_heteroscedastic(x64):
    likelihood, y = gp.HeteroscedasticGaussian(), 0.8
    m, v = np.array([0.3, -0.5]), np.array([0.4, 0.6])
    f, weights = _tensor(m, v)
    values = stats.norm.logpdf(y, f[:, 0], np.exp(0.5 * f[:, 1]))
    args = [jnp.asarray(x)[None] for x in (m, v, y)]
    found = likelihood.expect(*args)
    np.testing.assert_allclose(found.value[0], weights @ values, rtol=1e-9)
    total = lambda m, v: jnp.sum(likelihood.expect(m, v, args[2]).value)
    by_mean, by_variance = jax.grad(total, (0, 1))(*args[:2])
    np.testing.assert_allclose(found.gradient, by_mean, rtol=1e-12)
    np.testing.assert_allclose(found.curvature, -2 * by_variance, rtol=1e-12)
    density = np.log(weights @ np.exp(values))
    np.testing.assert_allclose(likelihood.log_predictive(*args)[0], density, rtol=1e-5)
    mean, variance = likelihood.predict(*args[:2])
    np.testing.assert_allclose(mean[0], m[0])
    np.testing.assert_allclose(variance[0], v[0] + weights @ np.exp(f[:, 1]), rtol=1e-9)


@pytest.mark.parametrize(("spread", "tolerance"), [(0.6, 1e-7), (2.0, 2e-3)])
def test_categorical(spread, tolerance, x64):
    m, v = np.array([0.3, -0.5, 1.2]), spread**2 * np.array([1.0, 0.6, 0.2])
    f, weights = _tensor(m, v)
    p = special.softmax(f, 1)
    found = gp.Categorical(3).expect(*(jnp.asarray(x)[None] for x in (m, v, 2.0)))
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance)
    close(found.value[0], weights @ np.log(p[:, 2]))
    close(found.gradient[0], np.eye(3)[2] - weights @ p)
    close(found.curvature[0], weights @ (p * (1 - p)))
    likelihood = gp.Categorical(3)
    direct = likelihood.log_prob(jnp.asarray(f[:4]), jnp.full(4, 1.0))
    np.testing.assert_allclose(direct, np.log(p[:4, 1]), rtol=1e-9)


@pytest.mark.parametrize("name", ["student_t", "probit", "beta", "ordinal"])
def test_single_precision(name):
    entry = ENTRIES[name]
    with precision("float32"):
        args = [jnp.asarray(x, jnp.float32) for x in (M, V, entry.y)]
        single = entry.make().expect(*args)
    assert {leaf.dtype for leaf in single} == {jnp.dtype("float32")}
    with precision("float64"):
        double = entry.make().expect(*(jnp.asarray(np.asarray(x), float) for x in args))
    np.testing.assert_allclose(jnp.stack(single), jnp.stack(double), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("likelihood", "y", "message"),
    [
        (gp.Gaussian(), [0.0, np.nan], r"y\[1\] = nan"),
        (gp.Bernoulli(), [0.0, 1.0, -1.0], r"0 or 1; got y\[2\] = -1.0"),
        (gp.Bernoulli("cloglog"), [0.0], "expected link"),
        (gp.Poisson(), [0.0, 1.5, -2.0], r"counts 0, 1, 2, ...; got y\[1\] = 1.5 and 1 more"),
        (gp.NegativeBinomial(), [np.inf], r"y\[0\] = inf"),
        (gp.Beta(), [0.5, 1.0], r"between 0 and 1; got y\[1\] = 1.0"),
        (gp.ordinal(3), [0, 3], r"in 0, 1, ..., 2; got y\[1\] = 3"),
        (gp.Categorical(2), [0, 2], r"y\[1\] = 2"),
        (gp.StudentT(), [np.nan], r"y\[0\]"),
        (gp.HeteroscedasticGaussian(), [np.nan], r"y\[0\]"),
    ],
)
def test_targets_outside_the_support_are_named(likelihood, y, message):
    with pytest.raises(ValueError, match=message):
        likelihood.check(np.array(y))
