"""Tempered SMC against known evidences and shares of modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import samplers
import vi
from samplers.population import Agreement, judge
from tests.stats import assert_mean
from vi.status import Status

KEY = jax.random.key(3)
SHARE = 0.3


def two_modes(x):
    """Three tenths at 3, the rest at -3; its integral is e."""
    side = lambda loc: -0.5 * jnp.sum((x - loc) ** 2) - jnp.log(2 * jnp.pi)
    return 1 + jnp.logaddexp(jnp.log(SHARE) + side(3.0), jnp.log(1 - SHARE) + side(-3.0))


TARGET = vi.target(two_modes, jnp.zeros(2))
HOW = {"key": KEY, "spread": 6.0, "num_particles": 300, "num_populations": 16, "num_moves": 3}


@pytest.fixture(scope="module")
def start():
    return vi.fit(TARGET, key=KEY, on_failure="return")


@pytest.fixture(scope="module")
def found(start):
    return samplers.smc(TARGET, start=start, **HOW)


def test_evidence_and_shares_of_modes(found):
    ratios = np.exp(np.array(found.agreement.log_evidences) - 1)
    shares = (found.points[:, :, 0] > 0).mean(1)
    assert_mean(ratios, 1.0)
    assert_mean(shares, SHARE)
    with pytest.raises(AssertionError):
        assert_mean(ratios, np.exp(0.2))
    with pytest.raises(AssertionError):
        assert_mean(shares, 0.45)  # what modes of equal mass would differ by less than from
    assert abs(found.log_evidence - 1) < 0.15
    assert found.verdict.grade in ("good", "fair"), found.verdict
    assert found.draws()[TARGET.layout.names[0]].shape == (16, 300, 2)
    assert all(np.all(np.diff(row) >= 0) and row[-1] == 1 for row in found.temperatures)


def test_a_run_that_is_cut_off_goes_on(start, found, tmp_path):
    how = {**HOW, "start": start, "checkpoint": tmp_path / "run"}
    cut = samplers.smc(TARGET, callback=lambda step, state, info: step >= 2, **how)
    assert cut.status == Status.STOPPED
    whole = samplers.smc(TARGET, **how)
    np.testing.assert_array_equal(whole.points, found.points)
    assert whole.log_evidence == found.log_evidence


def test_populations_come_back_from_disk(found, tmp_path):
    path = tmp_path / "population.npz"
    found.save(path)
    loaded = samplers.Population.load(path, TARGET)
    np.testing.assert_array_equal(loaded.points, found.points)
    assert (loaded.agreement, loaded.verdict) == (found.agreement, found.verdict)
    assert loaded.log_evidence == found.log_evidence
    np.testing.assert_array_equal(loaded.temperatures, found.temperatures)
    other = vi.target(lambda x: two_modes(x) - jnp.sum(x**4), jnp.zeros(2))
    with pytest.raises(vi.CheckpointError, match="log density"):
        samplers.Population.load(path, other)
    with pytest.raises(vi.CheckpointError, match="chains"):
        samplers.Chains.load(path, TARGET)


def test_populations_that_disagree_are_poor():
    fine = Agreement(1.0, "x", (0.0, 0.1, 0.2), 100, 0.8, 0, 5, 0)
    grade = lambda **changed: judge(fine._replace(**changed), Status.CONVERGED, []).grade
    assert grade() == "good"
    assert grade(log_evidences=(0.0, 0.6, 1.2)) == "fair"
    assert grade(log_evidences=(0.0, 3.0, 1.0)) == "poor"
    assert grade(founders=4) == "poor"
    assert grade(rhat=1.1) == "poor"
    assert grade(acceptance=0.1) == "poor"


def test_what_means_nothing_is_refused(start):
    for wrong in ({"num_particles": 2}, {"spread": 0.5}, {"effective": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            samplers.smc(TARGET, start=start, **{**HOW, **wrong})
    with pytest.raises(TypeError, match="adapts its steps"):
        samplers.smc(TARGET, start=start, algorithm=samplers.Independence(), **HOW)


def test_a_run_that_ended_early_is_not_the_posterior():
    density = lambda x: -0.5 * jnp.sum(x**2) - 50 * (jnp.sum(x**2) - 9) ** 2 / 9
    found = samplers.smc(
        density, jnp.zeros(2), key=jax.random.key(0), num_particles=100, num_populations=2,
        callback=lambda *_: True,
    )  # fmt: skip
    assert found.agreement.reached < 1
    assert found.verdict.grade == "poor"
    assert "have not come to the posterior" in found.verdict.text
    assert np.isnan(found.log_evidence)
