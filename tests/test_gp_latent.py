"""A Gaussian process inside of a NumPyro model: its posterior by `vi.fit` is the process's own."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import gp
import vi

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.uniform(0, 3, size=(12, 1))
Y = np.sin(3 * X[:, 0]) + 0.1 * RNG.normal(size=12)
NEW = np.array([[0.5], [2.2], [4.0]])
KERNEL = gp.Matern(0.8, 1.5)


def model(x, y, z=None):
    mean = gp.ConstantMean(0.3)
    f = gp.latent("f", KERNEL, x, mean=mean, inducing=z)
    numpyro.sample("y", dist.Normal(f, 0.3), obs=y)


@pytest.mark.parametrize("count", [12, 5])
def test_the_posterior_is_that_of_regression(count, x64):
    """Of the process itself, and of its projection onto five inputs, in closed form."""
    z = jnp.asarray(X[:count]) if count < 12 else None
    found = vi.fit(model, jnp.asarray(X), jnp.asarray(Y), z, key=KEY, family="full_rank")
    draws = found.sample(jax.random.key(1), 20_000)
    cross, inner = np.asarray(KERNEL(X, X[:count])), np.asarray(KERNEL(X[:count], X[:count]))
    prior = cross @ np.linalg.solve(inner, cross.T)
    gain = prior @ np.linalg.inv(prior + 0.09 * np.eye(12))
    mean, covariance = 0.3 + gain @ (Y - 0.3), prior - gain @ prior
    spread = np.sqrt(np.diag(covariance))
    f = np.asarray(draws["f"])
    # Six standard errors of 20,000 draws, and 0.05 for the fit's own.
    np.testing.assert_array_less(np.abs(f.mean(0) - mean) / spread, 0.1)
    np.testing.assert_allclose(f.std(0) / spread, 1.0, atol=0.08)
    if count == 12:
        white = jnp.asarray(draws["f_white"])
        at = jax.vmap(lambda v: gp.latent_at(NEW, v, KERNEL, X, mean=gp.ConstantMean(0.3)))
        means, variances = map(np.asarray, at(white))
        exact = gp.fit(
            X,
            Y,
            key=KEY,
            train=False,
            kernel=KERNEL,
            mean=gp.ConstantMean(0.3),
            likelihood=gp.Gaussian(0.09),
        ).predict(NEW)
        deviation = np.sqrt(exact.variance)
        np.testing.assert_array_less(np.abs(means.mean(0) - exact.mean) / deviation, 0.1)
        total = means.var(0) + variances.mean(0)
        np.testing.assert_allclose(total, exact.variance, rtol=0.15)


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=r"shape \(N, D\); got x of shape \(12,\)"):
        gp.latent("f", KERNEL, X[:, 0])
