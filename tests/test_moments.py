"""Stochastic method of moments against efficient GMM on all rows, with instruments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import stochastic_moments
from vi.compile import quick_jit

TRUTH = np.array([1.0, -0.5])


def rows(n=20_000):
    """A regressor that depends on the noise, and two instruments of it that do not."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 2))
    noise = rng.normal(size=n)
    x = z @ np.array([0.7, 0.5]) + 0.8 * noise + 0.5 * rng.normal(size=n)
    y = TRUTH[0] * x + TRUTH[1] + noise * (0.5 + 0.5 * z[:, 0] ** 2)
    one = np.ones((n, 1))
    arrays = np.column_stack([x, one]), y, np.column_stack([z, one])
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


def g(theta, row):
    x, y, z = row
    return z * (y - x @ theta)


def efficient(x, y, z):
    """Two-step GMM and its covariance."""
    x, y, z = (np.asarray(a, float) for a in (x, y, z))
    slopes, weights = z.T @ x, np.linalg.inv(z.T @ z)
    for _ in range(3):
        bread = np.linalg.inv(slopes.T @ weights @ slopes)
        theta = bread @ slopes.T @ weights @ z.T @ y
        moments = z * (y - x @ theta)[:, None]
        weights = np.linalg.inv(moments.T @ moments)
    return theta, np.linalg.inv(slopes.T @ weights @ slopes)


def test_a_stream_gives_the_efficient_estimate():
    data = rows()
    how = stochastic_moments(g)
    state = how.init(jnp.zeros(2), jax.tree.map(lambda a: a[:200], data))
    bad = (data[0][0], jnp.asarray(jnp.nan), data[2][0])
    untouched = how.update(state, bad)
    assert untouched.count == 0
    assert np.isfinite(untouched.average).all()
    run = quick_jit(lambda s, d: jax.lax.scan(lambda s, row: (how.update(s, row), None), s, d)[0])
    state = run(state, data)
    theta, covariance = efficient(*data)
    errors = np.sqrt(np.diag(covariance))
    assert np.abs((np.asarray(state.average) - theta) / errors).max() < 0.7
    assert np.abs((theta - TRUTH) / errors).max() < 5
    np.testing.assert_allclose(np.sqrt(np.diag(state.covariance())), errors, rtol=0.1)
    least_squares = np.linalg.lstsq(data[0], data[1], rcond=None)[0]
    assert np.abs((least_squares - theta) / errors).max() > 20  # which sees no instruments


def test_the_start_does_not_matter():
    """Far away moments are all mean: some steps on the first rows come before the weights."""
    g = lambda theta, x: jnp.stack([x - theta[0], (x - theta[0]) ** 2 - theta[1]])
    how = stochastic_moments(g)
    x = 2.0 + 0.6 * jax.random.normal(jax.random.key(0), (3000,))
    run = quick_jit(lambda s, x: jax.lax.scan(lambda s, row: (how.update(s, row), None), s, x)[0])
    near, far = (
        run(how.init(jnp.asarray(start), x[:100]), x[100:]) for start in ([1.0, 1.0], [10.0, 1.0])
    )
    np.testing.assert_allclose(near.average, far.average, atol=1e-4)
    errors = np.sqrt(np.diag(far.covariance()))
    np.testing.assert_allclose(errors, [0.6 / 3000**0.5, 0.36 * (2 / 3000) ** 0.5], rtol=0.4)


def test_too_few_moments_are_refused():
    with pytest.raises(ValueError, match="at least 2 moments"):
        stochastic_moments(lambda theta, x: (x - theta[0])[None]).init(jnp.zeros(2), jnp.ones(9))
