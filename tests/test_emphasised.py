"""Objectives whose prior is fitted, of functions, or slow: each against its closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vi
from tests.stats import assert_mean
from vi.compile import quick_jit

KEY = jax.random.key(0)


def graded(objective, params, model, guide, *args, key=KEY):
    value = lambda p: -objective.loss(key, p, model, guide, *args)
    return jax.jit(jax.value_and_grad(value))(params)


def equal(a, b, tol=1e-9):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.allclose(x, y, rtol=tol, atol=tol) for x, y in pairs)


# ---- data-emphasised ELBO ----------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(6, 3))
Y = np.array([0.3, 1.2, -0.4, 2.0, 0.9, -1.1])
PRIOR = np.array([0.1, -0.2, 0.4])


def regression(size=None):
    w = numpyro.sample("w", dist.Normal(jnp.asarray(PRIOR), 2.0).to_event(1))
    v = numpyro.sample("v", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 6, subsample_size=size) as i:
        numpyro.sample("y", dist.Normal(jnp.asarray(X)[i] @ w + v, 1.0), obs=jnp.asarray(Y)[i])


def mean_field(size=None):
    del size
    w, s, v = numpyro.param("w_loc"), numpyro.param("w_scale"), numpyro.param("v_loc")
    numpyro.sample("w", dist.Normal(w, s).to_event(1))
    numpyro.sample("v", dist.Normal(v, 0.5))


def weights():
    return {
        "w_loc": jnp.array([0.5, -0.3, 1.0]),
        "w_scale": jnp.array([0.4, 0.6, 0.2]),
        "v_loc": jnp.array(0.3),
    }


def expected_log_likelihood(p):
    error = Y - X @ p["w_loc"] - p["v_loc"]
    spread = (X**2) @ p["w_scale"] ** 2 + 0.25
    return jnp.sum(-0.5 * jnp.log(2 * jnp.pi) - 0.5 * (error**2 + spread))


def profiled(p, *, stop):
    """Minus the divergence at the best variance of w's prior, which is stopped or not."""
    squares = jnp.sum((p["w_loc"] - PRIOR) ** 2 + p["w_scale"] ** 2)
    best = squares / 3
    best = jax.lax.stop_gradient(best) if stop else best
    w = 0.5 * (3 * jnp.log(best) + squares / best - 3 - 2 * jnp.sum(jnp.log(p["w_scale"])))
    return -w - (0.5 * (p["v_loc"] ** 2 + 0.25 - 1) - jnp.log(0.5))


@pytest.mark.slow
def test_prior_variances_are_profiled_out(x64):
    """In minibatches. False alarms 1e-6 each; detects 0.11 standard deviations of an estimate."""
    objective = vi.data_emphasised_elbo(emphasis=0.5, profiled=[["w"]])
    found = quick_jit(
        jax.vmap(lambda key: graded(objective, weights(), regression, mean_field, 2, key=key))
    )(jax.random.split(KEY, 4096))
    exact = lambda p: 0.5 * expected_log_likelihood(p) + profiled(p, stop=False)
    value, grads = jax.value_and_grad(exact)(weights())
    assert_mean(found[0], np.asarray(value))
    for name, g in grads.items():
        assert_mean(found[1][name], np.asarray(g))
    with pytest.raises(AssertionError):  # twin: the variances of the model as they are
        assert_mean(found[0] - 0.5, np.asarray(value))
    envelope = jax.grad(lambda p: profiled(p, stop=True))(weights())
    assert equal(envelope, jax.grad(lambda p: profiled(p, stop=False))(weights()))


def test_the_divergence_of_profiled_sites_has_no_noise(x64):
    """KL* = D/2 log(λ*/σ²) for an isotropic guide."""
    p = {**weights(), "w_scale": jnp.full(3, 0.4)}
    objective = vi.data_emphasised_elbo(emphasis=0.0, profiled=[["w"], ["v"]])
    value, _ = graded(objective, p, regression, mean_field)
    best = (np.sum((np.asarray(p["w_loc"]) - PRIOR) ** 2) + 3 * 0.16) / 3
    of_v = 0.3**2 + 0.25
    assert np.isclose(value, -1.5 * np.log(best / 0.16) - 0.5 * np.log(of_v / 0.25))


def test_profiled_sites_that_do_not_qualify():
    def run(sites, p, q):
        objective = vi.data_emphasised_elbo(emphasis=1.0, profiled=[sites])
        jax.eval_shape(lambda at: objective.loss(KEY, at, p, q), weights())

    with pytest.raises(vi.TargetError, match="'u' is not such a site"):
        run(["u"], regression, mean_field)

    def chain():
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        numpyro.sample("v", dist.Normal(w, 1.0))

    with pytest.raises(vi.TargetError, match=r"'v' depends on \['w'\]"):
        run(["v"], chain, chain)

    def laplace():
        numpyro.sample("w", dist.Laplace(0.0, 1.0))

    with pytest.raises(vi.TargetError, match="normal priors; got Laplace"):
        run(["w"], laplace, laplace)


def test_prior_parameters_have_their_gradient_when_doubly_reparameterised(x64):
    def p():
        z = numpyro.sample("z", dist.Normal(numpyro.param("t", 0.3), 1.0))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=0.7)

    def q():
        numpyro.sample("z", dist.Normal(0.2, 0.8))

    gradient = lambda estimator: graded(
        vi.data_emphasised_elbo(emphasis=0.4, num_particles=3, estimator=estimator),
        {"t": jnp.array(0.3)},
        p,
        q,
    )[1]["t"]
    assert np.isclose(gradient(vi.DoublyReparameterized()), gradient(vi.Pathwise()))


# ---- functions ---------------------------------------------------------------------------------


def grid(m):
    x = (np.arange(m) + 0.5) / m
    return np.sqrt(2) * np.sin(2 * np.pi * np.outer([1, 2, 3], x))


def operator(u, basis, scales):
    """A linear decoder of two of three modes."""
    with numpyro.plate("functions", len(u)):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        decoded = (z * scales) @ basis[:2]
        weights = jnp.full(basis.shape[1], 1 / basis.shape[1])
        numpyro.factor("u", vi.cameron_martin(decoded, u, weights))


def encoder(u, basis, scales):
    del scales
    a, s = numpyro.param("a", 0.5), numpyro.param("s", 0.4)
    coefficients = u @ basis[:2].T / basis.shape[1]
    with numpyro.plate("functions", len(u)):
        numpyro.sample("z", dist.Normal(a * coefficients, s).to_event(1))


C = np.array([[0.7, -0.2, 0.1], [-0.4, 0.9, 0.3]])


@pytest.fixture(scope="module")
def functional_gradients():
    """4096 gradients at parameters, scales and β, on a grid of 32 points."""
    with jax.enable_x64(True):
        basis = jnp.asarray(grid(32))

        def one(key, at, scales, beta):
            objective = vi.functional_elbo(beta=beta, num_particles=2)
            return graded(objective, at, operator, encoder, C @ basis, basis, scales, key=key)

        yield quick_jit(lambda *a: jax.vmap(lambda key: one(key, *a))(jax.random.split(KEY, 4096)))


def test_functional_elbo_has_its_closed_form(functional_gradients, x64):
    """In the coefficients c: E⟨u, D⟩ - ½ E‖D‖² - β KL. Twin: with part of ½‖u‖²."""
    at = {"a": jnp.array(0.5), "s": jnp.array(0.4)}
    scales, beta = jnp.array([1.2, 0.8]), jnp.array(0.05)

    def exact(p):
        mean = p["a"] * C[:, :2]
        inner = jnp.sum(C[:, :2] * scales * mean)
        square = jnp.sum(scales**2 * (mean**2 + p["s"] ** 2))
        divergence = jnp.sum(0.5 * (mean**2 + p["s"] ** 2 - 1) - jnp.log(p["s"]))
        return inner - 0.5 * square - beta * divergence

    found = functional_gradients(at, scales, beta)
    value, grads = jax.value_and_grad(exact)(at)
    assert_mean(found[0], np.asarray(value))
    for name, g in grads.items():
        assert_mean(found[1][name], np.asarray(g))
    with pytest.raises(AssertionError):
        assert_mean(found[0] - 0.05 * np.sum(C**2), np.asarray(value))


def test_functional_elbo_does_not_depend_on_the_grid(x64):
    at = {"a": jnp.array(0.5), "s": jnp.array(0.4)}
    objective, ones = vi.functional_elbo(beta=0.1), jnp.ones(2)
    run = lambda basis: objective.loss(KEY, at, operator, encoder, C @ basis, basis, ones)
    value = lambda m: quick_jit(run)(jnp.asarray(grid(m)))
    assert np.isclose(value(16), value(64))


def test_functional_fits_are_probabilistic_pca(functional_gradients, x64):
    """With β the variance of the noise, the best guide is z | u = N(τ c/(τ² + β), β/(τ² + β))."""
    tau, beta = 0.9, 0.1
    best = {"a": jnp.array(tau / (tau**2 + beta)), "s": jnp.sqrt(beta / (tau**2 + beta))}
    found = functional_gradients(best, jnp.full(2, tau), jnp.array(beta))[1]
    assert_mean(found["a"], np.zeros(()))
    assert_mean(found["s"], np.zeros(()))


# ---- a momentum teacher ------------------------------------------------------------------------


def teacher(x1, x2, slow):
    del x2
    with numpyro.plate("views", len(x1)):
        numpyro.sample("z", dist.Normal(slow["a"] * x1, slow["s"]))


def student(x1, x2, slow):
    del x1, slow
    a, s = numpyro.param("a", 1.0), numpyro.param("s", 1.0)
    with numpyro.plate("views", len(x2)):
        numpyro.sample("z", dist.Normal(a * x2, s))


def test_momentum_teacher(x64):
    x1, x2 = np.array([0.3, -0.7]), np.array([0.4, -0.5])
    at = {"a": jnp.array(0.8), "s": jnp.array(0.6)}
    slow = {"a": jnp.array(1.1), "s": jnp.array(0.9)}

    def exact(p):
        off = (p["s"] ** 2 + (p["a"] * x2 - slow["a"] * x1) ** 2) / slow["s"] ** 2
        divergence = 0.5 * (off - 1) + jnp.log(slow["s"] / p["s"])
        score = -0.5 * off - jnp.log(slow["s"]) - 0.5 * jnp.log(2 * jnp.pi)
        return jnp.sum(score - divergence)

    found = graded(vi.momentum_teacher(), at, teacher, student, x1, x2, slow)
    assert equal(found, jax.value_and_grad(exact)(at))
    same = graded(vi.momentum_teacher(), at, teacher, student, x1, x1, at)[0]
    assert np.isclose(same, -2 * (0.5 + 0.5 * np.log(2 * np.pi * 0.36)))  # no divergence is left


def test_the_teacher_follows_in_svi():
    """A fit with the same view twice: the student's scale is at σ_t/√2 of the last teacher."""
    x = np.array([0.3, -0.7])
    svi = vi.SVI(teacher, student, optax.sgd(0.1), vi.momentum_teacher())
    slow = {"a": jnp.array(1.0), "s": jnp.array(1.0)}
    state = svi.init(KEY, x, x, slow)
    update = jax.jit(svi.update)
    for _ in range(60):
        state, _ = update(state, x, x, slow)
        slow = optax.incremental_update(svi.get_params(state), slow, 0.001)
    assert np.isclose(svi.get_params(state)["s"], slow["s"] / np.sqrt(2), atol=0.01)
    assert 0.9 < slow["s"] < 1
