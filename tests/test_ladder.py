"""`family="auto"`: mixtures where a Gaussian is not enough."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vi
from tests import models
from vi import ladder
from vi.gaussian.mixture import MixtureSolver, add_component


def banana(x):
    """A twisted Gaussian with log evidence log(2π · 2 · ½)."""
    return -0.5 * ((x[0] / 2) ** 2 + ((x[1] - 0.25 * x[0] ** 2) / 0.5) ** 2)


@pytest.fixture(scope="module")
def climbed():
    return vi.fit(banana, jnp.zeros(2), key=jax.random.key(0), family="auto")


def test_rungs_are_reported_and_the_best_is_kept(climbed):
    names = [rung["family"] for rung in climbed.rungs]
    assert names[:2] == ["full-rank Gaussian (D = 2)", "mixture of 2 Gaussians (D = 2)"]
    elbos = [rung["elbo"] for rung in climbed.rungs]
    assert np.isclose(climbed.elbo, max(elbos))
    assert elbos[0] < elbos[1] - 0.2
    assert "Tried: full-rank Gaussian" in climbed.verdict.text
    assert climbed.cost["gradients"] == sum(rung["gradients"] for rung in climbed.rungs)
    assert climbed.khat < 0.7
    assert np.isclose(climbed.diagnostics.log_evidence, np.log(2 * np.pi), atol=0.03)


def test_a_good_gaussian_is_the_last_rung():
    target = vi.target(*models.gaussian_target())
    posterior = vi.fit(target, key=jax.random.key(0), family="auto")
    assert len(posterior.rungs) == 1
    assert "k-hat is below 0.7" in posterior.verdict.text


@pytest.mark.parametrize(
    ("changed", "fits"),
    [
        ({}, True),
        ({"mean_shift": 0.11}, False),
        ({"sd_shift": 0.11}, False),
        ({"bad": 0.01}, False),
        ({"missed": 0.02}, False),
        ({"khat": 0.71}, False),
    ],
)
def test_where_the_ladder_ends(climbed, changed, fits):
    """k-hat alone does not end it: weights must leave the moments where they are."""
    settled = {"mean_shift": 0.0, "sd_shift": 0.1, "bad": 0.0, "missed": 0.0, "khat": 0.6}
    found = climbed.diagnostics._replace(**{**settled, **changed})
    assert ladder._fits(dataclasses.replace(climbed, diagnostics=found)) == fits


def test_both_modes_are_covered():
    """k-hat of one mode is low: only the search knows of the other."""
    posterior = vi.fit(models.bimodal, jnp.zeros(2), key=jax.random.key(0), family="auto")
    assert len(posterior.rungs) == 2
    assert np.isclose(posterior.elbo, 0, atol=0.02)
    draws = posterior.sample(jax.random.key(1), 4000)["x"]
    assert abs(np.mean(draws[:, 0] > 0) - 0.5) < 0.05


def test_weights_find_the_shares_of_the_modes(x64):
    """From equal weights to 0.9 and 0.1, on a mixture that the family contains."""
    components = [
        vi.full_rank(2, loc=jnp.full(2, m), scale=s) for m, s in ((-3.0, 1.0), (3.0, 0.7))
    ]
    truth = vi.mixture(components, jnp.array([0.9, 0.1]))
    start = vi.mixture([vi.full_rank(2, loc=jnp.full(2, m)) for m in (-2.5, 2.5)])
    solver = MixtureSolver(vi.target(truth.log_prob, jnp.zeros(2)), jax.random.key(0), start)
    state = solver.initial()
    while not solver.done(state):
        state = solver.advance(state)
    q = solver.result(state)
    assert np.allclose(jax.nn.softmax(q.logits), [0.9, 0.1], atol=0.01)
    assert np.allclose(q.components.loc, truth.components.loc, atol=0.05)
    assert np.allclose(q.covariance(), truth.covariance(), atol=0.2)


def test_budget_is_kept():
    posterior = vi.fit(banana, jnp.zeros(2), key=jax.random.key(0), family="auto", budget=2000)
    assert posterior.cost["gradients"] <= 2000
    assert "exceed the budget of 2000 gradients" in posterior.verdict.text


def test_mixture_steps_at_one_component_are_a_gaussians(x64):
    """K = 1: f = log p - log q has the same whitened gradient and excess as the ELBO."""
    target = vi.target(*models.gaussian_target())
    precision, mean = map(np.asarray, target.data)
    solver = MixtureSolver(target, jax.random.key(0), vi.mixture([vi.full_rank(4)]))
    state = solver.initial()
    while not solver.done(state):
        state = solver.advance(state)
    q = solver.result(state)
    assert np.allclose(q.components.loc[0], mean, atol=1e-3)
    assert np.allclose(q.covariance() @ precision, np.eye(4), atol=1e-3)


def test_new_components_go_where_weights_are_large():
    q = vi.full_rank(2)
    draws = np.asarray(q.sample(jax.random.key(0), 2000))
    ratios = -np.sum((draws - np.array([1.5, 0.0])) ** 2, 1)
    grown = add_component(q, draws, ratios)
    assert grown.num_components == 2
    assert np.allclose(grown.components.loc[1], [1.5, 0.0], atol=0.3)
    assert np.isclose(jax.nn.softmax(grown.logits)[1], 0.2)


def test_three_modes_are_covered():
    """All ends of the searches start the mixture, not the best two alone."""
    centres = jnp.array([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.5]])

    def density(x):
        return jax.nn.logsumexp(-jnp.sum((x - centres) ** 2, axis=1))

    posterior = vi.fit(density, jnp.zeros(2), key=jax.random.key(0), family="auto")
    assert np.isclose(posterior.diagnostics.log_evidence, np.log(3 * np.pi), atol=0.01)
    draws = posterior.sample(jax.random.key(1), 6000)["x"]
    nearest = np.argmin(((draws[:, None] - np.asarray(centres)) ** 2).sum(-1), axis=1)
    assert np.allclose(np.bincount(nearest, minlength=3) / 6000, 1 / 3, atol=0.04)
    assert "mixture of 4" in posterior.verdict.text


def test_a_mode_of_low_elbo_and_high_mass_is_seen(x64):
    """The other mode is far from Gaussian: its ELBO is 5 nats lower, its mass nine times larger."""
    dim = 24

    def density(x):
        wide = jnp.sum(-0.3 * (x - 1) - jnp.exp(-(x - 1))) - dim * jax.scipy.special.gammaln(0.3)
        narrow = -0.5 * jnp.sum((x + 2) ** 2) - 0.5 * dim * jnp.log(2 * jnp.pi)
        return jnp.logaddexp(jnp.log(0.1) + narrow, jnp.log(0.9) + wide)

    posterior = vi.fit(density, jnp.zeros(dim), key=jax.random.key(1))
    assert posterior.verdict.grade == "poor"
