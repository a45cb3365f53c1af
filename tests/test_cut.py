"""What lies beyond the draws of a flow: found where it ends at a wall, not where it is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flows
import vi
from vi.module import module
from vi.posterior.cut import can_cut, find_cut, most_gradients, num_chains
from vi.posterior.diagnostics import diagnose
from vi.posterior.verdict import judge
from vi.status import Status

KEY, OTHER = jax.random.key(0), jax.random.key(1)
DIM = 3


@module
class Cropped:
    """The standard normal without what lies beyond a number in the first coordinate."""

    end: jax.Array

    def sample_and_log_prob(self, key, num_samples):
        keys = jax.random.split(key)
        kept = jax.scipy.stats.norm.cdf(self.end)
        first = jax.scipy.special.ndtri(kept * jax.random.uniform(keys[0], (num_samples, 1)))
        z = jnp.concatenate([first, jax.random.normal(keys[1], (num_samples, DIM - 1))], 1)
        return z, self.log_prob(z)

    def log_prob(self, z):
        inside = normal(z) - jnp.log(jax.scipy.stats.norm.cdf(self.end))
        return jnp.where(z[..., 0] < self.end, inside, -jnp.inf)


def normal(z):
    return jnp.sum(jax.scipy.stats.norm.logpdf(z), axis=-1)


@pytest.fixture(scope="module")
def target():
    return vi.target(normal, jnp.zeros(DIM))


@pytest.mark.parametrize("missing", [0.05, 0.02])
def test_a_wall_is_found_that_weights_do_not_show(target, missing):
    q = Cropped(jnp.asarray(jax.scipy.stats.norm.ppf(1 - missing)))
    found = diagnose(KEY, q, target, 8192)
    assert judge(found, Status.CONVERGED, "flow", [], []).grade == "good"
    cut = find_cut(OTHER, found, q, target, 512)
    assert missing / 2 < cut.share < 2 * missing
    lost = 1 / found.draws[:, 0].std() - 1  # of the standard deviation, 11 % and 6 %
    assert 0.5 * lost < cut.shift < 2.5 * lost
    assert cut.gradients == most_gradients(10**6)
    seen = found._replace(cut=cut.share, cut_shift=cut.shift)
    verdict = judge(seen, Status.CONVERGED, "flow", [], [])
    assert verdict.grade == "poor"
    assert "ends where the posterior goes on" in verdict.text


def test_a_right_approximation_is_left_alone(target):
    """The twin, over 50 keys: no chain may end where q is next to zero, for it is so nowhere."""
    q = Cropped(jnp.asarray(jnp.inf))
    found = diagnose(KEY, q, target, 8192)
    for i in range(50):
        cut = find_cut(jax.random.key(i), found, q, target, 512)
        assert (cut.share, cut.shift, 3 * cut.gradients) == (0, 0, most_gradients(10**6))


def test_a_little_beyond_costs_good_only(target):
    found = diagnose(KEY, vi.mean_field(DIM), target)._replace(cut=0.004, cut_shift=0.1)
    verdict = judge(found, Status.CONVERGED, "flow", [], [])
    assert verdict.grade == "fair"
    assert "0.4% of the mass" in verdict.text


def test_flows_and_mixtures_are_asked(target):
    layers = flows.planar(DIM, key=KEY, num_layers=1).around(vi.full_rank(DIM))
    assert can_cut(layers, target)
    assert can_cut(vi.mixture([layers, layers]), target)
    assert not can_cut(vi.full_rank(DIM), target)
    assert can_cut(vi.mixture([vi.full_rank(DIM)] * 2), target)
    assert [num_chains(n) for n in (0, 64_000, 10**6)] == [256, 256, 512]


def banana(x):
    return -0.5 * (x[0] / 2) ** 2 - 2 * (x[1] - x[0] ** 2) ** 2


@pytest.mark.slow
def test_verdicts_of_mixtures_on_a_long_banana():
    """Of two Gaussians, whose k-hat is small, more than a tenth of the mass is found missing.

    The twin, two Gaussians for a mixture of two, has nothing beyond.
    """
    short = vi.fit(banana, jnp.zeros(2), key=KEY, family="auto", budget=160_000)
    second = short.rungs[1]
    assert "mixture of 2" in second["family"]
    assert second["khat"] < 0.7
    assert second["grade"] == "poor"
    assert second["moved"] > 0.5
    both = vi.mixture([vi.full_rank(2), vi.full_rank(2, loc=jnp.array([0.0, 2.0]), scale=0.5)])
    exact = vi.fit(both.log_prob, jnp.zeros(2), key=KEY, family="auto")
    assert "mixture of 2" in exact.rungs[-1]["family"]
    assert exact.diagnostics.cut == 0.0
    assert exact.verdict.grade == "good"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["realnvp", "neural_spline"])
def test_verdicts_of_flows_on_a_long_banana(name):
    """Standard deviations are 2 and 5.7; a flow whose own are far less is not called usable."""
    posterior = vi.fit(banana, jnp.zeros(2), key=KEY, family=name)
    z = posterior.sample(OTHER, 50_000)["x"]
    off = np.abs(z.std(0) / [2, np.sqrt(32.25)] - 1).max()
    assert (posterior.verdict.grade == "poor") == (off > 0.2)
