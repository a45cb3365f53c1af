"""Wasserstein flows by maps and critics: closed JKO steps, Barenblatt's profile, divergences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats
from scipy.integrate import quad

import flows
import vi
from vi.families.scale import DiagonalScale
from vi.module import module

KEY = jax.random.key(0)
LOC, SD = np.array([2.0, -1.0]), np.array([0.5, 1.5])
SMALL = {"hidden": (8,), "critic_hidden": (32,), "batch_size": 128, "num_draws": 1024}
STEP = 0.25


def gaussian(loc=LOC, sd=SD):
    return vi.Gaussian(jnp.asarray(loc, jnp.float32), DiagonalScale.of(jnp.asarray(sd)))


def normal_score(x):
    return -0.5 * jnp.sum(x**2)


TO_NORMAL = flows.relative_entropy(normal_score)


def ornstein_uhlenbeck(k, a=STEP):
    """Mean and deviations after k exact steps of KL to N(0, I); a to zero gives the flow's."""
    loc, sd = LOC, SD
    for _ in range(k):
        loc = loc / (1 + a)
        sd = (sd + np.sqrt(sd**2 + 4 * a * (1 + a))) / (2 * (1 + a))
    return loc, sd


def test_many_short_steps_are_the_ornstein_uhlenbeck_flow():
    loc, sd = ornstein_uhlenbeck(1000, 1e-3)
    np.testing.assert_allclose(loc, np.exp(-1) * LOC, rtol=2e-3)
    np.testing.assert_allclose(sd**2, 1 + np.exp(-2) * (SD**2 - 1), rtol=2e-3)


def check(found, k, loc_tolerance, sd_tolerance):
    draws = np.asarray(found.at(k).sample(jax.random.key(5), 20_000))
    loc, sd = ornstein_uhlenbeck(k)
    np.testing.assert_allclose(draws.mean(0), loc, atol=loc_tolerance)
    np.testing.assert_allclose(draws.std(0), sd, rtol=sd_tolerance)


def test_a_step_against_a_critic_is_the_closed_one():
    how = {**SMALL, "num_inner": 200, "learning_rate": 1e-2}
    found = flows.wasserstein_flow(
        TO_NORMAL, gaussian(), key=KEY, step_size=STEP, num_steps=2, **how
    )
    for k in (1, 2):
        check(found, k, 0.06, 0.08)
    with pytest.raises(AssertionError):  # it tells one step from two
        check(dataclasses.replace(found, flow=found.at(1)), 2, 0.06, 0.08)
    assert not found.skipped.any()
    np.testing.assert_allclose(found.at(0).sample(KEY, 5), gaussian().sample(KEY, 5), rtol=1e-5)
    with pytest.raises(ValueError, match="from 0 to 2; got 3"):
        found.at(3)


@pytest.mark.slow
@pytest.mark.parametrize(("estimate", "layer"), [("density", "convex"), ("critic", "residual")])
def test_steps_and_their_densities_are_the_closed_ones(estimate, layer):
    found = flows.wasserstein_flow(
        TO_NORMAL, gaussian(), key=KEY, step_size=STEP, num_steps=3, layer=layer, estimate=estimate
    )
    for k in (1, 2, 3):
        check(found, k, 0.03, 0.03)
    loc, sd = ornstein_uhlenbeck(3)
    z = loc + sd * np.random.default_rng(0).normal(size=(200, 2))
    exact = stats.norm.logpdf(z, loc, sd).sum(1)
    error = lambda k: np.abs(found.at(k).log_prob(jnp.asarray(z, jnp.float32)) - exact).mean()
    assert error(3) < 0.1 < error(2)
    kl = 0.5 * np.sum(loc**2 + sd**2 - 1 - 2 * np.log(sd)) - np.log(2 * np.pi)
    assert abs(found.values[-1] - kl) < 0.08


# ---- porous media ------------------------------------------------------------------------------

HEIGHT = (3 / (4 * np.sqrt(12))) ** (2 / 3)


@module
class Barenblatt:
    r"""The source solution of :math:`\\partial_t P = \\partial_{xx} P^2` on the line at a time."""

    radius: jax.Array

    @classmethod
    def at(cls, time):
        return cls(jnp.asarray(np.sqrt(12 * HEIGHT) * time ** (1 / 3), jnp.float32))

    def sample(self, seed, sample_shape):
        return self.radius * (2 * jax.random.beta(seed, 2.0, 2.0, (sample_shape, 1)) - 1)

    def log_prob(self, x):
        profile = 0.75 / self.radius * (1 - (x[..., 0] / self.radius) ** 2)
        return jnp.log(jnp.maximum(profile, 1e-30))


def closed_dilation(radius, a):
    """A step keeps the profile and widens it: least (r' - r)² / 10a + 3 / 5r'."""
    slope = lambda r: (r - radius) / (5 * a) - 0.6 / r**2
    return optimize.brentq(slope, radius, 10 * radius)


def test_short_dilations_are_barenblatts_solution():
    radius = float(Barenblatt.at(0.01).radius)
    for _ in range(1000):
        radius = closed_dilation(radius, 1e-4)
    np.testing.assert_allclose(radius, Barenblatt.at(0.11).radius, rtol=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("estimate", ["critic", "density"])
def test_porous_media_keep_barenblatts_profile(estimate):
    a, radius = 0.01, float(Barenblatt.at(0.01).radius)
    found = flows.wasserstein_flow(
        flows.generalized_entropy(2.0), Barenblatt.at(0.01), key=KEY, step_size=a, num_steps=3,
        estimate=estimate,
    )  # fmt: skip
    for k in (1, 2, 3):
        radius = closed_dilation(radius, a)
        assert abs(found.values[k - 1] * radius - 0.6) < 0.04
        draws = np.asarray(found.at(k).sample(jax.random.key(5), 20_000))[:, 0]
        distance = lambda r, draws=draws: (
            stats.kstest((draws / r + 1) / 2, stats.beta(2, 2).cdf).statistic
        )
        assert distance(radius) < 0.025
        assert distance(1.15 * radius) > 0.025  # what the next step would be


# ---- divergences -------------------------------------------------------------------------------

ROWS = jnp.asarray(np.random.default_rng(0).normal(1.0, 0.7, (20_000, 1)), jnp.float32)
P, Q = stats.norm(0, 1).pdf, stats.norm(1, 0.7).pdf


def jensen_shannon(x):
    middle = 0.5 * (P(x) + Q(x))
    return 0.5 * (P(x) * np.log(P(x) / middle) + Q(x) * np.log(Q(x) / middle))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("functional", "integrand", "share"),
    [
        (flows.JensenShannon(ROWS), jensen_shannon, 0.12),
        (flows.SampleRelativeEntropy(ROWS), lambda x: P(x) * np.log(P(x) / Q(x)), 0.12),
        (
            flows.relative_entropy(lambda x: jnp.sum(jax.scipy.stats.norm.logpdf(x, 1.0, 0.7))),
            lambda x: P(x) * np.log(P(x) / Q(x)),
            0.06,
        ),
        (flows.generalized_entropy(3.0), lambda x: P(x) ** 3 / 2, 0.15),
    ],
    ids=["jensen_shannon", "sample_relative_entropy", "relative_entropy", "generalized_entropy"],
)
def test_the_best_critic_has_the_value_of_the_functional(functional, integrand, share):
    """A step so short that the law stays; without a critic the value is far off."""
    how = {**SMALL, "learning_rate": 1e-2, "step_size": 1e-5, "num_draws": 8192}
    start = vi.mean_field(1)
    exact = quad(integrand, -7, 7)[0]
    found = flows.wasserstein_flow(functional, start, key=KEY, num_steps=1, **how)
    np.testing.assert_allclose(found.values[0], exact, rtol=share)
    if isinstance(functional, flows.JensenShannon):
        short = {**how, "num_inner": 1, "learning_rate": 1e-9}
        untrained = flows.wasserstein_flow(functional, start, key=KEY, num_steps=1, **short)
        assert abs(untrained.values[0] - exact) > 0.25 * exact


@pytest.mark.slow
def test_a_law_flows_to_a_sample():
    found = flows.wasserstein_flow(
        flows.JensenShannon(ROWS), vi.mean_field(1), key=KEY, step_size=2.0, num_steps=6,
        num_inner=200, learning_rate=1e-2, **SMALL,
    )  # fmt: skip
    draws = np.asarray(found.flow.sample(KEY, 10_000))
    before = np.asarray(found.at(0).sample(KEY, 10_000))
    gap = lambda x: stats.wasserstein_distance(x[:, 0], np.asarray(ROWS[:, 0]))
    assert gap(draws) < 0.25 * gap(before)
    assert np.all(np.diff(found.values) < 0.01)


# ---- what it refuses ---------------------------------------------------------------------------


def test_what_means_nothing_is_refused():
    run = lambda functional=TO_NORMAL, start=None, **how: flows.wasserstein_flow(
        functional, gaussian() if start is None else start, key=KEY, **how
    )
    with pytest.raises(ValueError, match=r"positive numbers.*'step_size': 0"):
        run(step_size=0)
    with pytest.raises(ValueError, match="layer 'convex' or 'residual'"):
        run(layer="concave")
    with pytest.raises(TypeError, match=r"start with sample and log_prob.*float"):
        run(start=1.0)
    with pytest.raises(ValueError, match="samples of its target only"):
        run(flows.JensenShannon(ROWS), vi.mean_field(1), estimate="density")
