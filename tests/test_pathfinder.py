"""Pathfinder against a Gaussian, where it has the answer in closed form, and beside blackjax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import samplers
import vi

KEY = jax.random.key(0)
FACTOR = np.random.default_rng(0).normal(size=(4, 4))
PRECISION, MEAN = FACTOR @ FACTOR.T + np.eye(4), np.arange(4.0)
EVIDENCE = 2 * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(PRECISION)[1]


def density(x, precision, mean):
    return -0.5 * (x - mean) @ precision @ (x - mean)


@pytest.fixture(scope="module")
def found():
    data = jnp.asarray(PRECISION, jnp.float32), jnp.asarray(MEAN, jnp.float32)
    return samplers.pathfinder(density, jnp.zeros(4), *data, key=KEY)


def gap(q):
    """KL(q‖p) of a Gaussian in closed form."""
    covariance = np.asarray(q.covariance(), float)
    off = np.asarray(q.loc, float) - MEAN
    trace = np.trace(PRECISION @ covariance) - 4 + off @ PRECISION @ off
    return 0.5 * (trace - np.linalg.slogdet(PRECISION @ covariance)[1])


def test_a_gaussian_is_found_and_judged(found):
    assert gap(found.q) < 0.1 < gap(vi.Gaussian(found.q.loc + 0.2, found.q.scale))
    assert abs(found.diagnostics.elbo - (EVIDENCE - gap(found.q))) < 0.02
    assert found.verdict.grade == "good", found.verdict
    assert "4 of 4 paths" in found.verdict.text
    assert 0 < found.cost["gradients"] <= 400


@pytest.mark.slow
def test_means_go_up_the_gradient():
    """Of paths cut off far from the mode, Newton's point is near it; one down the gradient is not.

    Means twice as far off as the path's end, as the wrong sign makes them, have a gap of 2.3.
    """
    data = jnp.asarray(PRECISION, jnp.float32), jnp.asarray(MEAN, jnp.float32)
    short = samplers.pathfinder(density, jnp.zeros(4), *data, key=KEY, num_steps=4)
    assert gap(short.q) < 0.5


def test_what_means_nothing_is_refused():
    with pytest.raises(ValueError, match="num_paths to be a whole number >= 1; got 0"):
        samplers.pathfinder(density, jnp.zeros(4), PRECISION, MEAN, key=KEY, num_paths=0)


@pytest.mark.slow
def test_other_modes_are_told_of():
    """Two normals, three quarters of the mass in one: a path in one of them is not enough."""
    side = lambda x, at: -0.5 * jnp.sum((x - at) ** 2)
    two = lambda x: jnp.logaddexp(jnp.log(0.75) + side(x, 5.0), jnp.log(0.25) + side(x, -5.0))
    found = samplers.pathfinder(two, jnp.zeros(2), key=KEY, num_paths=8)
    assert found.verdict.grade == "poor", found.verdict
    assert abs(found.diagnostics.missed - 0.25) < 0.05
    alone = samplers.pathfinder(two, jnp.zeros(2), key=KEY, num_paths=1)
    assert alone.diagnostics.missed == 0
