"""Functional tensors: moments by enumeration, evidence of regression, recovery, a real table."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gp
from gp.tensor import Core
from gp.tensor.algebra import core_moments, environment, value_moments
from gp.tensor.sweep import elbo

KEY = jax.random.key(0)


def factors(ranks, count=4):
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(count, r)), rng.uniform(0.1, 1, size=(count, r))) for r in ranks]


@pytest.mark.slow
def test_moments_are_those_of_kronecker_products(x64):
    ranks = (2, 3, 2)
    own = factors(ranks)
    rng = np.random.default_rng(1)
    root = rng.normal(size=(12, 12))
    core = Core(jnp.asarray(rng.normal(size=ranks)), jnp.asarray(root @ root.T))
    mean, second = value_moments(own, core)
    y = rng.normal(size=4)
    both, linear = core_moments(own, y)
    gamma = np.asarray(core.mean).reshape(-1)
    for_all, with_y = np.zeros((12, 12)), np.zeros(12)
    for n in range(4):
        means, squares = np.ones(1), np.ones((1, 1))
        for m, v in own:
            means = np.kron(means, m[n])
            squares = np.kron(squares, np.outer(m[n], m[n]) + np.diag(v[n]))
        assert np.isclose(mean[n], gamma @ means)
        exact = np.trace((np.outer(gamma, gamma) + core.covariance) @ squares)
        assert np.isclose(second[n], exact)
        assert not np.isclose(second[n], gamma @ squares @ gamma)  # twin: a core that is certain
        for_all += squares
        with_y += y[n] * means
    np.testing.assert_allclose(both, for_all)
    np.testing.assert_allclose(linear, with_y)
    for mode in range(3):  # f = u a in every mode
        a, _ = environment(mode, own, core)
        np.testing.assert_allclose(np.sum(np.asarray(a) * own[mode][0], 1), mean)
    diagonal = np.zeros((2, 2, 2))
    diagonal[0, 0, 0] = diagonal[1, 1, 1] = 1.0
    pairs = factors((2, 2, 2))
    cp = value_moments(pairs, None)
    for a, b in zip(cp, value_moments(pairs, Core(diagonal, np.zeros((8, 8)))), strict=True):
        np.testing.assert_allclose(a, b)


def test_one_mode_is_gaussian_process_regression(x64):
    """With noise that is nearly known, the bound is the log evidence; a start is no matter."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0, 5, 30))
    y = np.sin(2 * x) + 0.3 * rng.normal(size=30)
    sure = 1e7
    kernel = gp.Matern(0.8, 1.0)
    known = sure, 0.09 * sure / np.var(y)
    found = gp.functional_tensor(
        [x], y, 1, key=KEY, kernels=[kernel], train=False, noise_prior=known, num_starts=1,
        num_sweeps=3,
    )  # fmt: skip
    exact = gp.fit(
        x, y, key=KEY, kernel=kernel, mean=gp.ConstantMean(y.mean()), train=False,
        likelihood=gp.Gaussian(0.09),
    )  # fmt: skip
    assert np.isclose(found.elbo, exact.elbo, atol=1e-3)
    new = np.linspace(0, 5, 7)
    for a, b in zip(found.predict([new]), exact.predict(new), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    other = gp.fit(
        x, y, key=KEY, kernel=kernel, mean=gp.ConstantMean(y.mean()), train=False,
        likelihood=gp.Gaussian(0.1),
    )  # fmt: skip
    assert not np.isclose(found.elbo, other.elbo, atol=1e-2)  # twin: other noise


def product(count=150, rank=1, seed=0):
    rng = np.random.default_rng(seed)
    s, t = rng.uniform(size=(2, count))
    f = np.sin(6 * s) * np.cos(4 * t)
    if rank > 1:
        f = f + 0.7 * np.cos(5 * s) * t
    return s, t, f + 0.05 * rng.normal(size=count)


@pytest.mark.slow
@pytest.mark.parametrize("core", [False, True])
def test_sweeps_raise_the_bound(x64, core):
    s, t, y = product(rank=2)
    options = {"key": KEY, "core": core, "train": False, "num_starts": 1, "num_sweeps": 25}
    found = gp.functional_tensor([s, t], y, 2, **options)
    gains = np.diff(found.history)
    assert gains.min() > -1e-8
    assert found.history[-1] > found.history[0] + 50
    assert np.isclose(elbo(found.problem, found.state), found.elbo)
    # Twin: a bound that takes the factors for certain where the noise is measured.
    certain = [f._replace(variance=0 * f.variance) for f in found.state.factors]
    assert elbo(found.problem, found.state._replace(factors=tuple(certain))) > found.elbo + 1


@pytest.mark.slow
def test_hyperparameters_are_learned_and_a_function_is_found(x64):
    s, t, y = product(400, rank=2)
    s_new, t_new, y_new = product(200, rank=2, seed=1)
    run = lambda **options: gp.functional_tensor([s, t], y, 2, key=KEY, num_sweeps=150, **options)
    trained, guessed = run(), run(train=False)
    assert trained.elbo > guessed.elbo + 5
    error = np.sqrt(np.mean((trained.predict([s_new, t_new]).mean - y_new) ** 2))
    assert error < 0.08  # noise of 0.05
    assert 0.5 < trained.noise / 0.05**2 < 2
    # The gradient is that of the bound: q is at its best for these kernels, to first order.
    names = trained.kernels[0].lengthscale, guessed.kernels[0].lengthscale
    assert not np.isclose(*map(float, map(jnp.squeeze, names)))


@pytest.mark.slow
def test_long_modes_are_in_state_space(x64):
    rng = np.random.default_rng(0)
    s, t = np.linspace(0, 10, 300), rng.uniform(size=300)
    y = np.sin(3 * s) * (1 + t) + 0.05 * rng.normal(size=300)
    found = gp.functional_tensor([s, t], y, 1, key=KEY, num_starts=1, num_sweeps=25, train=False)
    assert type(found.problem.priors[0]).__name__ == "StateSpacePrior"
    assert np.diff(found.history).min() > -1e-8
    assert np.sqrt(np.mean((found.predict([s, t]).mean - y) ** 2)) < 0.1


def test_wrong_input_is_named():
    x = np.linspace(0, 1, 5)
    with pytest.raises(ValueError, match="coordinates of 5 entries"):
        gp.functional_tensor([x, x[:3]], x, 1, key=KEY)
    with pytest.raises(ValueError, match="a rank >= 1"):
        gp.functional_tensor([x, x], x, (1, 2), key=KEY)
    with pytest.raises(ValueError, match="kernels for 2 modes"):
        gp.functional_tensor([x, x], x, 1, key=KEY, kernels=[gp.Matern()])
    assert dataclasses.is_dataclass(gp.FunctionalTensor)
