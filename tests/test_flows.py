"""Flows as families: where they start, their densities, gradients, and other libraries' views."""

import blackjax
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pytest

import flows
import vi
from flows import density
from flows.imports import load_distrax
from tests import contracts, models
from tests.stats import assert_mean
from tests.test_flow_layers import moved
from vi.compile import quick_jit
from vi.posterior import saved

KEY = jax.random.key(0)
FACTORIES = {
    "realnvp": {"hidden": (4,)},
    "neural_spline": {"hidden": (4,), "num_bins": 2},
    "maf": {"hidden": (4,)},
    "iaf": {"hidden": (4,), "transformer": "spline", "num_bins": 2},
    "planar": {},
    "radial": {},
    "sylvester": {"num_columns": 2},
    "block_neural": {"hidden": (3,)},
    "residual": {"hidden": 4},
    "polynomial": {},
}


@quick_jit
def _draw_and_look_back(q, noise):
    z, log_q = q.draw_and_log_prob(noise)
    return z, log_q, q.log_prob(z)


@pytest.mark.parametrize("name", FACTORIES)
def test_flows_start_as_their_gaussian_and_know_their_density(name):
    gaussian = vi.Gaussian(jnp.array([1.0, -2.0, 30.0]), vi.families.scale.DenseScale.of(
        jnp.array([[2.0, 0, 0], [0.5, 0.1, 0], [0.0, -0.3, 5.0]])
    ))  # fmt: skip
    q = getattr(flows, name)(3, key=KEY, num_layers=2, **FACTORIES[name]).around(gaussian)
    noise = q.noise(KEY, 6)
    z, log_q, again = _draw_and_look_back(q, noise)
    assert np.allclose(log_q, gaussian.log_prob(z), atol=1e-3)
    assert np.allclose(again, log_q, atol=1e-3)
    bent, log_q, again = _draw_and_look_back(moved(q, 0.1), noise)
    assert np.allclose(again, log_q, atol=2e-3)
    assert not np.allclose(log_q, gaussian.log_prob(bent), atol=0.05)
    assert q.explicit == (name in ("realnvp", "neural_spline", "radial"))


def test_density_is_normalised_and_moments_are_its():
    q = moved(flows.realnvp(2, key=KEY, num_layers=2, hidden=(4,)), 0.2, seed=3)
    q = q.around(vi.full_rank(2, loc=jnp.array([1.0, 0.0])))
    grid = np.linspace(-12, 14, 300)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(np.asarray(quick_jit(lambda q, z: q.log_prob(z))(q, points), float))
    density *= (grid[1] - grid[0]) ** 2
    mean = density @ points
    assert np.isclose(density.sum(), 1, atol=1e-3)
    covariance = (points - mean).T @ (density[:, None] * (points - mean))
    sd = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(q.loc - mean) < 0.1 * sd)
    assert np.allclose(q.covariance() / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.2)
    assert np.allclose(q.variance(), np.diag(q.covariance()), rtol=1e-3)


def test_reverse_kl_is_the_total_gradient_without_the_score(x64):
    """Sticking the landing leaves out the score of q at the draws, which has mean zero."""
    target = contracts.target("float64")
    q = contracts.FAMILIES["flow"](jnp.asarray([0.3, -0.2, 0.5]))
    estimator = flows.ReverseKL(4)

    @quick_jit
    def look(q):
        loss, gradient = estimator(KEY, q, target)
        noise = q.noise(jax.random.split(KEY)[0], 4)

        def total(q):
            z, _ = q.draw_and_log_prob(noise)
            return jnp.mean(q.log_prob(z) - jax.vmap(target.log_density)(z))

        z, _ = q.draw_and_log_prob(noise)
        score = jax.grad(lambda q: jnp.mean(q.log_prob(z)))(q)
        return loss, total(q), gradient, jax.grad(total)(q), score

    loss, value, gradient, whole, score = look(q)
    assert np.isclose(loss, value, rtol=1e-12)
    expected = jax.tree.map(jnp.subtract, whole, score)
    assert close(gradient, expected)
    assert not close(gradient, whole)


def close(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.allclose(x, y, atol=1e-10) for x, y in pairs)


@pytest.mark.parametrize("name", ["planar", "radial", "sylvester", "polynomial"])
def test_conditional_flows_follow_their_context(name):
    """Draws of a batch of contexts are those of each context alone."""
    q = moved(getattr(flows, name)(2, key=KEY, num_layers=2, context_dim=3), 0.1)
    contexts = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    noise = q.noise(KEY, 4)

    @quick_jit
    def look(q, contexts, noise):
        one = lambda c, x: q.given(c).draw_and_log_prob(x)
        return q.given(contexts).draw_and_log_prob(noise), jax.vmap(one)(contexts, noise)

    together, alone = look(q, contexts, noise)
    assert np.allclose(together[0], alone[0], atol=1e-5)
    assert np.allclose(together[1], alone[1], atol=1e-5)
    same = look(q, contexts * 0, noise)[0]
    assert not np.allclose(same[0], together[0], atol=1e-3)


# ---- other libraries ---------------------------------------------------------------------------


def test_distrax_numpyro_and_blackjax_take_a_flow():
    q = contracts.FAMILIES["flow"](jnp.array([0.3, -0.2, 0.5]))
    z, log_q = q.sample_and_log_prob(KEY, 4)
    distribution = q.to_distrax()
    assert distribution.event_shape == (3,)
    drawn, log_drawn = distribution.sample_and_log_prob(seed=KEY, sample_shape=4)
    assert np.allclose(q.log_prob(drawn), log_drawn, atol=1e-4)
    there = q.to_numpyro()
    for other in (distribution, there):  # they are pytrees too
        passed = jax.jit(lambda d: d.log_prob(z))(other)
        assert np.allclose(passed, log_q, atol=1e-4)
    with numpyro.handlers.seed(rng_seed=0):
        site = numpyro.sample("z", there)
    assert np.isfinite(q.log_prob(site))
    kernel = blackjax.mala(q.log_prob, 0.1)
    state, _ = kernel.step(KEY, kernel.init(z[0]))
    assert np.isclose(state.logdensity, q.log_prob(state.position), atol=1e-4)


def test_any_distrax_distribution_is_a_base():
    distrax = load_distrax()
    base = distrax.Independent(distrax.Logistic(jnp.zeros(2), jnp.ones(2)), 1)
    q = flows.Flow(moved(flows.ActNorm.identity(2, jnp.float32)), None, None, base, 2)
    z, log_q = q.sample_and_log_prob(KEY, 5)
    assert np.allclose(q.to_distrax().log_prob(z), log_q, atol=1e-4)
    assert np.allclose(q.log_prob(z), log_q, atol=1e-4)
    grads = jax.grad(lambda q: jnp.sum(q.log_prob(z)))(q)
    assert not any(np.any(x) for x in jax.tree.leaves(grads.base))
    with pytest.raises(TypeError, match="base None"):
        q.to_numpyro()
    parts = (q, contracts.LAYERS["from_distrax"].make(None, jnp.float32))
    for part in parts:  # files hold no code, and so no functions
        with pytest.raises(TypeError, match="family of this library"):
            saved.describe_structure(part)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["AutoIAFNormal", "AutoBNAFNormal"])
def test_numpyros_flows_train_under_svi(name):
    from numpyro.infer import autoguide

    X, y = models.logistic_data()
    guide = getattr(autoguide, name)(models.logistic, num_flows=1)
    svi = vi.SVI(models.logistic, guide, optax.adam(0.02), vi.elbo(num_particles=4))
    result = svi.run(KEY, 300, X, y, progress_bar=False)
    assert np.isfinite(result.losses).all()
    assert -0.05 < np.mean(result.losses[-100:]) + _log_evidence(X, y) < 0.3


def _log_evidence(X, y):
    """Of `models.logistic` with two columns, on a grid."""
    grid = np.linspace(-8, 8, 321)
    beta = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    logits = beta @ X.T
    log_joint = logits @ y - np.logaddexp(0, logits).sum(1) - np.sum(beta**2, 1) / 8
    return np.log(np.exp(log_joint).sum() * (grid[1] - grid[0]) ** 2 / (8 * np.pi))


# ---- maximum likelihood ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shifted():
    """Rows of a banana that its context moves, and the mean of their true log density."""
    rng = np.random.default_rng(0)
    context = rng.normal(size=(3000, 1))
    x = context[:, 0] + rng.normal(size=3000)
    y = x**2 + 0.5 * rng.normal(size=3000)
    log_density = -0.5 * (x - context[:, 0]) ** 2 - 0.5 * ((y - x**2) / 0.5) ** 2
    data = np.stack([100 * x, y], 1).astype(np.float32)
    truth = np.mean(log_density) - np.log(2 * np.pi * 0.5 * 100)
    return data, context.astype(np.float32), truth


@pytest.mark.slow
def test_density_estimation_finds_a_conditional_law(shifted):
    data, context, truth = shifted
    q = flows.realnvp(2, key=KEY, num_layers=4, hidden=(16,), context_dim=1)
    fit = flows.fit_density(q, data, key=KEY, context=context, num_steps=1000, learning_rate=0.02)
    assert fit.gaussian < truth - 1
    assert abs(fit.log_likelihood - truth) < 0.15  # 300 rows held out: ± 0.06
    assert np.isclose(fit.log_likelihood, max(fit.history))
    draws = fit.flow.given(jnp.array([1.0])).sample(jax.random.key(1), 2000)
    assert abs(np.mean(draws[:, 0]) / 100 - 1) < 0.2


def test_path_gradients_of_the_likelihood_have_its_mean(x64):
    """E[path - plain] = 0 at draws of the target. False alarm 1e-6.

    The twin has the scores of the target to the power two.
    """
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 2))
    rows = jnp.asarray(np.stack([z[:, 0], 0.5 * z[:, 0] ** 2 + z[:, 1]], 1))
    log_density = lambda x: -0.5 * x[0] ** 2 - 0.5 * (x[1] - 0.5 * x[0] ** 2) ** 2
    scores = jax.vmap(jax.grad(log_density))(rows)
    q = moved(flows.realnvp(2, key=KEY, num_layers=2, hidden=(3,)), 0.2)
    q = q.around(vi.full_rank(2, scale=1.2, loc=jnp.array([0.0, 0.5])))

    def each(q, scores):
        def one(x, s):
            path = jax.grad(lambda q: density.path_loss(q, x[None], s[None], None))(q).layers
            plain = jax.grad(lambda q: -q.log_prob(x))(q).layers
            flat = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]
            return flat(path), flat(plain)

        return jax.vmap(one)(rows, scores)

    look = quick_jit(each)
    path, plain = look(q, scores)
    use = np.asarray(plain).std(0) > 0
    difference = np.asarray(path - plain)[:, use]
    assert_mean(difference, np.zeros(use.sum()))
    with pytest.raises(AssertionError):
        assert_mean(np.asarray(look(q, 2 * scores)[0] - plain)[:, use], np.zeros(use.sum()))


def test_path_gradients_of_the_likelihood_vanish_where_the_flow_is_exact(x64):
    """The plain gradient has noise there, and so never rests."""
    affine = vi.full_rank(2, loc=jnp.array([1.0, -2.0]), scale=0.5)
    q = flows.realnvp(2, key=KEY, num_layers=2, hidden=(3,)).around(affine)
    rows = affine.sample(KEY, 8)
    scores = jax.vmap(jax.grad(affine.log_prob))(rows)
    look = quick_jit(jax.grad(lambda q, s: density.path_loss(q, rows, s, None)))
    assert max(np.abs(x).max() for x in jax.tree.leaves(look(q, scores).layers)) < 1e-12
    plain = jax.grad(lambda q: -jnp.mean(q.log_prob(rows)))(q).layers
    assert max(np.abs(x).max() for x in jax.tree.leaves(plain)) > 0.01


def test_density_estimation_with_scores():
    """The law of 100 rows: with the gradients of their density a flow that does not overfit."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(2100, 2))
    rows = np.stack([z[:, 0], 0.5 * z[:, 0] ** 2 + z[:, 1]], 1).astype(np.float32)
    log_density = lambda x: -0.5 * x[0] ** 2 - 0.5 * (x[1] - 0.5 * x[0] ** 2) ** 2
    scores = jax.vmap(jax.grad(log_density))(rows)
    q = flows.realnvp(2, key=KEY, num_layers=2, hidden=(8,), dtype=jnp.float32)
    options = {"key": KEY, "num_steps": 600, "learning_rate": 0.02, "held_out": 0.2}
    plain = flows.fit_density(q, rows[:100], **options)
    informed = flows.fit_density(q, rows[:100], scores=scores[:100], **options)
    log_prob = quick_jit(lambda q, x: q.log_prob(x))
    fresh = [float(jnp.mean(log_prob(fit.flow, rows[100:]))) for fit in (plain, informed)]
    truth = float(jnp.mean(jax.vmap(log_density)(rows[100:]))) - np.log(2 * np.pi)
    assert fresh[0] < truth - 0.1
    assert fresh[1] > truth - 0.05
    with pytest.raises(ValueError, match="a score for each row"):
        flows.fit_density(q, rows[:100], scores=scores, **options)


def test_density_estimation_stops_when_nothing_is_left_to_gain():
    data = np.random.default_rng(0).normal([2.0, 0.0], [1.0, 1e-3], (200, 2)).astype(np.float32)
    q = flows.realnvp(2, key=KEY, num_layers=4, hidden=(16,), dtype=jnp.float32)
    fit = flows.fit_density(q, data, key=KEY, patience=2, learning_rate=0.02)
    assert fit.settled
    assert fit.num_steps < 5000
    assert fit.log_likelihood >= fit.gaussian


def test_wrong_data_are_refused():
    q = flows.realnvp(2, key=KEY, num_layers=1)
    with pytest.raises(ValueError, match=r"shape \(N, 2\)"):
        flows.fit_density(q, np.zeros((10, 3)), key=KEY)
    with pytest.raises(ValueError, match="held out"):
        flows.fit_density(q, np.zeros((3, 2)), key=KEY)
