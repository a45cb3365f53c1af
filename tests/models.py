"""Models and densities that several tests use."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

SCHOOLS_Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SCHOOLS_SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools(y, sigma):
    """Eight schools, centred: a funnel, with no mode."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([len(y)]).to_event(1))
    numpyro.sample("y", dist.Normal(theta, sigma).to_event(1), obs=y)


def regression(X, y):
    """Linear regression with flat priors: the posterior is nearly Gaussian."""
    flat = dist.ImproperUniform(dist.constraints.real_vector, (), (X.shape[1],))
    beta = numpyro.sample("beta", flat)
    sigma = numpyro.sample("sigma", dist.HalfNormal(5.0))
    numpyro.deterministic("first", beta[0])
    numpyro.sample("y", dist.Normal(X @ beta, sigma).to_event(1), obs=y)


def regression_data(n=200, seed=0):
    """Data for `regression`, with columns of very different scales."""
    rng = np.random.default_rng(seed)
    X = np.stack([np.ones(n), rng.normal(100, 15, n)], 1)
    return X, X @ np.array([20.0, 0.6]) + rng.normal(0, 2.0, n)


def logistic(X, y):
    """Logistic regression."""
    beta = numpyro.sample("beta", dist.Normal(0, 2).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=X @ beta).to_event(1), obs=y)


def logistic_data(n=40, d=2, seed=0):
    """Data for `logistic`."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, (rng.random(n) < 1 / (1 + np.exp(-X @ np.linspace(1.5, -1, d)))).astype(float)


def gaussian_target(dim=4, seed=0):
    """A Gaussian log density as arguments: ``log_density, point, precision, mean``."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(dim, dim))
    precision = w @ w.T + 0.5 * np.eye(dim)
    return quadratic, jnp.zeros(dim), precision, rng.normal(size=dim)


def quadratic(x, precision, mean):
    """Log density of N(mean, precision⁻¹), up to a constant."""
    return -0.5 * (x - mean) @ precision @ (x - mean)


def bimodal(x):
    """Two equal modes at ±3, unit variances, D = 2; log evidence 0."""
    log_normal = lambda m: dist.Normal(m, 1.0).log_prob(x).sum()
    return jnp.logaddexp(log_normal(-3.0), log_normal(3.0)) - jnp.log(2.0)


def hermite(f, loc, root, points=40):
    """E[f(z)] for z ~ N(loc, root rootᵀ) in two dimensions, by Gauss-Hermite quadrature."""
    x, w = np.polynomial.hermite_e.hermegauss(points)
    w = w / w.sum()
    grid = np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)
    weights = np.outer(w, w).reshape(-1)
    values = jax.vmap(f)(jnp.asarray(loc + grid @ np.asarray(root).T))
    return jax.tree.map(lambda v: np.tensordot(weights, np.asarray(v), 1), values)
