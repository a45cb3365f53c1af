"""Structured SG-MCMC on a Gaussian, where the best product and the bias of the step are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import samplers
import vi
from tests.stats import assert_mean

PRECISION = np.array([[2.0, 1.2], [1.2, 1.5]], np.float32)
KEY = jax.random.key(0)


def density(z, key):
    del key
    return -0.5 * z @ PRECISION @ z


def moments(how, steps=4000, chains=64):
    """Second moments of independent chains, their first quarter left out."""

    def chain(key):
        def one(state, key):
            new, info = how.step(key, state)
            return new, (new.position, info.divergent)

        keys = jax.random.split(key, steps)
        _, (z, bad) = jax.lax.scan(one, how.init(jnp.zeros(2)), keys)
        z = z[steps // 4 :]
        return z.T @ z / len(z), bad.sum()

    found, bad = jax.jit(jax.vmap(chain))(jax.random.split(KEY, chains))
    assert not bad.any()
    return np.asarray(found)


def variances(step):
    """Of the recursion of a group by itself, 1/Λ_ii / (1 - ε Λ_ii/2)."""
    own = np.diag(PRECISION)
    return 1 / own / (1 - step * own / 2)


def test_groups_come_to_the_best_product():
    """A variance is 1/Λ_ii, not the marginal's, and groups are uncorrelated.

    The other groups' values are noise to a group's drift, which adds to its variance what the
    recursion says; that the ring holds no independent values is within the 5 % allowed.
    """
    step = 0.1
    found = moments(samplers.structured_sgld(density, [[0], [1]], step, memory=400))
    mean = found.mean(0)
    noise = step**2 * PRECISION[0, 1] ** 2 * variances(step)[::-1]  # of the composites' drift
    own = np.diag(PRECISION)
    expected = variances(step) + noise / (1 - (1 - step * own) ** 2)
    np.testing.assert_allclose(np.diag(mean), expected, rtol=0.05)
    assert abs(mean[0, 1]) < 0.05
    marginal = np.diag(np.linalg.inv(PRECISION))
    assert (np.diag(mean) < 0.8 * marginal).all()


@pytest.mark.parametrize(
    ("groups", "options"),
    [([[0, 1]], {}), ([[0], [1]], {"mask": "bernoulli", "keep": 1.0, "num_composites": 1})],
    ids=["one group", "all kept"],
)
def test_without_structure_it_is_sgld(groups, options):
    """The recursion's exact covariance: C = (I - εΛ) C (I - εΛ) + 2εI."""
    step = 0.1
    found = moments(samplers.structured_sgld(density, groups, step, **options))
    covariance = np.linalg.inv(PRECISION @ (np.eye(2) - step * PRECISION / 2))
    assert_mean(found, covariance)
    with pytest.raises(AssertionError, match="largest"):
        assert_mean(found, 0.5 * covariance)  # the noise of the published code


@pytest.mark.parametrize("mask", ["bernoulli", "uniform"])
def test_masks_are_between(mask):
    how = samplers.structured_sgld(density, [[0], [1]], 0.05, mask=mask, keep=0.5, memory=400)
    mean = moments(how).mean(0)
    marginal, product = np.diag(np.linalg.inv(PRECISION)), 1 / np.diag(PRECISION)
    assert (np.diag(mean) < marginal).all()
    assert (np.diag(mean) > 0.9 * product).all()
    assert -0.8 < mean[0, 1] < -0.05  # the posterior's is -0.77


def test_a_target_brings_its_minibatches():
    target = vi.target(lambda z: density(z, None), jnp.zeros(2))
    how = samplers.structured_sgld(target, [[0], [1]], 0.1)
    plain = samplers.structured_sgld(density, [[0], [1]], 0.1)
    start = jnp.array([0.3, -0.2])
    moved = [h.step(KEY, h.init(start))[0].position for h in (how, plain)]
    np.testing.assert_allclose(*moved, rtol=1e-6)


def test_what_is_not_finite_is_not_done():
    how = samplers.structured_sgld(lambda z, key: jnp.sum(jnp.log(z)), [[0], [1]], 0.1)
    start = jnp.array([1.0, 0.0])
    state, info = how.step(KEY, how.init(start))
    assert info.divergent
    np.testing.assert_array_equal(state.position, start)


def test_the_ring_holds_the_last_positions():
    how = samplers.structured_sgld(density, [[0, 1]], 0.1, memory=3, thinning=2)
    state, seen = how.init(jnp.zeros(2)), []
    step = jax.jit(how.step)
    for key in jax.random.split(KEY, 8):
        state, _ = step(key, state)
        seen.append(np.asarray(state.position))
    np.testing.assert_array_equal(np.sort(state.memory[:, 0]), np.sort([s[0] for s in seen[3::2]]))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="each coordinate"):
        samplers.structured_sgld(density, [[0], [0, 1]], 0.1)
    with pytest.raises(ValueError, match="'bernoulli'"):
        samplers.structured_sgld(density, [[0]], 0.1, mask="half")
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        samplers.structured_sgld(density, [[0], [1]], 0.1).init(jnp.zeros(3))
