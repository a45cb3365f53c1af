"""Variational problems for `benchmarks.optimizers`: a density, a family, a budget.

Each is the minimisation of the negative ELBO of a Gaussian on an unconstrained density, by
reparameterised draws with the entropy in closed form. Seven are stochastic, with fresh draws (and
for one a fresh minibatch) at every gradient; two have their draws fixed once and for all.
Scales are "linear" as `vi.fit` has them, except where draws are fixed: there a change of sign is
another problem, and "softplus" has none.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

import vi
from optim import Oracle

SCHOOLS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


class Problem(NamedTuple):
    """A negative ELBO, and what may be spent on it."""

    about: str
    log_density: Callable  # (z, key) -> scalar; the key chooses a minibatch, None for all data
    start: Callable  # () -> the family to start from
    draws: int  # per gradient
    steps: int
    eval_draws: int
    fixed: bool = False  # whether the draws are the same at every step
    batches: float = 1.0  # minibatches that make up the data

    def loss(self, q: Any, key: jax.Array) -> jax.Array:
        """The negative ELBO estimated with the randomness of ``key``, in nats."""
        return self.oracle(key)(q)

    def sample_average(self, q: Any, key: jax.Array, draws: int) -> jax.Array:
        """The loss of all data at draws that the key fixes, for methods that need one function."""
        return self.loss(q, key) if self.fixed else self.from_noise(q, q.noise(key, draws), None)

    def oracle(self, key: jax.Array) -> Oracle:
        """The loss of a key: a mean over draws, the rows, less the entropy."""
        key = jax.random.key(0, impl="rbg") if self.fixed else key
        batch = jax.random.fold_in(key, 1)
        return Oracle.composite(
            lambda q: q.draw(q.noise(key, self.draws))[0],
            jax.vmap(lambda z: -self.log_density(z, batch)),
            lambda q: -q.entropy(),
        )

    def from_noise(self, q: Any, noise: jax.Array, key: jax.Array | None) -> jax.Array:
        """The negative ELBO at given unit normal draws."""
        z, _ = q.draw(noise)
        density = jax.vmap(lambda z: self.log_density(z, key))
        return -jnp.mean(density(z)) - q.entropy()

    def evaluate(self, q: Any) -> jax.Array:
        """The loss by which methods are compared: all data, draws that are the same for all.

        For fixed draws, the loss itself. Else new draws, turned and stretched so that their
        mean and covariance are those of a unit normal (variances only, where D is large).
        """
        if self.fixed:
            return self.loss(q, jax.random.key(0))
        return self.from_noise(q, jnp.asarray(_moment_matched(q.dim, self.eval_draws)), None)


@functools.cache
def _moment_matched(dim: int, draws: int) -> np.ndarray:
    half = np.random.default_rng(2024).normal(size=(draws // 2, dim))
    noise = np.concatenate([half, -half])
    if draws > 4 * dim:
        root = np.linalg.cholesky(noise.T @ noise / draws)
        return np.linalg.solve(root, noise.T).T.astype(np.float32)
    return (noise / np.sqrt((noise**2).mean(0))).astype(np.float32)


def _gaussian() -> Callable:
    """50 coordinates, precisions from 1e-2 to 1e2, and a mean far from zero."""
    precision = np.geomspace(1e-2, 1e2, 50).astype(np.float32)
    mean = 10 * np.random.default_rng(0).normal(size=50).astype(np.float32)
    return lambda z, key: -0.5 * jnp.sum(precision * (z - mean) ** 2)


def _cancer() -> Callable:
    """Logistic regression: 569 tumours, 30 standardised measurements and an intercept."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    X = (data.data - data.data.mean(0)) / data.data.std(0)
    X = np.concatenate([np.ones((len(X), 1)), X], 1)
    signed = jnp.asarray((2 * data.target[:, None] - 1) * X, jnp.float32)
    return lambda z, key: jnp.sum(jax.nn.log_sigmoid(signed @ z)) - 0.5 * jnp.sum(z**2)


def _schools(z: jax.Array, key: Any) -> jax.Array:
    """Eight schools, centred: mean, log spread, eight effects."""
    mu, log_tau, theta = z[0], z[1], z[2:]
    prior = -0.5 * (mu / 5) ** 2 - jnp.log1p(jnp.exp(2 * log_tau) / 25) + log_tau
    effects = -0.5 * jnp.sum(((theta - mu) * jnp.exp(-log_tau)) ** 2) - 8 * log_tau
    return prior + effects - 0.5 * jnp.sum(((SCHOOLS - theta) / ERRORS) ** 2)


def _poisson() -> Callable:
    """Poisson regression with exponential link, 20 coefficients, 200 counts: steep far away."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 20))
    y = rng.poisson(np.exp(X @ rng.normal(size=20) * 0.3))
    X, y = jnp.asarray(X, jnp.float32), jnp.asarray(y, jnp.float32)

    def log_density(z: jax.Array, key: Any) -> jax.Array:
        logits = X @ z
        likelihood = y * logits - jnp.exp(logits) - gammaln(y + 1)
        return jnp.sum(likelihood) - 0.5 * jnp.sum(z**2)

    return log_density


def _means(count: int) -> Callable:
    """Many means, each seen once with Student-t(4) noise, partially pooled: D = count + 2."""
    rng = np.random.default_rng(2)
    theta = 3 + 2 * rng.normal(size=count)
    y = jnp.asarray(theta + rng.standard_t(4, count), jnp.float32)

    def log_density(z: jax.Array, key: Any) -> jax.Array:
        mu, log_tau, unit = z[0], z[1], z[2:]
        residual = y - mu - jnp.exp(log_tau) * unit
        likelihood = -2.5 * jnp.sum(jnp.log1p(residual**2 / 4))
        return likelihood - 0.5 * (jnp.sum(unit**2) + (mu / 10) ** 2 + log_tau**2)

    return log_density


HIDDEN = 8


def _network() -> Callable:
    """Progression of diabetes, 442 patients, 10 measurements: 8 hidden units, minibatch of 100."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    X = jnp.asarray(data.data / data.data.std(0), jnp.float32)
    y = jnp.asarray((data.target - data.target.mean()) / data.target.std(), jnp.float32)

    def log_density(z: jax.Array, key: Any) -> jax.Array:
        sizes = np.cumsum([10 * HIDDEN, HIDDEN, HIDDEN, 1])
        inner, shift, outer, offset, log_noise = jnp.split(z, sizes)
        rows = jnp.arange(len(y)) if key is None else jax.random.randint(key, (100,), 0, len(y))
        hidden = jnp.tanh(X[rows] @ inner.reshape(10, HIDDEN) / 10**0.5 + shift)
        error = y[rows] - hidden @ outer / HIDDEN**0.5 - offset
        mean = jnp.mean(-0.5 * (error * jnp.exp(-log_noise)) ** 2 - log_noise)
        return len(y) * mean - 0.5 * jnp.sum(z**2)

    return log_density


def _small_start() -> vi.Gaussian:
    loc = 0.3 * np.random.default_rng(3).normal(size=10 * HIDDEN + 2 * HIDDEN + 2)
    return vi.mean_field(len(loc), loc=jnp.asarray(loc, jnp.float32), scale=0.1)


def problems(*, quick: bool = False) -> dict[str, Problem]:
    """All problems; ``quick`` ones are fewer and small, for a test of the machinery."""
    if quick:
        return {
            "schools": Problem("small", _schools, lambda: vi.mean_field(10), 4, 200, 64),
            "schools_fixed": Problem(
                "small", _schools, lambda: vi.mean_field(10), 16, 200, 0, fixed=True
            ),
        }
    many = 100_000
    return {
        "gaussian": Problem(
            "mean-field, Gaussian of condition 1e4, D = 50",
            *(_gaussian(), lambda: vi.mean_field(50), 4, 5000, 512),
        ),
        "cancer": Problem(
            "full-rank, logistic regression on 569 tumours (real data), D = 31",
            *(_cancer(), lambda: vi.full_rank(31), 4, 2000, 512),
        ),
        "schools": Problem(
            "mean-field, centred eight schools (real data), D = 10",
            *(_schools, lambda: vi.mean_field(10), 4, 5000, 2048),
        ),
        "poisson": Problem(
            "full-rank, Poisson regression with exponential link, D = 20",
            *(_poisson(), lambda: vi.full_rank(20, scale=0.1), 4, 3000, 1024),
        ),
        "poisson_far": Problem(
            "the same from a scale of 1, with gradients of 1e9 at first",
            *(_poisson(), lambda: vi.full_rank(20), 4, 3000, 1024),
        ),
        "network": Problem(
            "mean-field, Bayesian neural network, 442 patients (real data), minibatch 100, D = 98",
            *(_network(), _small_start, 4, 2000, 256),
            batches=4.42,
        ),
        "cancer_fixed": Problem(
            "mean-field, logistic regression, 32 fixed draws, D = 31",
            *(_cancer(), lambda: vi.mean_field(31, positive="softplus"), 32, 800, 0),
            fixed=True,
        ),
        "schools_fixed": Problem(
            "mean-field, centred eight schools, 64 fixed draws, D = 10",
            *(_schools, lambda: vi.mean_field(10, positive="softplus"), 64, 2000, 0),
            fixed=True,
        ),
        "means": Problem(
            "mean-field, partially pooled means with Student-t noise, D = 100,002",
            *(_means(many), lambda: vi.mean_field(many + 2, scale=0.3), 1, 700, 8),
        ),
    }
