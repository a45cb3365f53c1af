"""Filters that learn on a stream, and the objective of variational SMC, against Kalman's."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

from samplers.filters import FilteringELBO, StateSpace, online_filter, particle_filter
from tests.stats import assert_mean
from tests.test_filters import EXACT, THETA, Y, kalman, model
from vi.compile import quick_jit
from vi.errors import TargetError

KEY = jax.random.key(5)
L, WINDOWS, SHIFT = 10, 80, 30
NOISE = 0.5, 0.3  # of states and of observations
DECAYS = 0.9, -0.6  # before and after the shift


def space(decay):
    return model(jnp.stack([decay, jnp.asarray(NOISE[0]), jnp.asarray(NOISE[1])]))


def stream():
    rng = np.random.default_rng(2)
    z, out = 0.0, []
    for t in range(L * WINDOWS):
        z = DECAYS[t >= L * SHIFT] * z + NOISE[0] * rng.normal()
        out.append(z + NOISE[1] * rng.normal())
    return jnp.asarray(np.array(out, np.float32).reshape(WINDOWS, L, 1))


def learn(rate):
    """Parameters after each window, and the log evidence of each."""
    learner = online_filter(space, optax.adam(rate, b2=0.9), num_particles=50)
    y = stream()
    state, _ = learner.init(KEY, jnp.asarray(DECAYS[0]), y[0])

    def step(state, given):
        state, found = learner.update(given[0], state, given[1])
        return state, (state.params, found.log_evidence)

    scan = quick_jit(lambda state, keys, y: jax.lax.scan(step, state, (keys, y)))
    state, told = scan(state, jax.random.split(KEY, WINDOWS - 1), y[1:])
    assert state.before.time == L * WINDOWS
    assert state.skipped == 0
    return map(np.asarray, told)


@pytest.mark.slow
def test_a_learning_filter_follows_a_shift():
    decays, scores = learn(0.1)
    frozen, frozen_scores = learn(0.0)
    assert np.all(frozen == np.float32(DECAYS[0]))
    assert abs(decays[SHIFT - 6 : SHIFT - 1].mean() - DECAYS[0]) < 0.3
    assert abs(decays[-10:].mean() - DECAYS[1]) < 0.3
    before, after = slice(None, SHIFT - 1), slice(-10, None)
    assert scores[after].mean() > frozen_scores[after].mean() + 3.0
    assert abs(scores[before].mean() - frozen_scores[before].mean()) < 1.5


@pytest.mark.slow
def test_a_window_that_says_nothing_is_passed_over():
    learner = online_filter(space, optax.adam(0.1, b2=0.9), num_particles=20)
    y = stream()[:5].at[2, 3].set(jnp.nan)
    state, _ = learner.init(KEY, jnp.asarray(0.5), y[0])
    update = quick_jit(learner.update)
    seen = []
    for window in y[1:]:
        state, found = update(KEY, state, window)
        seen.append(float(found.log_evidence))
    assert np.isfinite(np.array(seen)[[0, 2, 3]]).all()
    assert not np.isfinite(seen[1])
    assert state.skipped == 1
    assert state.before.time == 5 * L


def test_windows_together_have_the_evidence_of_the_whole():
    """Ẑ of a window given the particles before is unbiased for the whole in the product."""

    def ratio(key, theta):
        first, second = jax.random.split(key)
        how = {"num_particles": 8, "model": model(theta)}
        found = particle_filter(first, Y[:3], **how)
        more = particle_filter(second, Y[3:], before=found.last(3), **how)
        return jnp.exp(found.log_evidence + more.log_evidence - EXACT)

    ratios = quick_jit(jax.vmap(ratio, (0, None)))(jax.random.split(KEY, 4096), THETA)
    assert_mean(np.asarray(ratios), 1.0)
    with pytest.raises(AssertionError):
        assert_mean(np.asarray(ratios), 1.1)
    found = particle_filter(KEY, Y, model(THETA), num_particles=8)
    with pytest.raises(ValueError, match="num_particles = 4"):
        particle_filter(KEY, Y, model(THETA), num_particles=4, before=found.last(6))


def program(y):
    a = numpyro.param("a", 0.0)
    return model(jnp.stack([a, THETA[1], THETA[2]]))


@pytest.mark.slow
def test_variational_smc_finds_the_mode_of_kalmans_likelihood():
    """From 0 to the best decay, where Kalman's log evidence has no slope."""
    y = stream()[:3].reshape(-1, 1)
    elbo = FilteringELBO(100)
    svi = numpyro.infer.SVI(program, lambda y: None, numpyro.optim.Adam(0.03), elbo)
    found = svi.run(KEY, 120, y, progress_bar=False)
    grid = np.linspace(-1, 1.2, 221)
    theta = lambda a: jnp.stack([a, THETA[1], THETA[2]])
    exact = jax.vmap(lambda a: kalman(theta(a), y[:, 0])[0])(jnp.asarray(grid))
    best = grid[np.argmax(exact)]
    assert abs(float(found.params["a"]) - best) < 0.1
    assert abs(best) > 0.3  # it did not begin there
    losses = jax.vmap(lambda k: elbo.loss(k, {"a": best}, program, lambda y: None, y))
    bound = -np.asarray(losses(jax.random.split(KEY, 200)))
    assert exact.max() - 1 < bound.mean() < exact.max() + 5 * bound.std() / 200**0.5


def test_programs_that_are_no_filters_are_refused():
    def with_site(y):
        numpyro.sample("mu", dist.Normal(0, 1))
        return program(y)

    nothing = lambda y: None
    run = lambda model, guide=nothing: FilteringELBO(5).loss(KEY, {}, model, guide, Y)
    with pytest.raises(TargetError, match=r"sample sites \['mu'\]"):
        run(with_site)
    with pytest.raises(TargetError, match="returns a StateSpace"):
        run(nothing)
    assert isinstance(numpyro.handlers.seed(program, KEY)(Y), StateSpace)
