"""Objectives as programs: exact gradients, estimators, and NumPyro's own losses beside them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoIAFNormal, AutoMultivariateNormal, AutoNormal

import vi
from tests import models
from tests.stats import assert_mean


@vi.objective
def iwelbo(p, q, *, num_particles):
    z = q.sample(num_particles)
    return jax.nn.logsumexp(p.log_density(z) - q.log_density(z)) - jnp.log(num_particles)


def conjugate(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    numpyro.sample("y", dist.Normal(mu, 1.0).expand(y.shape).to_event(1), obs=y)


Y = np.array([1.2, 0.7, 2.1])
PRECISION = 1 / 4 + 3
POSTERIOR = dist.Normal(Y.sum() / PRECISION, PRECISION**-0.5)
EVIDENCE = float(
    dist.MultivariateNormal(jnp.zeros(3), covariance_matrix=4.0 + jnp.eye(3)).log_prob(Y)
)


def exact_family():
    loc, scale = jnp.array([POSTERIOR.loc]), POSTERIOR.scale
    return vi.full_rank(1, loc=loc, scale=float(scale))


def test_elbo_is_the_evidence_at_the_posterior(x64):
    target = vi.target(conjugate, Y)
    for estimator in (vi.Pathwise(), vi.StickingTheLanding()):
        objective = vi.elbo(num_particles=3, estimator=estimator)
        assert np.isclose(objective.value(jax.random.key(0), exact_family(), target), EVIDENCE)
    for estimator in (vi.Pathwise(), vi.DoublyReparameterized(), vi.Score()):
        bound = iwelbo(num_particles=3, estimator=estimator)
        assert np.isclose(bound.value(jax.random.key(0), exact_family(), target), EVIDENCE)


def test_sticking_the_landing_has_no_noise_at_the_posterior_and_pathwise_has(x64):
    target = vi.target(conjugate, Y)
    for estimator, noisy in ((vi.StickingTheLanding(), False), (vi.Pathwise(), True)):
        _, grads = vi.elbo(estimator=estimator)(jax.random.key(1), exact_family(), target)
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads))
        assert (largest > 0.1) if noisy else (largest < 1e-12)


@pytest.fixture(scope="module")
def elbo_gradients():
    """Gradients of both estimators at q away from the posterior, and the closed form."""
    with jax.enable_x64(True):
        target, q = vi.target(conjugate, Y), vi.full_rank(1, loc=jnp.array([0.3]), scale=0.8)
        keys = jax.random.split(jax.random.key(0), 20_000)
        found = {}
        for estimator in (vi.Pathwise(), vi.StickingTheLanding()):
            objective = vi.elbo(estimator=estimator)
            found[type(estimator).__name__] = jax.jit(
                jax.vmap(lambda k, o=objective: o(k, q, target)[1])
            )(keys)

        def loss(q):  # minus KL to the posterior, up to the evidence
            s = q.scale.tril[0, 0]
            return 0.5 * PRECISION * (s**2 + (q.loc[0] - POSTERIOR.loc) ** 2) - jnp.log(s)

        return jax.tree.map(np.asarray, (found, jax.grad(loss)(q)))


@pytest.mark.parametrize("name", ["Pathwise", "StickingTheLanding"])
def test_gradients_are_unbiased(elbo_gradients, name):
    """False alarms: 2e-6. Detects a bias of 0.05 standard deviations of one estimate."""
    found, exact = elbo_gradients
    assert_mean(found[name].loc, exact.loc)
    assert_mean(found[name].scale.raw, exact.scale.raw)


def test_twin_without_the_density_of_q_fails(elbo_gradients):
    """Maximising E_q log p alone, as if the entropy did not matter."""
    found, exact = elbo_gradients
    with pytest.raises(AssertionError):
        assert_mean(found["Pathwise"].scale.raw + 1 / 0.8, exact.scale.raw)


def test_mixtures_use_expect(x64):
    target = vi.target(models.bimodal, jnp.zeros(2))
    q = vi.mixture([vi.full_rank(2, loc=jnp.full(2, m)) for m in (-3.0, 3.0)])
    assert np.isclose(vi.elbo(num_particles=4).value(jax.random.key(0), q, target), 0, atol=1e-12)
    with pytest.raises(TypeError, match=r"Write the objective with q\.expect"):
        iwelbo(num_particles=4).value(jax.random.key(0), q, target)


def test_objectives_are_values():
    a, b = vi.elbo(num_particles=3), vi.elbo(num_particles=3)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert jax.tree.structure(a) != jax.tree.structure(vi.elbo(num_particles=4))
    changed = dataclasses.replace(a, estimator=vi.StickingTheLanding())
    assert "StickingTheLanding" in repr(changed)


# ---- as NumPyro's loss -------------------------------------------------------------------------


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "guide",
    [
        AutoNormal,
        pytest.param(AutoMultivariateNormal, marks=SLOW),
        pytest.param(AutoIAFNormal, marks=SLOW),
    ],
)
def test_loss_agrees_with_numpyros(guide, x64):
    """Same guide, same parameters: means of 4000 particles, within 7 standard errors."""
    model, args = models.logistic, models.logistic_data()
    fitted = guide(model)
    svi = SVI(model, fitted, optax.adam(0.01), Trace_ELBO())
    state = svi.init(jax.random.key(0), *args)
    params = svi.get_params(state)
    theirs, ours = (
        np.array(
            [
                loss.loss(key, params, model, fitted, *args)
                for key in jax.random.split(jax.random.key(seed), 2)
            ]
        )
        for seed, loss in ((1, Trace_ELBO(2000)), (2, vi.elbo(num_particles=2000)))
    )
    spread = np.std([vi.elbo().loss(k, params, model, fitted, *args) for k in keys(40)])
    assert abs(theirs.mean() - ours.mean()) < 7 * spread * np.sqrt(2 / 4000)


def keys(count):
    return jax.random.split(jax.random.key(3), count)


def test_guides_stick_the_landing_too(x64):
    guide = AutoNormal(conjugate)
    svi = SVI(conjugate, guide, optax.adam(0.1), vi.elbo(estimator=vi.StickingTheLanding()))
    svi.init(jax.random.key(0), Y)
    params = {"mu_auto_loc": POSTERIOR.loc, "mu_auto_scale": POSTERIOR.scale}
    objective = vi.elbo(estimator=vi.StickingTheLanding())
    gradient = jax.grad(lambda p: objective.loss(jax.random.key(1), p, conjugate, guide, Y))(params)
    assert max(abs(float(g)) for g in gradient.values()) < 1e-12
    gradient = jax.grad(lambda p: vi.elbo().loss(jax.random.key(1), p, conjugate, guide, Y))(params)
    assert max(abs(float(g)) for g in gradient.values()) > 1e-3


@pytest.mark.slow
def test_subsampled_guides_share_rows_with_the_model():
    """Local latents: guide and model must see the same rows, or the densities do not match."""

    def model(y):
        with numpyro.plate("rows", 6, subsample_size=2) as rows:
            local = numpyro.sample("local", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(local, 1.0), obs=y[rows])

    def guide(y):
        loc = numpyro.param("loc", jnp.zeros(6))
        with numpyro.plate("rows", 6, subsample_size=2) as rows:
            numpyro.sample("local", dist.Normal(loc[rows], 0.5**0.5))

    y = jnp.arange(6.0)
    svi = vi.SVI(model, guide, optax.adam(0.02), vi.elbo(num_particles=4))
    result = svi.run(jax.random.key(0), 1500, y, progress_bar=False)
    assert np.allclose(result.params["loc"], y / 2, atol=0.3)


def test_guides_without_pathwise_gradients_are_refused():
    def model():
        numpyro.sample("k", dist.Poisson(3.0))

    def guide():
        numpyro.sample("k", dist.Poisson(numpyro.param("rate", 2.0)))

    with pytest.raises(vi.TargetError, match=r"guide site 'k' \(Poisson\).*TraceGraph_ELBO"):
        vi.elbo(estimator=vi.Pathwise()).loss(jax.random.key(0), {"rate": 2.0}, model, guide)
    with pytest.raises(vi.TargetError, match=r"none for \['k'\]"):
        vi.elbo().loss(jax.random.key(0), {}, model, lambda: None)
    with pytest.raises(vi.TargetError, match=r"no numpyro\.mutable sites"):
        vi.elbo().loss_with_mutable_state(jax.random.key(0), {}, model, guide)


@pytest.mark.parametrize("kind", ["vmap", "scan", "jit", "grad"])
def test_programs_that_hide_their_effects_are_refused(kind):
    """Replayed, such a call would give constants: repeated draws, or derivatives that are zero."""

    @vi.objective
    def program(p, q):
        one = lambda _: jnp.mean(p.log_density(q.sample(2)))
        if kind == "vmap":
            return jax.vmap(one)(jnp.arange(3)).mean()
        if kind == "scan":
            return jax.lax.scan(lambda c, x: (c, one(x)), 0.0, jnp.arange(3))[1].mean()
        if kind == "jit":
            return jax.jit(one)(0)
        z = q.sample(2)
        return jnp.sum(jax.grad(lambda z: p.log_density(z).sum())(z) ** 2)

    target = vi.target(models.bimodal, jnp.zeros(2))
    with pytest.raises(vi.TargetError, match="outside of JAX transformations"):
        program().value(jax.random.key(0), vi.mean_field(2), target)
