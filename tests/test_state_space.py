"""Kernels as Markov processes, filtered and smoothed: against dense matrices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, linalg, special, stats

import gp
from gp import methods
from gp.dense import DensePrior
from gp.model import Model
from gp.parameters import largest_factor, parameters, unconstrained
from gp.state_space import StateSpacePrior, markov, process
from gp.state_space.process import incomplete_gammas
from tests.test_contracts import precision
from vi.compile import quick_jit

slow = pytest.mark.slow
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
N = 37  # blocks of time are not full
X = RNG.uniform(-3, 6, size=(N, 1))
X[7] = X[5]  # two inputs coincide
NEW = np.concatenate([[[-5.0], [8.0], X[5], X[11]], RNG.uniform(-3, 6, size=(5, 1))])
PRECISION = np.where(np.arange(N) == 3, 0.0, RNG.uniform(0.5, 30, size=N))  # one is missing
CENTRE = RNG.normal(size=N)

KERNELS = {
    **{f"matern_{nu}": gp.Matern(0.7, 1.5, nu=nu) for nu in (0.5, 1.5, 2.5, 3.5)},
    "sum": gp.Matern(0.7, 1.5, nu=0.5) + gp.Constant(2.0) + 0.5 * gp.Matern(2.0, 1.0, nu=2.5),
    "product": (gp.Matern(0.7, 1.5) + gp.Constant(0.5)) * gp.Matern(3.0, 1.0, nu=0.5),
}


def priors(kernel, dtype=np.float64):
    kernel, mean = jax.tree.map(
        lambda a: jnp.asarray(a, dtype), (kernel, gp.LinearMean(np.array([0.2]), 0.3))
    )
    x = jnp.asarray(X, dtype)
    return StateSpacePrior.of(kernel, mean, x), DensePrior(kernel, mean, x)


def sites(dtype=np.float64):
    return gp.Sites(jnp.asarray(PRECISION * CENTRE, dtype), jnp.asarray(PRECISION, dtype))


@quick_jit
def _condition(prior, sites):
    value = lambda kernel, mean, sites: dataclasses.replace(
        prior, kernel=kernel, mean=mean
    ).log_normalizer(sites)
    slopes = jax.value_and_grad(value, argnums=(0, 1, 2))(prior.kernel, prior.mean, sites)
    return prior.condition(sites), slopes


def describe(prior, sites, x_new):
    """Posterior, predictions, evidence and its slopes."""
    q, slopes = _condition(prior, sites)
    return q[:4], prior.predict(q, x_new), prior.predict(q, x_new, full_cov=True), slopes


NAMES = [
    pytest.param(name, marks=[] if name in ("matern_0.5", "product") else slow) for name in KERNELS
]


@pytest.mark.parametrize("name", NAMES)
def test_all_is_as_with_dense_matrices(name, x64):
    assert markov(KERNELS[name])
    prior, dense = priors(KERNELS[name])
    found, exact = (describe(p, sites(), jnp.asarray(NEW)) for p in (prior, dense))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
def test_single_precision():
    """Rounding of sixty neighbouring points leaves five digits."""
    with precision("float32"):
        found, exact = (
            describe(p, sites(np.float32), jnp.asarray(NEW, np.float32))
            for p in priors(KERNELS["matern_1.5"], np.float32)
        )
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_dense_points_of_time_keep_their_digits():
    """Steps of 1e-6 length scales, in both precisions: variances of 1e4 data are the mean's."""
    for dtype, tolerance in (("float32", 1e-2), ("float64", 1e-5)):
        with precision(dtype):
            x = np.arange(10_000)[:, None] * 1e-6
            kernel = gp.Matern(jnp.asarray(1.0, dtype), jnp.asarray(1.0, dtype))
            prior = StateSpacePrior.of(kernel, gp.Zero(), x.astype(dtype))
            q = quick_jit(lambda p, s: p.condition(s))(
                prior, gp.Sites(jnp.ones(10_000, dtype), jnp.ones(10_000, dtype))
            )
            np.testing.assert_allclose(q.mean, 1.0, atol=1e-3)
            np.testing.assert_allclose(q.variance[5000], 1e-4, rtol=tolerance + 1e-3)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_transitions_solve_the_equation(order, x64):
    """Against the matrix exponential and quadrature, for long and for tiny steps."""
    size, rate = order + 1, np.sqrt(2 * order + 1) / 0.7
    drift = np.diag(np.full(order, rate), 1)
    drift[-1] = [-rate * special.comb(size, k) for k in range(size)]
    kernel = gp.Matern(jnp.asarray(0.7), jnp.asarray(1.5), nu=order + 0.5)
    steps = np.array([1e-4, 0.3, 5.0])
    found = process(kernel, jnp.asarray(steps))
    stationary = np.asarray(found.stationary)
    source = -(drift @ stationary + stationary @ drift.T)
    np.testing.assert_allclose(source[:order, :order], 0, atol=1e-12 * abs(source).max())
    for i, step in enumerate(steps):
        np.testing.assert_allclose(found.transition[..., i], linalg.expm(drift * step), atol=1e-13)
        part = lambda v: linalg.expm(drift * v) @ source @ linalg.expm(drift * v).T
        expected, _ = integrate.quad_vec(part, 0, step, epsrel=1e-13, epsabs=0)
        np.testing.assert_allclose(found.noise[..., i], expected, rtol=1e-9, atol=1e-14)


def test_incomplete_gamma_functions(x64):
    x = np.array([0.0, 1e-8, 0.1, 1.9, 2.1, 30.0, 1e4])
    for m, values in enumerate(incomplete_gammas(7, jnp.asarray(x)), 1):
        np.testing.assert_allclose(values, special.gammainc(m, x), rtol=1e-11)


def test_draws_have_the_posteriors_law(x64):
    """False alarm 1e-6 for each of 12 numbers; detects 0.1 standard deviations."""
    prior, dense = priors(KERNELS["matern_1.5"])
    new, (q, _) = jnp.asarray(NEW[[0, 3, 5]]), _condition(prior, sites())
    mean, covariance = dense.predict(dense.condition(sites()), new, full_cov=True)
    draws = np.asarray(prior.sample(jax.random.key(1), q, new, 12_000))
    white = np.linalg.solve(np.linalg.cholesky(covariance), (draws - mean).T)
    limit = stats.norm.isf(1e-6 / 24) / np.sqrt(12_000)
    off = lambda white: max(
        np.abs(white.mean(1)).max(), np.abs(np.cov(white) - np.eye(3)).max() / np.sqrt(2)
    )
    assert off(white) < limit < 0.1
    assert off(white + 0.1) > limit


@pytest.mark.parametrize("likelihood", [gp.Gaussian(0.1), pytest.param(gp.Bernoulli(), marks=slow)])
def test_fits_are_those_of_the_dense_method(likelihood, x64):
    x = np.linspace(0, 9, 240)
    f = np.sin(2 * x)
    y = f + 0.3 * RNG.normal(size=240)
    y = y if likelihood.conjugate else (y > 0) * 1.0
    quick = gp.fit(x, y, likelihood=likelihood, kernel=gp.Matern(1.0, 1.0), num_steps=6, key=KEY)
    dense = gp.fit(x, y, key=KEY, method="dense", train=False, **vars(quick.model))
    assert quick.provenance["method"] == "state_space"
    np.testing.assert_allclose(quick.elbo, dense.elbo, atol=1e-4)
    new = np.array([-1.0, 3.3, 10.0])
    np.testing.assert_allclose(quick.predict(new).mean, dense.predict(new).mean, atol=5e-3)
    np.testing.assert_allclose(quick.predict(new).variance, dense.predict(new).variance, rtol=5e-3)
    assert ("exact posterior" in quick.verdict.text) == likelihood.conjugate


def test_the_method_is_chosen_where_it_suits():
    time, plane = np.zeros((201, 1)), np.zeros((2000, 2))
    assert methods.choose("auto", gp.Matern(), time) == "state_space"
    assert methods.choose("auto", gp.Matern(), time[:200]) == "dense"
    assert methods.choose("auto", gp.Matern() * gp.Periodic(), time) == "dense"
    assert methods.choose("auto", gp.Matern(), plane) == "dense"
    assert methods.choose("auto", gp.Matern(), np.zeros((2001, 2))) == "sic"


@pytest.mark.parametrize(
    ("kernel", "x", "message"),
    [
        (gp.Matern(), np.zeros((3, 2)), r"one coordinate, shape \(N, 1\); got \(3, 2\)"),
        (gp.Periodic(), X, "sums and products; got Periodic"),
        (gp.Matern() + gp.SquaredExponential(), X, "got SquaredExponential"),
        (gp.Matern(nu=2.0), X, "nu in 0.5, 1.5, 2.5"),
        (gp.Matern(jnp.ones(2)), X, r"one length scale; got lengthscale of shape \(2,\)"),
    ],
)
def test_what_is_no_process_is_refused(kernel, x, message):
    with pytest.raises(ValueError, match=message):
        StateSpacePrior.of(kernel, gp.Zero(), x)


@slow
def test_a_hundred_thousand_points(x64):
    """The slope of the evidence against differences of its values."""
    count = 100_000
    x = np.sort(RNG.uniform(0, 1000, size=count))[:, None]
    kernel, mean = jax.tree.map(jnp.asarray, (gp.Matern(1.0, 1.0), gp.Zero()))
    prior = StateSpacePrior.of(kernel, mean, x)
    data = gp.Sites(*map(jnp.asarray, (np.sin(x[:, 0]) * 10, np.full(count, 10.0))))
    value = lambda k: dataclasses.replace(prior, kernel=k).log_normalizer(data)
    slope, once = quick_jit(jax.grad(value))(kernel), quick_jit(value)
    moved = [once(dataclasses.replace(kernel, lengthscale=1.0 + h)) for h in (1e-4, -1e-4)]
    np.testing.assert_allclose(slope.lengthscale, (moved[0] - moved[1]) / 2e-4, rtol=1e-5)


def test_a_step_of_training_moves_nothing_by_far(x64):
    """Far away the filter's evidence may be anything, so the search of a line must not go there."""
    model = Model(gp.Matern(2.0, 3.0), gp.ConstantMean(1.0), gp.Gaussian(0.1))
    values = unconstrained(model, parameters(model))
    far = dict(values)
    far["kernel.variance"] = values["kernel.variance"] + 7.0
    far["mean.constant"] = values["mean.constant"] + 100.0  # has no scale of its own
    np.testing.assert_allclose(largest_factor(model, far, values), 7.0)
    assert float(largest_factor(model, values, values)) == 0.0
