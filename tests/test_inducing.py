"""Inducing inputs: against the dense process, Titsias's bound in NumPy, and by minibatches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import gp
from gp import Minibatches
from gp.dense import DensePrior
from gp.evidence import exact_sites
from gp.inducing import (
    InducingPrior,
    MinibatchRun,
    algebra,
    greedy_inputs,
    spread_inputs,
)
from gp.inducing.algebra import whitened
from gp.inducing.coordinates import COORDINATES, Natural
from gp.inducing.minibatch import ended
from gp.model import Data, Model
from gp.parameters import as_arrays
from tests.test_contracts import finite_differences, precision
from vi.compile import quick_jit
from vi.status import Status

slow = pytest.mark.slow
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
N = 60
X = RNG.uniform(0, 4, size=(N, 2))
F = np.sin(2 * X[:, 0]) + np.cos(X[:, 1])
Y = F + 0.2 * RNG.normal(size=N)
LABELS = (F + 0.3 * RNG.logistic(size=N) > 0) * 1.0
NEW = RNG.uniform(0, 4, size=(5, 2))
MODEL = Model(gp.Matern(1.3, 1.5), gp.ConstantMean(0.3), gp.Gaussian(0.04))


def model(likelihood=None):
    return as_arrays(dataclasses.replace(MODEL, likelihood=likelihood or MODEL.likelihood), float)


def functions(*, dtype=np.float64):
    found = as_arrays(MODEL, dtype)
    return found.kernel, found.mean, jnp.asarray(X, dtype)


def sites(dtype=np.float64):
    precisions = np.where(np.arange(N) == 3, 0.0, 1 / 0.04)
    return gp.Sites(*(jnp.asarray(a, dtype) for a in (precisions * Y, precisions)))


_condition = quick_jit(lambda prior, sites: prior.condition(sites))
_slopes = quick_jit(
    lambda prior, sites: jax.value_and_grad(
        lambda both: dataclasses.replace(prior, kernel=both[0], mean=both[1]).log_normalizer(sites)
    )((prior.kernel, prior.mean))
)


def test_all_inputs_as_inducing_ones_are_the_process(x64):
    prior = InducingPrior.of(*functions(), num_inducing=100)
    assert prior.z.shape == X.shape
    dense = DensePrior(*functions())
    found, exact = _condition(prior, sites()), _condition(dense, sites())
    for a, b in zip(found[:4], exact[:4], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)
    new = jnp.asarray(NEW)
    for full in (False, True):
        pair = zip(
            prior.predict(found, new, full_cov=full),
            dense.predict(exact, new, full_cov=full),
            strict=True,
        )
        for a, b in pair:
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)
    for a, b in zip(*(jax.tree.leaves(_slopes(p, sites())) for p in (prior, dense)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8)
    np.testing.assert_allclose(found.factor.gap, 0, atol=1e-8)


def titsias(prior):
    """The collapsed bound and the predictive mean, by inverses in NumPy."""
    kernel, z = prior.kernel, np.asarray(prior.z)
    cross = np.asarray(kernel(z, X))
    low = cross.T @ np.linalg.solve(np.asarray(kernel(z, z)), cross)
    noise, off = 0.04, Y - 0.3
    value = stats.multivariate_normal(np.zeros(N), low + noise * np.eye(N)).logpdf(off)
    value -= 0.5 * (1.5 * N - np.trace(low)) / noise
    at = np.asarray(kernel(NEW, z)) @ np.linalg.solve(np.asarray(kernel(z, z)), cross)
    return value, 0.3 + at @ np.linalg.solve(low + noise * np.eye(N), off)


@pytest.mark.parametrize("start", [pytest.param("greedy", marks=pytest.mark.slow), "kmeans"])
def test_the_collapsed_bound(start, x64, monkeypatch):
    prior = InducingPrior.of(*functions(), num_inducing=15, start=start)
    all_there = exact_sites(model().likelihood, Data.merged(X, Y))
    value, mean = titsias(prior)
    heights = -0.5 * N * np.log(2 * np.pi * 0.04)
    found = _condition(prior, all_there)
    np.testing.assert_allclose(found.log_normalizer + heights, value, rtol=1e-9)
    np.testing.assert_allclose(prior.predict(found, jnp.asarray(NEW))[0], mean, rtol=1e-8)
    exact = _condition(DensePrior(*functions()), all_there).log_normalizer
    assert found.log_normalizer < exact < found.log_normalizer + found.factor.gap
    fit = quick_jit(gp.Gaussian.expect)(model().likelihood, found.mean, found.variance, Y)
    np.testing.assert_allclose(jnp.sum(fit.value) - found.kl, value, rtol=1e-9)
    if start == "greedy":
        monkeypatch.setattr(algebra, "CHUNK", 16)  # the last chunk is not full
        cut = quick_jit(lambda prior, sites: prior.condition(sites))(prior, all_there)
        np.testing.assert_allclose(cut.mean, found.mean, rtol=1e-9)
        np.testing.assert_allclose(cut.log_normalizer, found.log_normalizer, rtol=1e-9)
        both = prior.kernel, prior.mean
        value = lambda b: dataclasses.replace(prior, kernel=b[0], mean=b[1]).log_normalizer(
            all_there
        )
        finite_differences(quick_jit(value), both, quick_jit(jax.grad(value))(both))


def run(likelihood, y, **options):
    prior = InducingPrior.of(*functions(), num_inducing=15)
    data = Data.merged(X, y)
    minibatches = Minibatches(move=False, **options)
    return (
        prior,
        data,
        MinibatchRun(model(likelihood), prior, data, {}, {}, KEY, None, 1, minibatches),
    )


@pytest.mark.parametrize("name", COORDINATES)
def test_one_full_step_is_the_collapsed_bound(name, x64):
    prior, data, once = run(gp.Gaussian(0.04), Y, size=N, rate=1.0, coordinates=name)
    state = once.advance(once.initial())
    best = _condition(prior, exact_sites(once.model.likelihood, data))
    held = jax.tree.map(lambda a: a[0], state.held)
    q = whitened(*COORDINATES[name].whiten(held, best.factor.tril))
    np.testing.assert_allclose(q.mean, best.factor.q.mean, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(q.inverse, best.factor.q.inverse, rtol=1e-7, atol=1e-9)
    heights = -0.5 * N * np.log(2 * np.pi * 0.04)
    np.testing.assert_allclose(state.elbos[-1], best.log_normalizer + heights, rtol=1e-9)


@pytest.mark.parametrize("name", COORDINATES)
def test_coordinates_there_and_back(name, x64):
    root = np.tril(RNG.normal(size=(4, 4))) + 3 * np.eye(4)
    tril = jnp.asarray(np.tril(RNG.normal(size=(4, 4))) + 2 * np.eye(4))
    natural = Natural(jnp.asarray(RNG.normal(size=4)), jnp.asarray(root @ root.T))
    whiten, hold = COORDINATES[name]
    back = whiten(hold(natural, tril), tril)
    np.testing.assert_allclose(back.linear, natural.linear, rtol=1e-10)
    np.testing.assert_allclose(back.precision, natural.precision, rtol=1e-10)


@pytest.mark.slow
def test_labels_by_minibatches_come_near_the_best_bound(x64):
    """Of the fixed model, by small steps on a third of the data each."""
    prior, data, once = run(gp.Bernoulli(), LABELS, size=20, rate=0.05)
    once.num_steps = 400
    state = once.initial()
    while not once.done(state):
        state = once.advance(state)
    q = whitened(*jax.tree.map(lambda a: a[0], state.held))
    a = algebra.features(prior.kernel, prior.z, algebra.basis(prior.kernel, prior.z).tril, prior.x)
    mean, variance = q.marginals(a, prior.kernel.diagonal(prior.x))
    fit = gp.Bernoulli().expect(0.3 + mean, variance, data.y)
    best = gp.fit(
        X,
        LABELS,
        key=KEY,
        train=False,
        method="inducing",
        method_options={"inducing": np.asarray(prior.z)},
        **vars(once.model),
    )
    assert best.elbo - 1.0 < float(jnp.sum(fit.value) - q.kl) < best.elbo + 1e-6
    assert float(state.rate) == 0.05


def test_rows_that_fill_up_have_derivatives(x64, monkeypatch):
    """A mean such as log x has none at zero; that of the rows that are there is their sum."""
    monkeypatch.setattr(algebra, "CHUNK", 16)
    x = jnp.linspace(1.0, 2.0, 20)[:, None]

    def some(slope, x, there):
        return jnp.sum(jnp.where(there, slope * jnp.log(x[:, 0]), 0.0))

    slope = jax.grad(lambda slope: algebra.summed(some, slope, x))(2.0)
    np.testing.assert_allclose(slope, np.log(x).sum(), rtol=1e-12)
    at_zero = jnp.zeros((1, 1)), jnp.zeros(1, bool)
    assert np.isnan(jax.grad(some)(2.0, *at_zero))


def test_leave_one_out_is_that_of_fits_without_the_datum(x64):
    options = {"train": False, "method": "inducing", "key": KEY, **vars(model())}
    options["method_options"] = {"inducing": X[:8]}
    whole, without = gp.fit(X, Y, **options), gp.fit(X[1:], Y[1:], **options)
    expected = without.log_predictive_density(X[:1], Y[:1])
    np.testing.assert_allclose(whole.leave_one_out()[:1], expected, rtol=1e-8)
    without = gp.fit(np.delete(X, 20, 0), np.delete(Y, 20), **options)
    expected = without.log_predictive_density(X[20:21], Y[20:21])
    np.testing.assert_allclose(whole.leave_one_out()[20:21], expected, rtol=1e-8)


def test_fit_saves_and_loads(x64, tmp_path):
    options = {"kernel": gp.Matern(np.ones(2), 1.0), "likelihood": gp.Gaussian(0.1)}
    found = gp.fit(
        X,
        Y,
        key=KEY,
        method="inducing",
        method_options={"num_inducing": 15},
        minibatches=Minibatches(30),
        num_steps=100,
        **options,
    )
    start = gp.fit(
        X,
        Y,
        key=KEY,
        method="inducing",
        method_options={"num_inducing": 15},
        train=False,
        **options,
    )
    assert found.elbo > start.elbo + 1
    assert "inducing inputs leave" in found.verdict.text
    assert not np.array_equal(found.prior.z, start.prior.z)
    found.save(tmp_path / "sparse.npz")
    back = gp.load(tmp_path / "sparse.npz", X, Y, method_options={"num_inducing": 15}, **options)
    np.testing.assert_array_equal(back.predict(NEW).mean, found.predict(NEW).mean)


@slow
def test_weights_of_draws_know_what_inducing_inputs_leave_out(x64):
    """With few of them k-hat is high, and the evidence by weights is above the bound."""
    options = {"key": KEY, "train": False, "likelihood": gp.Bernoulli()}
    options["kernel"] = gp.Matern(1.3, 1.5)
    few, all_ = (
        gp.fit(X, LABELS, method="inducing", method_options={"num_inducing": m}, **options)
        for m in (6, N)
    )
    dense = gp.fit(X, LABELS, method="dense", **options)
    np.testing.assert_allclose(all_.elbo, dense.elbo, atol=1e-3)
    np.testing.assert_allclose(all_.checks.log_evidence, dense.checks.log_evidence, atol=0.1)
    assert few.elbo < dense.elbo - 1
    assert few.checks.log_evidence > few.elbo + 1
    assert all_.checks.khat < 0.7


def test_inducing_inputs_of_the_data():
    same = np.concatenate([X[:5], X[:5]])
    assert len(greedy_inputs(gp.Matern(), same, 10)) == 5
    assert len(spread_inputs(gp.Matern(), same, 7)) <= 5
    greedy = greedy_inputs(gp.Matern(), X, 8)
    cross = np.asarray(gp.Matern()(X, X))
    left = np.diag(cross).copy()
    for i in range(8):  # the definition, by inverses
        place = int(np.argmax(left))
        np.testing.assert_allclose(greedy[i], X[place], rtol=1e-5)
        known = [int(np.argmin(np.sum((X - z) ** 2, 1))) for z in greedy[: i + 1]]
        part = cross[:, known]
        left = np.diag(cross) - np.sum(
            part * np.linalg.solve(cross[np.ix_(known, known)], part.T).T, 1
        )


@slow
def test_two_latents_by_minibatches(x64):
    options = {"likelihood": gp.HeteroscedasticGaussian(), "key": KEY, "method": "inducing"}
    options |= {"method_options": {"num_inducing": 12}}
    found = gp.fit(X, Y, minibatches=30, num_steps=60, **options)
    assert np.isfinite(found.elbo)
    assert found.predict(NEW).mean.shape == (5, 2)


@slow
def test_inducing_inputs_follow_the_length_scales(x64):
    found = gp.fit(X, Y, key=KEY, method="inducing", method_options={"num_inducing": 12})
    fixed = gp.fit(
        X,
        Y,
        key=KEY,
        method="inducing",
        method_options={"inducing": np.asarray(found.prior.z)},
        train=False,
        **vars(found.model),
    )
    np.testing.assert_allclose(found.elbo, fixed.elbo, rtol=1e-6)


def test_single_precision():
    with precision("float32"):
        prior = InducingPrior.of(*functions(dtype=np.float32), num_inducing=N)
        q = _condition(prior, sites(np.float32))
        assert q.mean.dtype == np.float32
        exact = _condition(DensePrior(*functions(dtype=np.float32)), sites(np.float32))
        np.testing.assert_allclose(q.mean, exact.mean, atol=1e-3)


def single(**options):
    return InducingPrior.of(*functions(dtype=np.float32), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: single(start="random"), "start in .*'greedy', 'kmeans'"),
        (lambda: single(num_inducing=0), "num_inducing >= 1"),
        (lambda: single(inducing=np.ones((3, 1))), r"\(M, 2\); got"),
        (lambda: Minibatches(0), "size >= 1"),
        (lambda: Minibatches(10, rate=2.0), "rate 2.0"),
        (lambda: Minibatches(coordinates="natural"), "got 'natural'"),
        (lambda: gp.fit(X, Y, key=KEY, minibatches=10), "only with method='inducing'; got"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_inducing_inputs_that_coincide_are_merged(x64):
    z = np.concatenate([X[:4], X[:2]])
    assert InducingPrior.of(*functions(), inducing=z).z.shape == (4, 2)


def test_a_series_with_nan_has_not_converged():
    level, rising = np.tile([0.0, 0.1], 10), np.arange(20.0)
    assert ended(level) == Status.CONVERGED
    assert ended(rising) == ended(np.append(rising, np.nan)) == Status.MAX_STEPS


@pytest.mark.parametrize("steps", [0, -3, 2.5])
def test_numbers_of_steps_that_mean_nothing(steps):
    with pytest.raises(ValueError, match="num_steps to be an integer >= 1"):
        gp.fit(X, Y, key=KEY, num_steps=steps)
    with pytest.raises(ValueError, match="train with minibatches; all are fixed"):
        gp.fit(X, Y, key=KEY, method="inducing", minibatches=20, train=False)


def test_an_input_without_prior_variance_is_no_obstacle(x64):
    found = algebra.basis(gp.Linear(variance=1.0), np.array([[0.0], [0.5], [1.0]]))
    assert np.isfinite(found.tril).all()
