"""Sparse inverse Cholesky priors against the process itself, dense algebra and autodiff."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gp
from gp.dense import DensePrior
from gp.evidence import exact_sites
from gp.model import Data, Model
from gp.sic import (
    DoubleKL,
    SICPrior,
    double_kl,
    free_conditional,
    neighbor_gap,
    train_factor,
)
from gp.sic.columns import inverse_columns
from gp.sic.solve import product, solve, solve_transposed, transposed_product
from gp.sic.sums import sum_of_chunks
from gp.sites import Sites
from tests.stats import assert_mean
from vi.random import fast_key

N = 40


class Case(NamedTuple):
    """A problem small enough for dense algebra."""

    x: Any
    x_new: Any
    kernel: Any
    mean: Any
    sites: Sites


def case(n=N, new=12):
    rng = np.random.default_rng(0)
    x, x_new = (jnp.asarray(rng.uniform(size=(k, 2)) * 2.5) for k in (n, new))
    precision = rng.uniform(0, 20, n)
    precision[3] = 0  # a missing datum
    sites = Sites(jnp.asarray(precision * rng.normal(size=n)), jnp.asarray(precision))
    kernel = gp.Matern(jnp.asarray([1.0, 1.5]), jnp.asarray(1.3))
    return Case(x, x_new, kernel, gp.ConstantMean(jnp.asarray(0.3)), sites)


condition_jit = jax.jit(lambda prior, sites: prior.condition(sites))


@pytest.fixture(scope="module")
def exact():
    """All neighbours: the sparse prior is the process."""
    with jax.enable_x64(True):
        c = case()
        prior = SICPrior.of(c.kernel, c.mean, c.x, num_neighbors=N - 1)
        yield c, prior, condition_jit(prior, c.sites)


@pytest.fixture(scope="module")
def sparse():
    """Few neighbours."""
    with jax.enable_x64(True):
        c = case(300)
        prior = SICPrior.of(c.kernel, c.mean, c.x, num_neighbors=12, per_block=32)
        yield c, prior, condition_jit(prior, c.sites)


def dense(pattern, columns):
    """The factor as a matrix."""
    n = pattern.size
    out = np.zeros((n + 1, n))
    for k in range(n):
        out[np.asarray(pattern.neighbors)[k], k] = columns[k, :-1]
        out[n] = 0
        out[k, k] = columns[k, -1]
    return out[:n]


def test_all_neighbours_give_the_exact_posterior(exact):
    c, _, q = exact
    with jax.enable_x64(True):
        truth = DensePrior(c.kernel, c.mean, c.x).condition(c.sites)
        for name in ("mean", "variance", "kl", "log_normalizer"):
            np.testing.assert_allclose(getattr(q, name), getattr(truth, name), atol=1e-10)
        assert q.jitter < 1e-12
        assert q.factor.iterations <= 1


def test_all_neighbours_give_the_exact_predictions(exact):
    c, prior, q = exact
    with jax.enable_x64(True):
        process = DensePrior(c.kernel, c.mean, c.x)
        truth = process.condition(c.sites)
        for full_cov in (False, True):
            ours = prior.predict(q, c.x_new, full_cov=full_cov)
            for a, b in zip(ours, process.predict(truth, c.x_new, full_cov=full_cov), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-10)


def test_draws_have_the_exact_moments(exact):
    """Alarms once in 1e6; detects a shift of 0.11 standard deviations, which its twin has."""
    c, prior, q = exact
    with jax.enable_x64(True):
        mean, covariance = prior.predict(q, c.x_new, full_cov=True)
        draws = np.asarray(prior.sample(jax.random.key(1), q, c.x_new, 4000))
        white = np.linalg.solve(np.linalg.cholesky(covariance), (draws - np.asarray(mean)).T).T
        assert_mean(white, np.zeros(len(c.x_new)))
        products = (white[:, :, None] * white[:, None, :]).reshape(len(white), -1)
        assert_mean(products, np.eye(len(c.x_new)).reshape(-1))
        with pytest.raises(AssertionError):
            assert_mean(white + 0.15, np.zeros(len(c.x_new)))


@pytest.mark.parametrize("latent", [False, True])
def test_evidence_and_its_gradient_are_exact_with_all_neighbours(exact, latent):
    c, prior, _ = exact

    def evidence(kernel, mean, sites, prior):
        return dataclasses.replace(prior, kernel=kernel, mean=mean).log_normalizer(sites)

    with jax.enable_x64(True):
        prior = dataclasses.replace(prior, latent=latent)
        args = c.kernel, c.mean, c.sites
        both = jax.jit(jax.value_and_grad(evidence, (0, 1, 2)))(*args, prior)
        process = DensePrior(c.kernel, c.mean, c.x)
        truth = jax.jit(jax.value_and_grad(evidence, (0, 1, 2)))(*args, process)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), both, truth)


def test_a_sample_of_columns_is_unbiased_and_costs_its_own_size(sparse):
    """The mean over all single columns is the whole; that of half of them is not."""
    c, prior, _ = sparse
    with jax.enable_x64(True):
        some = lambda rows: dataclasses.replace(prior, rows=rows).log_normalizer(c.sites)
        parts = jax.jit(jax.vmap(some))(jnp.arange(300).reshape(15, 20))
        np.testing.assert_allclose(jnp.mean(parts), some(jnp.arange(300)), rtol=1e-10)
        assert abs(jnp.mean(parts[:7]) - jnp.mean(parts)) > 1e-3


def test_gradient_of_columns_is_that_of_autodiff(exact):
    c, *_ = exact
    with jax.enable_x64(True):
        points = jnp.stack([c.x[:9], c.x[5:14]])
        weights = jnp.arange(18.0).reshape(2, 9)

        def plain(kernel):
            blocks = kernel(points, points)
            last = jnp.zeros((9, 1)).at[-1].set(1)
            solve = lambda block: jax.scipy.linalg.solve_triangular(
                jnp.linalg.cholesky(block), last, lower=True, trans=1
            )
            return jnp.sum(weights * jax.vmap(solve)(blocks)[..., 0])

        ours = lambda kernel: jnp.sum(weights * inverse_columns(kernel(points, points))[0])
        both = jax.jit(lambda kernel: (jax.grad(ours)(kernel), jax.grad(plain)(kernel)))(c.kernel)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), *both)


def test_sums_of_chunks_have_the_derivatives_of_plain_sums():
    """Over three chunks, the last one filled up; whole numbers among parameters and rows stay."""
    rng = np.random.default_rng(0)
    theta = {"a": jnp.asarray(rng.normal(size=3), jnp.float32), "power": jnp.int32(2)}
    rows = jnp.asarray(rng.normal(size=(150, 3)), jnp.float32)
    kept = jnp.arange(150) % 2

    def some(theta, rows, kept):
        return jnp.sum(jnp.sin(rows @ theta["a"]) ** theta["power"] * kept)

    def both(sum_of):
        at = lambda a, rows: 3 * sum_of({**theta, "a": a}, rows)
        return jax.jit(jax.value_and_grad(at, (0, 1)))(theta["a"], rows)

    ours = both(lambda theta, rows: sum_of_chunks(some, theta, (rows, kept), (0, 0)))
    plain = both(lambda theta, rows: some(theta, rows, kept))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, plain)


def test_solves_and_products_are_those_of_the_matrix(sparse):
    _, prior, q = sparse
    with jax.enable_x64(True):
        pattern, columns = prior.graph.pattern, q.factor.posterior
        matrix = dense(pattern, columns)
        b = jax.random.normal(jax.random.key(0), (300, 2))
        close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10)
        close(product(pattern, columns, b), matrix @ b)
        close(transposed_product(pattern, columns, b), matrix.T @ b)
        close(solve(pattern, columns, b), np.linalg.solve(matrix, b))
        close(solve_transposed(pattern, columns, b[:, 0]), np.linalg.solve(matrix.T, b[:, 0]))


def test_incomplete_factor_agrees_on_its_pattern(sparse):
    c, prior, q = sparse
    with jax.enable_x64(True):
        pattern, precision = prior.graph.pattern, c.sites.precision[prior.graph.order]
        u = dense(pattern, q.factor.prior)
        v = dense(pattern, q.factor.posterior)
        wanted = u @ u.T + np.diag(precision)
        there = (v != 0) | (v.T != 0)
        np.testing.assert_allclose((v @ v.T)[there], wanted[there], atol=1e-8)
        shift = np.linalg.solve(
            wanted, np.asarray(c.sites.linear[prior.graph.order]) - 0.3 * precision
        )
        np.testing.assert_allclose(q.factor.shift, shift, atol=1e-6)
        assert 1 <= q.factor.iterations <= 10
        assert q.factor.residual < 1e-8


@pytest.mark.slow
def test_smooth_kernels_get_a_nugget_and_are_near_the_process(sparse):
    """Without it the incomplete factor of a squared exponential is not finite."""
    c, prior, _ = sparse
    with jax.enable_x64(True):
        kernel = gp.SquaredExponential(jnp.asarray(2.0), jnp.asarray(1.3))
        y = jnp.sin(3 * c.x[:, 0]) + 0.1 * jax.random.normal(jax.random.key(0), (300,))
        sites = exact_sites(gp.Gaussian(0.01), Data.merged(np.asarray(c.x), np.asarray(y)))
        prior = dataclasses.replace(prior, kernel=kernel)
        q = condition_jit(prior, sites)
        assert q.factor.solved
        assert 1e-5 <= q.factor.nugget <= 1e-3
        truth = DensePrior(kernel, c.mean, c.x).condition(sites)
        assert abs(q.log_normalizer - truth.log_normalizer) < 0.02 * 300
        off = lambda a, b: float(jnp.sqrt(jnp.mean((a - b) ** 2)))
        assert off(q.mean, truth.mean) < 0.03
        np.testing.assert_allclose(q.variance.mean(), truth.variance.mean(), rtol=0.2)
        new = prior.predict(q, c.x[:9] + 0.01)
        exact = DensePrior(kernel, c.mean, c.x).predict(truth, c.x[:9] + 0.01)
        assert off(new[0], exact[0]) < 0.03
        np.testing.assert_allclose(new[1].mean(), exact[1].mean(), rtol=0.3)


def test_nothing_said_by_sites_leaves_the_prior(sparse):
    """With zero right hand side and no data, q is p: no division of zero by zero."""
    _, prior, _ = sparse
    with jax.enable_x64(True):
        q = condition_jit(prior, Sites(jnp.zeros(300), jnp.zeros(300)))
        np.testing.assert_allclose(q.mean, 0.3, atol=1e-12)
        assert abs(q.kl) < 0.02
        u = dense(prior.graph.pattern, q.factor.prior)
        variance = np.diag(np.linalg.inv(u @ u.T))[prior.graph.position]
        np.testing.assert_allclose(q.variance, variance, rtol=3e-2)


def test_few_neighbours_are_near_the_process_and_more_are_nearer(sparse):
    c, prior, q = sparse
    with jax.enable_x64(True):
        truth = DensePrior(c.kernel, c.mean, c.x).condition(c.sites)
        assert abs(q.log_normalizer - truth.log_normalizer) < 0.02 * 300
        np.testing.assert_allclose(q.variance, truth.variance, rtol=0.1)
        assert np.sqrt(np.mean((q.mean - truth.mean) ** 2)) < 0.1 * np.std(truth.mean)
        rough = SICPrior.of(c.kernel, c.mean, c.x, num_neighbors=3)
        assert neighbor_gap(rough) > 5 * neighbor_gap(prior) > 0
        assert any("Twice the neighbours" in note for note in rough.cautions(q))
        assert not prior.cautions(q)


def test_new_data_compile_nothing(exact):
    c, prior, _ = exact
    traces = []

    @jax.jit
    def run(prior, sites):
        traces.append(1)
        return prior.condition(sites).kl

    with jax.enable_x64(True):
        other = SICPrior.of(c.kernel, c.mean, c.x + 1.0, num_neighbors=N - 1)
        values = [run(prior, c.sites), run(other, Sites(*(2 * a for a in c.sites)))]
    assert len(traces) == 1
    assert values[0] != values[1]


def test_single_precision_goes_on_with_jitter():
    c = case(60)
    down = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)
    x, kernel, sites = down((c.x, gp.SquaredExponential(2.0, 1.0), c.sites))
    q = condition_jit(SICPrior.of(kernel, gp.Zero(), x, num_neighbors=20), sites)
    assert q.mean.dtype == jnp.float32
    assert np.isfinite(q.kl)
    assert 1e-6 < q.jitter < 1e-1


def test_a_point_given_twice_gets_the_jitter_and_a_training_point_its_own_posterior(sparse):
    c, prior, q = sparse
    with jax.enable_x64(True):
        mean, variance = prior.predict(q, c.x[:3])
        np.testing.assert_allclose(mean, q.mean[:3], atol=1e-5)
        np.testing.assert_allclose(variance, q.variance[:3], atol=1e-4)


def test_graph_follows_length_scales_only_when_they_move(exact):
    _, prior, _ = exact
    with jax.enable_x64(True):
        near = prior.refreshed(gp.Matern(jnp.asarray([1.1, 1.5]), jnp.asarray(1.3)))
        assert near.graph is prior.graph
        assert near.kernel.lengthscale[0] == 1.1
        far = prior.refreshed(gp.Matern(jnp.asarray([1.0, 9.0]), jnp.asarray(1.3)))
        assert far.graph is not prior.graph


def test_latent_evidence_takes_all_columns():
    c = case()
    with pytest.raises(ValueError, match="num_rows 5"):
        SICPrior.of(c.kernel, c.mean, c.x, num_rows=5, latent=True)


@pytest.fixture(scope="module")
def double():
    """The double Kullback-Leibler objective at the exact posterior, with inputs given twice."""
    with jax.enable_x64(True):
        c = case()
        x = np.concatenate([c.x, c.x[:5]])
        y = np.random.default_rng(1).normal(size=len(x))
        model = Model(c.kernel, c.mean, gp.Gaussian(jnp.asarray(0.3)))
        data = Data.merged(x, y)
        prior = SICPrior.of(model.kernel, model.mean, data.x, num_neighbors=N - 1)
        q = condition_jit(prior, exact_sites(model.likelihood, data))
        names = ["kernel.lengthscale", "likelihood.variance"]
        yield x, y, model, prior, q, *double_kl(prior, model, data, q, names)


run_estimator = jax.jit(lambda estimator, key, q, target: estimator(key, q, target))


def test_double_kl_is_the_log_evidence_at_the_exact_posterior(double):
    x, y, model, prior, q, target, start = double
    with jax.enable_x64(True):
        loss, grads = run_estimator(DoubleKL(None), jax.random.key(0), start, target)
        covariance = np.asarray(model.kernel(x, x)) + 0.3 * np.eye(len(y))
        residual = y - 0.3
        exact = -0.5 * residual @ np.linalg.solve(covariance, residual)
        exact -= 0.5 * np.linalg.slogdet(covariance)[1] + 0.5 * len(y) * np.log(2 * np.pi)
        np.testing.assert_allclose(-loss, exact, atol=1e-9)
        np.testing.assert_allclose(grads.mean, 0, atol=1e-9)
        np.testing.assert_allclose(grads.columns, 0, atol=1e-9)
        free = free_conditional(prior, target, start)
        np.testing.assert_allclose(free.mean, q.mean, atol=1e-10)
        np.testing.assert_allclose(free.variance, q.variance, atol=1e-10)
        np.testing.assert_allclose(free.kl, q.kl, atol=1e-9)


def test_minibatches_of_the_double_kl_are_unbiased(double):
    """All single groups average to the whole: loss and gradients of factor and hyperparameters."""
    *_, target, start = double
    with jax.enable_x64(True):
        moved = jax.tree.map(lambda a: a + 0.05, start)
        whole = run_estimator(DoubleKL(None), jax.random.key(0), moved, target)
        keys = jax.random.split(jax.random.key(0), 400)
        some = jax.vmap(lambda key: DoubleKL(1)(key, moved, target))
        loss, grads = jax.jit(lambda keys: jax.lax.map(lambda key: some(key[None]), keys))(keys)
        assert_mean(np.asarray(loss)[:, 0], whole[0])
        for name in ("kernel.lengthscale", "likelihood.variance"):
            assert_mean(np.asarray(grads.values[name])[:, 0], whole[1].values[name])
        assert_mean(np.asarray(grads.mean)[:, 0], whole[1].mean)
        with pytest.raises(AssertionError):
            assert_mean(0.8 * np.asarray(loss)[:, 0], whole[0])


@pytest.fixture(scope="module")
def steps():
    """A free factor of few neighbours, from a poor mean, trained on minibatches."""
    with jax.enable_x64(True):
        c = case()
        model = Model(c.kernel, c.mean, gp.Gaussian(jnp.asarray(0.3)))
        data = Data.merged(np.asarray(c.x), np.asarray(c.sites.centre))
        prior = SICPrior.of(model.kernel, model.mean, data.x, num_neighbors=3, per_block=2)
        q = condition_jit(prior, exact_sites(model.likelihood, data))
        target, best = double_kl(prior, model, data, q, ["kernel.variance"])
        start = dataclasses.replace(best, mean=best.mean + 0.5)
        options = {"key": jax.random.key(0), "num_groups": 1, "optimizer": optax.adam(0.01)}
        train = lambda num_steps: train_factor(target, start, num_steps=num_steps, **options)[0]
        yield target, best, start, train


def test_rows_that_a_step_of_the_double_kl_does_not_touch_stay_as_they_are(steps):
    """One step is Adam's on the rows of the drawn group, and on no others."""
    target, _, start, train = steps
    with jax.enable_x64(True):
        key = jax.random.fold_in(fast_key(jax.random.key(0)), 0)
        _, whole = run_estimator(DoubleKL(1), key, start, target)
        moved = train(1)
        changed = np.any(np.asarray(moved.columns != start.columns), axis=1)
        assert 0 < changed.sum() < N
        np.testing.assert_array_equal(changed, np.any(np.asarray(whole.columns) != 0, axis=1))
        expected = start.mean - 0.01 * jnp.sign(whole.mean) * (whole.mean != 0)
        np.testing.assert_allclose(moved.mean, expected, atol=1e-6)
        step = 0.01 * jnp.sign(whole.values["kernel.variance"])
        value = start.values["kernel.variance"] - step
        np.testing.assert_allclose(moved.values["kernel.variance"], value, atol=1e-6)


@pytest.mark.slow
def test_minibatches_of_the_double_kl_bring_a_poor_mean_back(steps):
    target, best, start, train = steps
    with jax.enable_x64(True):
        loss = lambda q: run_estimator(DoubleKL(None), jax.random.key(0), q, target)[0]
        assert loss(train(600)) < loss(best) + 0.2 * (loss(start) - loss(best))
        assert loss(train(1)) > loss(best) + 0.2 * (loss(start) - loss(best))


def test_training_of_a_factor_needs_a_step(steps):
    target, _, start, _ = steps
    with pytest.raises(ValueError, match="num_steps to be an integer >= 1; got 0"):
        train_factor(target, start, key=jax.random.key(0), num_steps=0)


def test_double_kl_needs_one_latent_function(double):
    *_, prior, q, _, _ = double
    with pytest.raises(ValueError, match="one latent function; got Categorical of 3"):
        double_kl(prior, Model(None, None, gp.Categorical(3)), None, q, [])
