"""Algorithms of `samplers.mcmc`: each leaves the target alone, as far as it says."""
# ruff: noqa: F811

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flows
import samplers
import vi
from samplers.convergence import Convergence, judge
from samplers.coordinates import noise_target
from samplers.mixing import rhat_and_ess
from tests.test_nuts import errors, good, shifted, target  # noqa: F401

KEY = jax.random.key(11)
EXACT = {
    "hmc": samplers.HMC(),
    "mclmc": samplers.MCLMC(),
    "independence": samplers.Independence(),
    "delayed": samplers.DelayedAcceptance(),
}


def wide(good):
    """A start from which importance weights are bounded: 1.3 times too wide, and a bit off."""
    q = good.q
    scale = dataclasses.replace(q.scale, raw=1.3 * q.scale.raw)
    return dataclasses.replace(good, q=vi.Gaussian(q.loc + 0.2, scale))


def run(target, start, algorithm, **options):
    options = {"num_samples": 800, "num_warmup": 200, **options}
    return samplers.mcmc(target, key=KEY, algorithm=algorithm, start=start, **options)


@pytest.mark.parametrize("name", EXACT)
def test_draws_are_of_the_target(target, good, name):
    """Six z-scores at the effective size; at 4.9 each the test is wrong in 6e-6 of runs."""
    found = run(target, wide(good), EXACT[name])
    size = min(found.convergence.ess_bulk, found.convergence.ess_tail)
    assert size > 300
    assert np.abs(errors(found.transitions.z, size)).max() < 4.9
    assert found.verdict.grade == "good", found.verdict
    assert 0.2 < found.convergence.acceptance < 1


@pytest.mark.parametrize(
    ("algorithm", "bent"),
    [
        (samplers.Independence(), False),
        (samplers.SGLD(), False),
        pytest.param(samplers.NUTS(), True, marks=pytest.mark.slow),
        pytest.param(samplers.DelayedAcceptance(), True, marks=pytest.mark.slow),
    ],
)
def test_kept_densities_are_those_of_the_draws(target, good, algorithm, bent):
    """Exact algorithms keep the value that they know, others ask again.

    The Jacobian of a flow differs from draw to draw.
    """
    start = wide(good)
    if bent:
        flow = flows.realnvp(3, key=KEY, num_layers=2).around(start.q)
        q = jax.tree.map(lambda x: x + 0.1, flow)
        start = dataclasses.replace(start, q=q)
        assert np.ptp(jax.vmap(lambda x: noise_target(target, start).image(x)[1])(jnp.eye(3))) > 0
    kept = run(target, start, algorithm, num_samples=100, num_warmup=50).transitions
    z = kept.z.reshape(-1, 3)
    expected = np.asarray(target.log_densities(z)).reshape(kept.log_density.shape)
    np.testing.assert_allclose(kept.log_density, expected, atol=1e-4)
    assert np.abs(np.roll(kept.log_density, 1) - expected).max() > 0.1


def test_the_same_test_fails_for_draws_of_the_start(good):
    z, _ = wide(good).sample_unconstrained(KEY, 1000)
    assert np.abs(errors(np.asarray(z["x"]), 300)).max() > 4.9


def test_delayed_acceptance_does_not_ask_for_what_the_start_refuses(target, good):
    far = samplers.DelayedAcceptance(num_steps=1, scale=3.0)
    found = run(target, wide(good), far)
    draws = found.num_chains * found.num_samples
    assert found.cost["gradients"] - found.cost["warmup_gradients"] < 0.7 * draws


def test_independence_with_a_start_too_narrow_is_found_out(target, good):
    found = run(target, shifted(good), samplers.Independence())
    assert found.verdict.grade == "poor"


@pytest.mark.parametrize("algorithm", [samplers.SGLD(), samplers.SGHMC()], ids=["sgld", "sghmc"])
def test_stochastic_gradients_with_their_stated_bias(target, good, algorithm):
    """Twelve z-scores; the stated bias of a percent of the variance is half a standard error."""
    found = run(target, good, algorithm)
    size = min(found.convergence.ess_bulk, found.convergence.ess_tail)
    assert size > 300
    assert np.abs(errors(found.transitions.z, size)).max() < 4.9
    assert found.verdict.grade == "fair"
    assert "half the step" in found.verdict.text


def test_sgld_at_a_long_step_has_the_variance_of_its_recursion(good):
    """For N(0, 1) it is 1/(1 - ε/2); at ε = 1 that is 2, which the tests above would not pass."""
    unit = vi.target(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(4))
    start = vi.fit(unit, key=KEY)
    found = run(unit, start, samplers.SGLD(step_size=1.0, num_steps=5), num_samples=2000)
    np.testing.assert_allclose(found.transitions.z.var(), 2.0, rtol=0.1)


def test_minibatches_are_used_where_the_model_has_them():
    import numpyro
    import numpyro.distributions as dist

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        with numpyro.plate("rows", len(y), subsample_size=50):
            batch = numpyro.subsample(y, 0)
            numpyro.sample("y", dist.Normal(mu, 1), obs=batch)

    y = np.random.default_rng(0).normal(2.0, 1.0, 500).astype(np.float32)
    start = vi.fit(vi.target(model, y), key=KEY, family="mean_field", num_steps=300)
    found = samplers.mcmc(
        model, y, key=KEY, start=start, algorithm=samplers.SGLD(step_size=0.005), num_samples=300
    )
    mu = found.draws()["mu"]
    np.testing.assert_allclose(mu.mean(), y.mean(), atol=0.02)
    wide = mu.std() * np.sqrt(500)
    assert 0.9 < wide < 1.6  # noise of the gradient widens, by 1 + ε N/B V/2


def test_what_is_not_finite_is_replaced_and_counted(good):
    """A density that is not defined beyond 2: the chain stays, and says so."""
    holed = vi.target(
        lambda x: jnp.sum(-0.5 * x**2 + x * jnp.where(x < 2, 0, jnp.nan)), jnp.zeros(1)
    )
    start = vi.fit(vi.target(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(1)), key=KEY)
    start = dataclasses.replace(start, target=holed)
    found = run(holed, start, samplers.SGLD(step_size=0.5, num_steps=10))
    assert np.isfinite(found.transitions.z).all()
    assert found.convergence.divergences > 0
    assert found.verdict.grade in ("fair", "poor")


def test_settings_do_not_compile_again():
    traces = []

    def counted(x):
        traces.append(x)
        return -0.5 * jnp.sum(x**2)

    unit = vi.target(counted, jnp.zeros(3))
    start = vi.fit(unit, key=KEY)
    short = {"num_samples": 10, "num_warmup": 50}
    run(unit, start, samplers.HMC(num_steps=4), **short)
    before = len(traces)
    run(unit, start, samplers.HMC(num_steps=5), **short)
    assert len(traces) == before
    run(unit, start, samplers.Independence(), **short)
    assert len(traces) > before


def test_what_is_no_algorithm_is_refused(target):
    with pytest.raises(TypeError, match=r"samplers.HMC\(\)"):
        samplers.mcmc(target, key=KEY, algorithm="hmc")


def test_one_chain_is_judged_by_its_halves():
    """Fair at best; and a chain that wanders off is poor."""
    x = np.random.default_rng(0).normal(size=(1, 1000))
    rhat, bulk, tail = rhat_and_ess(x)
    assert 0.99 < rhat < 1.02
    assert min(bulk, tail) > 500
    assert rhat_and_ess(x + np.linspace(0, 3, 1000))[0] > 1.2
    found = Convergence(rhat, bulk, tail, "x", 0, 1000, 1.0, 0.8, 0.0)
    assert judge(found, 1, vi.Status.CONVERGED, []).grade == "fair"
    assert judge(found, 4, vi.Status.CONVERGED, []).grade == "good"
