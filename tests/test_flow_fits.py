"""`vi.fit` with flows: better than the Gaussian it starts from, saved, resumed, never worse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flows
import vi
from tests.test_ladder import banana
from vi import ladder, plan
from vi.posterior.cut import most_gradients

KEY = jax.random.key(0)
LOG_EVIDENCE = np.log(2 * np.pi)  # of the banana


def small(dim):
    return flows.neural_spline(dim, key=KEY, num_layers=3, hidden=(8,), num_bins=3)


def fit(**options):
    return vi.fit(banana, jnp.zeros(2), key=KEY, family=small, num_steps=500, **options)


@pytest.fixture(scope="module")
def bent():
    return fit()


def test_a_flow_bends_where_a_gaussian_cannot(bent):
    gaussian = vi.fit(banana, jnp.zeros(2), key=KEY)
    assert bent.elbo > gaussian.elbo + 0.4
    assert -0.1 < bent.elbo - LOG_EVIDENCE < 3 * bent.elbo_sem
    assert np.isclose(bent.diagnostics.log_evidence, LOG_EVIDENCE, atol=0.03)
    assert "neural spline flow (D = 2)" in bent.verdict.text
    assert "Training changed the ELBO by +0." in bent.verdict.text
    draws = bent.sample(jax.random.key(1), 4000)["x"]
    slope = np.polyfit(draws[:, 0] ** 2, draws[:, 1], 1)[0]
    assert np.isclose(slope, 0.25, atol=0.03)
    trained = gaussian.cost["gradients"] + 500 * plan.FLOW_PARTICLES
    assert bent.cost["gradients"] == trained + most_gradients(trained) // 3  # one look beyond
    assert np.array_equal(np.unique(bent.history["run"])[-2:] - bent.history["run"][-1], [-1, 0])


def test_a_fitted_flow_is_saved_and_loaded(bent, tmp_path):
    bent.save(tmp_path / "bent.npz")
    back = vi.Posterior.load(tmp_path / "bent.npz", banana, jnp.zeros(2))
    assert jax.tree.structure(back.q) == jax.tree.structure(bent.q)
    pair = [p.sample_unconstrained(KEY, 5) for p in (bent, back)]
    assert jax.tree.all(jax.tree.map(np.array_equal, *pair))


def test_an_interrupted_fit_goes_on_to_the_same_bits(bent, tmp_path):
    path = tmp_path / "half.npz"
    gaussian = vi.fit(banana, jnp.zeros(2), key=KEY).cost["gradients"]
    gradients = gaussian + 200 * plan.FLOW_PARTICLES
    stop = lambda step, state, info: info["gradients"] >= gradients
    first = fit(checkpoint=path, callback=stop)
    assert first.status == vi.Status.STOPPED
    assert 0 <= first.cost["gradients"] - gradients <= most_gradients(gradients)
    assert first.elbo < bent.elbo
    resumed = fit(checkpoint=path)
    assert jax.tree.all(jax.tree.map(np.array_equal, resumed.q, bent.q))


@pytest.mark.parametrize(("rate", "says"), [(-1e-6, "did not raise the ELBO"), (1e4, "broke down")])
def test_training_that_does_harm_is_not_handed_over(rate, says):
    """At a negative rate the ELBO falls; at a huge one nothing stays finite."""
    posterior = fit(optimizer=optax.inject_hyperparams(optax.sgd)(rate))
    assert f"Training {says}: this is the start itself." in posterior.verdict.text
    gaussian = vi.fit(banana, jnp.zeros(2), key=KEY)
    assert np.isclose(posterior.elbo, gaussian.elbo, atol=0.03)
    assert posterior.verdict.grade == gaussian.verdict.grade


@pytest.mark.slow
def test_another_objective_is_not_judged_by_the_elbo(bent):
    posterior = fit(objective=vi.elbo(num_particles=32))
    assert "Training changed the ELBO by" in posterior.verdict.text
    assert posterior.diagnostics.efficiency > 0.8


@pytest.mark.slow
def test_an_importance_weighted_bound_of_few_particles_trains_a_flow():
    """The long banana, of log evidence 0; the twin has the learning rate of 32 particles."""
    density = lambda x: -((x[0] / 2) ** 2) / 2 - 2 * (x[1] - x[0] ** 2) ** 2 - math.log(2 * math.pi)
    given = {"family": "realnvp", "objective": vi.iwae(num_particles=4), "num_steps": 2000}
    fit = lambda **options: vi.fit(density, jnp.zeros(2), key=KEY, **given, **options)
    assert fit().elbo > -1.2
    assert fit(learning_rate=5e-3).elbo < -10


@pytest.mark.slow
def test_the_ladder_climbs_to_a_flow(monkeypatch):
    monkeypatch.setattr(ladder, "COMPONENTS", ())
    monkeypatch.setattr(ladder, "FLOW_STEPS", 2000)
    posterior = vi.fit(banana, jnp.zeros(2), key=KEY, family="auto")
    names = [rung["family"] for rung in posterior.rungs]
    assert names[:2] == ["full-rank Gaussian (D = 2)", "neural spline flow (D = 2)"]
    assert posterior.elbo > LOG_EVIDENCE - 0.05
    assert posterior.cost["gradients"] == sum(rung["gradients"] for rung in posterior.rungs)
    assert "Tried: full-rank Gaussian" in posterior.verdict.text
    gaussian = vi.fit(banana, jnp.zeros(2), key=KEY)
    assert np.array_equal(posterior.q.affine.loc, gaussian.q.loc)


@pytest.mark.slow
def test_the_ladder_ends_at_a_mixflow_within_its_budget(x64, monkeypatch):
    """One planar layer, twice, does not fit; of the MixFlow as many maps as gradients are left."""
    monkeypatch.setattr(ladder, "COMPONENTS", ())
    monkeypatch.setattr(ladder, "FLOW_STEPS", 1000)
    weak = lambda name, dim, key: flows.planar(dim, key=key, num_layers=1)
    monkeypatch.setattr(ladder, "flow", weak)
    posterior = vi.fit(banana, jnp.zeros(2), key=KEY, family="auto", budget=300_000)
    gaussian, planar, again, mixed = posterior.rungs
    assert again == planar
    assert planar["family"] == "planar flow (D = 2)"
    assert mixed["family"].startswith("MixFlow of ")
    assert 150_000 < posterior.cost["gradients"] <= 300_000
    assert posterior.cost["gradients"] == sum(rung["gradients"] for rung in posterior.rungs)
    assert mixed["moved"] < gaussian["moved"]
    assert mixed["elbo"] > gaussian["elbo"]


def test_a_polynomial_map_is_exact_for_a_polynomial_banana():
    """z₁ = 2 x₁ and z₂ = x₁² + x₂ / 2 are in the family: the ELBO reaches the log evidence."""
    posterior = vi.fit(banana, jnp.zeros(2), key=KEY, family="polynomial", num_steps=600)
    assert "polynomial transport map (D = 2)" in posterior.verdict.text
    assert posterior.elbo > LOG_EVIDENCE - 0.02
    assert posterior.khat < 0.7


@pytest.mark.slow
@pytest.mark.parametrize("name", ["block_neural", "residual"])
def test_richer_flows_by_name(name):
    posterior = vi.fit(banana, jnp.zeros(2), key=KEY, family=name, num_steps=1000)
    assert posterior.elbo > LOG_EVIDENCE - 0.1


@pytest.mark.slow
def test_a_mixture_of_flows_covers_both_modes(x64):
    """Each component bends to its own banana; the weights find the shares."""

    def density(x):
        right, left = (
            -0.5 * (((x[0] - m) / 0.8) ** 2 + ((x[1] - s * (x[0] - m) ** 2) / 0.4) ** 2)
            for m, s in ((4.0, 1.0), (-4.0, -1.0))
        )
        return jnp.logaddexp(jnp.log(0.7) + right, jnp.log(0.3) + left)

    starts = [vi.full_rank(2, loc=jnp.array([m, 0.0]), scale=0.8) for m in (4.0, -4.0)]
    layers = flows.realnvp(2, key=KEY, num_layers=2, hidden=(8,))
    q = vi.mixture([layers.around(start) for start in starts])
    posterior = vi.fit(density, jnp.zeros(2), key=KEY, family=q, num_steps=600, learning_rate=0.02)
    assert "mixture of 2 RealNVP flows (D = 2)" in posterior.verdict.text
    assert posterior.elbo > np.log(2 * np.pi * 0.32) - 0.1
    assert np.allclose(jax.nn.softmax(posterior.q.logits), [0.7, 0.3], atol=0.05)


@pytest.mark.slow
def test_a_flow_of_an_annealed_target():
    """At half the log density a normal target has twice the variance; the schedule ends there."""
    half = vi.scheduled(optax.linear_schedule(0.1, 0.5, 200))
    objective = vi.tempered_elbo(num_particles=16, temperature=half)
    target = lambda x: -0.5 * jnp.sum(x**2)
    posterior = vi.fit(
        target, jnp.zeros(2), key=KEY, family=small, objective=objective, num_steps=600
    )
    assert np.allclose(posterior.q.variance(), 2, rtol=0.1)


def test_names_and_options():
    posterior = vi.fit(banana, jnp.zeros(2), key=KEY, family="planar", num_steps=400)
    assert "planar flow (D = 2)" in posterior.verdict.text
    assert posterior.elbo > LOG_EVIDENCE - 0.45  # the Gaussian is 0.55 below
    with pytest.raises(ValueError, match="no positive with family='maf'"):
        vi.fit(banana, jnp.zeros(2), key=KEY, family="maf", positive="exp")
    with pytest.raises(ValueError, match="dimension D = 2"):
        vi.fit(banana, jnp.zeros(2), key=KEY, family=small(3))
