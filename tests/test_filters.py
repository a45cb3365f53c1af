"""Particle filters against Kalman's, and against enumeration for discrete states."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from samplers.filters import Resampling, StateSpace, Transport, particle_filter
from tests.stats import assert_mean
from vi.compile import quick_jit

KEY = jax.random.key(4)
T = 6
Y = np.cumsum(np.random.default_rng(0).normal(size=(T, 1)), 0).astype(np.float32)
THETA = jnp.array([0.8, 0.5, 0.7])  # decay, noise of the state, noise of the observation


def model(theta):
    a, q, r = theta
    return StateSpace(
        dist.Normal(jnp.zeros(1), 1.0).to_event(1),
        lambda z, t: dist.Normal(a * z, q).to_event(1),
        lambda z, t: dist.Normal(z, r).to_event(1),
    )


def kalman(theta, y=Y[:, 0]):
    """Log evidence and filtered means, by the textbook's recursion."""
    a, q, r = theta
    mean, variance, log_z, means = 0.0, 1.0, 0.0, []
    for t, seen in enumerate(y):
        if t:
            mean, variance = a * mean, a**2 * variance + q**2
        spread = variance + r**2
        log_z = log_z + jax.scipy.stats.norm.logpdf(seen, mean, jnp.sqrt(spread))
        gain = variance / spread
        mean, variance = mean + gain * (seen - mean), (1 - gain) * variance
        means.append(mean)
    return log_z, jnp.stack(means)


EXACT, MEANS = kalman(THETA)


def optimal(theta):
    """The law of the state given the one before and what is seen."""
    a, q, r = theta
    gain = q**2 / (q**2 + r**2)

    def law(z, y, t):
        return dist.Normal(a * z + gain * (y - a * z), jnp.sqrt(1 - gain) * q).to_event(1)

    return law


def many(options, num=4096, n=8, guided=False):
    """Ratios Ẑ/Z and their gradients, of many runs with few particles."""

    def ratio(theta, key):
        proposal = optimal(theta) if guided else None
        how = {"num_particles": n, "proposal": proposal, **options}
        return jnp.exp(particle_filter(key, Y, model(theta), **how).log_evidence - EXACT)

    run = quick_jit(jax.vmap(jax.value_and_grad(ratio), (None, 0)))
    return jax.tree.map(np.asarray, run(THETA, jax.random.split(KEY, num)))


SCORE = jax.grad(lambda theta: kalman(theta)[0])(THETA)
UNBIASED = {
    "systematic": {},
    "multinomial": {"resampling": Resampling("multinomial"), "threshold": 1.0},
    "mixed": {"resampling": Resampling(mix=0.5), "threshold": 1.0},
    "never": {"threshold": 0.0},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "multinomial" else ())
        for name in UNBIASED
    ],
)
def test_evidence_and_its_gradient_are_unbiased(name):
    ratios, grads = many(UNBIASED[name])
    assert_mean(ratios, 1.0)
    assert_mean(grads, SCORE)


def test_guided_filter_is_unbiased_with_less_noise():
    bootstrap, _ = many({})
    ratios, grads = many({}, guided=True)
    assert_mean(ratios, 1.0)
    assert_mean(grads, SCORE)
    assert ratios.std() < 0.75 * bootstrap.std()


@pytest.mark.parametrize("gradient", ["soft", "none"])
def test_gradients_without_scores_are_biased(gradient):
    """The twin of the tests above: it must fail them."""
    how = Resampling(mix=0.5, gradient=gradient)
    ratios, grads = many({"resampling": how, "threshold": 1.0}, num=16384)
    assert_mean(ratios, 1.0)
    with pytest.raises(AssertionError, match="largest"):
        assert_mean(grads, SCORE)


@pytest.fixture(scope="module")
def found():
    run = partial(particle_filter, model=model(THETA), num_particles=20_000)
    return jax.jit(run)(KEY, Y)


def test_filtered_means_are_kalmans(found):
    np.testing.assert_allclose(found.mean()[:, 0], MEANS, atol=0.03)
    np.testing.assert_allclose(found.log_evidence, EXACT, atol=0.05)
    np.testing.assert_allclose(jnp.exp(found.log_weights).sum(1), 1, rtol=1e-3)
    assert ((found.effective > 1) & (found.effective <= 20_001)).all()


def test_transport_comes_close_and_its_gradient_too():
    """Its bias at 100 particles is in the second digit, of the evidence and of the score."""

    def log_z(theta, key):
        how = {"num_particles": 64, "resampling": Transport(), "threshold": 1.0}
        return particle_filter(key, Y, model(theta), **how).log_evidence

    run = jax.jit(jax.vmap(jax.value_and_grad(log_z), (None, 0)))
    value, grads = run(THETA, jax.random.split(KEY, 32))
    np.testing.assert_allclose(value.mean(), EXACT, atol=0.1)
    np.testing.assert_allclose(grads.mean(0), SCORE, atol=0.05 * float(jnp.abs(SCORE).max()))


def test_transport_keeps_the_mean_of_weighted_particles():
    x = jax.random.normal(KEY, (50, 2))
    log_w = jax.nn.log_softmax(x[:, 0])
    moved, equal = Transport()(KEY, x, log_w)
    np.testing.assert_allclose(moved.mean(0), jnp.exp(log_w) @ x, atol=5e-3)
    np.testing.assert_allclose(jnp.exp(equal), 1 / 50, rtol=1e-5)


@pytest.mark.parametrize("scheme", ["systematic", "multinomial"])
def test_counts_of_resampling_follow_the_weights(scheme):
    """Chi-squared over 2,000 draws of 10; false alarms 1e-6."""
    weights = np.random.default_rng(0).dirichlet(np.ones(10))
    x = jnp.arange(10.0)[:, None]
    draw = jax.vmap(lambda key: Resampling(scheme)(key, x, jnp.log(weights))[0][:, 0])
    chosen = np.asarray(draw(jax.random.split(KEY, 2000))).astype(int)
    counts = np.bincount(chosen.ravel(), minlength=10)
    expected = 20_000 * weights
    assert np.sum((counts - expected) ** 2 / expected) < stats.chi2.isf(1e-6, 9)


def test_discrete_states_get_score_terms():
    """A hidden Markov chain of two states: evidence and gradient by the forward recursion."""
    y = jnp.array([0.3, -1.0, 2.0, 1.5])

    def hmm(stay):
        return StateSpace(
            dist.Bernoulli(0.4),
            lambda z, t: dist.Bernoulli(jnp.where(z == 1, stay, 1 - stay)),
            lambda z, t: dist.Normal(1.0 * z, 1.0),
        )

    def forward(stay):
        matrix = jnp.array([[stay, 1 - stay], [1 - stay, stay]])
        alpha = jnp.array([0.6, 0.4])
        for t, seen in enumerate(y):
            prior = alpha @ matrix if t else alpha
            alpha = prior * jax.scipy.stats.norm.pdf(seen, jnp.array([0.0, 1.0]))
        return alpha.sum()

    exact, slope = jax.value_and_grad(forward)(0.7)
    run = lambda s, key: jnp.exp(particle_filter(key, y, hmm(s), num_particles=8).log_evidence)
    values, grads = jax.jit(jax.vmap(jax.value_and_grad(run), (None, 0)))(
        0.7, jax.random.split(KEY, 8192)
    )
    assert_mean(values / exact, 1.0)
    assert_mean(grads / exact, slope / exact)


def test_what_cannot_be_is_refused():
    bad = StateSpace(dist.Normal(jnp.zeros(2), 1.0), lambda z, t: z, lambda z, t: dist.Normal(z, 1))
    with pytest.raises(ValueError, match=r"to_event\(1\)"):
        particle_filter(KEY, jnp.zeros((3, 2)), bad)
    for how, says in ((Resampling("best"), "'systematic'"), (Resampling(gradient="x"), "'soft'")):
        with pytest.raises(ValueError, match=says):
            how(KEY, jnp.zeros((2, 1)), jnp.log(jnp.array([0.5, 0.5])))


def test_a_dead_particle_leaves_gradients_finite():
    """Its weight underflows; at the default share its rate is zero."""
    soft = Resampling(gradient="soft")

    def total(a):
        return jnp.sum(soft(KEY, jnp.zeros((4, 1)), jax.nn.log_softmax(a))[1])

    slopes = jax.grad(total)(jnp.array([0.0, 0.5, -200.0, 0.2]))
    np.testing.assert_allclose(slopes, 0, atol=1e-6)  # as without gradients, at a share of one


def test_the_last_stratum_does_not_revive_a_dead_particle():
    """In single precision (N - 1 + u)/N rounds to one for some u."""
    n = 100_000
    log_weights = jnp.full(n, -jnp.log(n - 1.0)).at[-1].set(-jnp.inf)
    draw = quick_jit(lambda key: Resampling()(key, jnp.arange(n)[:, None], log_weights)[0][-1, 0])
    last = [int(draw(jax.random.key(i))) for i in range(300)]
    assert max(last) < n - 1
