"""Sparse inverse Cholesky priors in the fit loop, beside dense ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gp
from gp.assembly import bound, condition
from gp.dense import DensePrior
from gp.evidence import evidence, exact_sites
from gp.independent import IndependentPrior
from gp.leave_one_out import leave_one_out
from gp.model import Data, Model
from gp.natural_gradient import start_sites
from gp.sic import DoubleKL, SICPrior, double_kl, free_conditional
from vi.stochastic import StochasticRun

KEY = jax.random.key(0)


def regression(n):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(n, 2)) * 3
    return x, np.sin(2 * x[:, 0]) + np.cos(x[:, 1]) + 0.2 * rng.normal(size=n)


def test_fit_by_name_is_near_the_dense_one(x64):
    x, y = regression(150)
    options = {"kernel": gp.Matern(1.0, 1.0), "likelihood": gp.Gaussian(0.04), "train": False}
    sparse = gp.fit(x, y, key=KEY, method="sic", method_options={"num_neighbors": 30}, **options)
    dense = gp.fit(x, y, key=KEY, method="dense", **options)
    assert abs(sparse.elbo - dense.elbo) < 0.5
    new = x[:20] + 0.05
    np.testing.assert_allclose(sparse.predict(new).mean, dense.predict(new).mean, atol=0.02)
    np.testing.assert_allclose(sparse.predict(new).variance, dense.predict(new).variance, rtol=0.05)


def test_what_is_saved_predicts_the_same_bits(x64, tmp_path):
    """Also where the graph is of other length scales than those that training ended with."""
    x, y = regression(60)
    options = {"likelihood": gp.Gaussian(0.04), "kernel": gp.Matern(jnp.ones(2), 1.0)}
    few = {"method_options": {"num_neighbors": 4}}
    start = gp.fit(x, y, key=KEY, method="sic", train=False, **few, **options)
    kernel = gp.Matern(jnp.asarray([1.15, 1.0]), jnp.asarray(1.0))
    model = dataclasses.replace(start.model, kernel=kernel)
    prior = start.prior.refreshed(kernel)
    assert prior.graph is start.prior.graph
    moved = dataclasses.replace(start, model=model, prior=prior, q=condition(prior, start.sites))
    moved = dataclasses.replace(moved, elbo=float(bound(model.likelihood, moved.data, moved.q)))
    moved.save(tmp_path / "sparse.npz")
    back = gp.load(tmp_path / "sparse.npz", x, y, **few, **options)
    new = x[:9] + 0.05
    jax.tree.map(np.testing.assert_array_equal, back.predict(new), moved.predict(new))
    anew = SICPrior.of(kernel, prior.mean, prior.x, num_neighbors=4)
    assert np.any(anew.graph.order != prior.graph.order)


@pytest.mark.slow
def test_training_of_labels_is_that_of_the_process_with_all_neighbours(x64):
    """The ELBO at its best sites, and its gradient by the divergence at fixed q."""
    x, f = regression(24)
    data = Data.merged(x, (f > 0.5) * 1.0)
    likelihood = gp.Bernoulli()
    parts = jax.tree.map(jnp.asarray, (gp.Matern(1.0, 2.0), gp.ConstantMean(0.2)))
    start = start_sites(likelihood, data)

    @jax.jit
    def both(prior, kernel, mean):
        at = lambda kernel, mean: (
            evidence(Model(kernel, mean, likelihood), prior, data, start, tolerance=1e-12).elbo
        )
        return jax.value_and_grad(at, (0, 1))(kernel, mean)

    sparse = SICPrior.of(*parts, data.x, num_neighbors=23, latent=True)
    found, truth = (both(prior, *parts) for prior in (sparse, DensePrior(*parts, data.x)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, truth)


@pytest.mark.slow
def test_fewer_points_than_neighbours_are_the_process_and_its_own_points_their_posterior(x64):
    x, y = regression(12)
    options = {"kernel": gp.Matern(1.0, 1.0), "likelihood": gp.Gaussian(0.04), "train": False}
    sparse, dense = (gp.fit(x, y, key=KEY, method=name, **options) for name in ("sic", "dense"))
    np.testing.assert_allclose(sparse.elbo, dense.elbo, rtol=1e-9)
    new = np.concatenate([x[:3], x[:3] + 0.1])
    found, truth = sparse.predict(new), dense.predict(new)
    np.testing.assert_allclose(found.mean, truth.mean, atol=1e-8)
    np.testing.assert_allclose(found.variance, truth.variance, atol=1e-8)
    np.testing.assert_allclose(found.mean[:3], sparse.q.mean[:3], atol=1e-8)
    np.testing.assert_allclose(found.variance[:3], sparse.q.variance[:3], atol=1e-8)


@pytest.mark.slow
def test_kernels_that_are_not_positive_definite_are_refused_with_the_closest_points(x64):
    x, y = regression(40)
    x[7] = x[31] + 1e-9
    kernel = gp.pointwise(lambda a, b: -jnp.exp(-jnp.sum((a - b) ** 2)))
    with pytest.raises(ValueError, match="The closest inputs are") as found:
        gp.fit(x, y, key=KEY, method="sic", kernel=kernel, train=False)
    assert str(x[31].tolist()) in str(found.value)


@pytest.mark.slow
def test_leave_one_out_holds_where_noise_is_far_below_what_the_others_leave_open(x64):
    """Next to the dense one's; dividing approximate marginals by their sites is not."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(300, 2))
    x[:2] = x[2:4]  # some inputs with two targets
    y = np.sin(9 * x[:, 0]) * np.cos(7 * x[:, 1]) + 1e-4 * rng.normal(size=300)
    parts = gp.Matern(0.3, 1.0), gp.Gaussian(1e-8)
    options = {"kernel": parts[0], "likelihood": parts[1], "mean": gp.Zero(), "train": False}
    few = {"method_options": {"num_neighbors": 8}}
    sparse = gp.fit(x, y, key=KEY, method="sic", on_failure="return", **few, **options)
    dense = gp.fit(x, y, key=KEY, method="dense", on_failure="return", **options)
    off = lambda loo: np.abs(np.asarray(loo) - dense.leave_one_out())
    assert off(sparse.leave_one_out()).mean() < 0.02
    plain = leave_one_out(sparse.model.likelihood, sparse.q, sparse.data)
    assert off(plain[2]).mean() > 0.03


@pytest.mark.slow
def test_several_latents_share_a_graph(x64):
    x, _ = regression(30)
    kernels = gp.Matern(jnp.asarray([0.8, 2.0]), jnp.asarray([1.0, 0.5]))
    means = gp.ConstantMean(jnp.asarray([0.3, -1.0]))
    first = jax.tree.map(lambda leaf: leaf[0], (kernels, means))
    sites = gp.Sites(*(jax.random.uniform(jax.random.key(i), (30, 2)) for i in (1, 2)))
    condition = jax.jit(lambda prior, sites: prior.condition(sites))
    found = []
    for prior in (SICPrior.of(*first, x, num_neighbors=29), DensePrior(*first, jnp.asarray(x))):
        both = IndependentPrior(prior).with_functions(kernels, means)
        q = condition(both, sites)
        mean, variance = both.predict(q, jnp.asarray(x[:4] + 0.1))
        found.append((q.mean, q.variance, q.kl, mean, variance))
        if isinstance(prior, SICPrior):
            np.testing.assert_allclose(both.divergence(q), q.kl, rtol=1e-9)
        assert both.cautions(q) == []
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), *found)
    rough = IndependentPrior(SICPrior.of(*first, x, num_neighbors=2))
    rough = rough.with_functions(kernels, means)
    assert "Twice the neighbours" in rough.cautions(condition(rough, sites))[0]


@pytest.mark.slow
def test_training_ends_within_a_nat_of_the_best_evidence(x64):
    x, y = regression(400)
    sparse, dense = (gp.fit(x, y, key=KEY, method=name) for name in ("sic", "dense"))
    found = sparse.model
    there = gp.fit(
        x,
        y,
        key=KEY,
        method="dense",
        kernel=found.kernel,
        mean=found.mean,
        likelihood=found.likelihood,
        train=False,
    )
    assert dense.elbo - 1 < there.elbo <= dense.elbo + 1e-2
    assert abs(sparse.elbo - there.elbo) < 2


@pytest.mark.slow
def test_labels_give_the_dense_bound(x64):
    x, f = regression(400)
    y = (np.random.default_rng(1).uniform(size=400) < 1 / (1 + np.exp(-2 * f))).astype(float)
    options = {"likelihood": gp.Bernoulli(), "kernel": gp.Matern(1.0, 3.0)}
    for train, most in ((False, 0.2), (True, 0.5)):
        sparse, dense = (
            gp.fit(x, y, key=KEY, method=name, train=train, **options) for name in ("sic", "dense")
        )
        assert abs(sparse.elbo - dense.elbo) < most


@pytest.mark.slow
def test_coarse_training_ends_near_where_fine_training_does(x64, monkeypatch):
    """The same ELBO, of the fine prior, to half a nat; a start without training is far below."""
    x, f = regression(500)
    y = np.random.default_rng(1).poisson(np.exp(f)).astype(float)
    options = {"key": KEY, "method": "sic", "likelihood": gp.Poisson(), "on_failure": "return"}
    fine, untrained = (gp.fit(x, y, train=train, **options) for train in (True, False))
    monkeypatch.setattr("gp.sic.prior.MANY_POINTS", 100)
    coarse = gp.fit(x, y, **options)
    assert "trained with 15 neighbours" in coarse.verdict.text
    assert coarse.prior.graph.pattern.num_neighbors == 30
    assert abs(coarse.elbo - fine.elbo) < 0.5 < fine.elbo - untrained.elbo


@pytest.mark.slow
def test_double_kl_trains_in_the_shared_run(x64):
    """From a poor start minibatches come back to what sites give at once."""
    x, y = regression(300)
    model = Model(gp.Matern(1.0, 1.0), gp.ConstantMean(0.0), gp.Gaussian(0.04))
    model = jax.tree.map(jnp.asarray, model)
    data = Data.merged(x, y)
    prior = SICPrior.of(model.kernel, model.mean, data.x, num_neighbors=15)
    sites = exact_sites(model.likelihood, data)
    q = jax.jit(lambda prior, sites: prior.condition(sites))(prior, sites)
    target, best = double_kl(prior, model, data, q, [])
    start = dataclasses.replace(best, mean=0.8 * best.mean)
    run = StochasticRun(target, start, KEY, DoubleKL(4), optax.adam(0.01), 300, 1)
    state = run.initial()
    while not run.done(state):
        state = run.advance(state)
    whole = jax.jit(lambda q: DoubleKL(None)(KEY, q, target)[0])
    assert run.fingerprint()["kind"] == "stochastic"
    assert whole(run.result(state)) < whole(best) + 0.3 * (whole(start) - whole(best))
    assert np.isfinite(free_conditional(prior, target, run.result(state)).kl)
