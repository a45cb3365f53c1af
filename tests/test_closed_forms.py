"""Closed forms in place of sampled expectations: entropies, divergences, integrands with a rule."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import TraceMeanField_ELBO

import vi
from tests.gradients import compare, gradients
from vi.compile import quick_jit

KEY = jax.random.key(0)
Y = np.array([0.3, 1.2, -0.4])


def equal(a, b, tol=1e-10):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.allclose(x, y, rtol=tol, atol=tol) for x, y in pairs)


# ---- families ----------------------------------------------------------------------------------


@vi.objective
def bayesian_regression(p, q, *, likelihood, prior):
    """Nothing is left to sample."""
    del p
    closed = lambda z: q.exact(vi.LogDensity(prior), z) + q.entropy(z)
    return q.expect(likelihood, 1) + q.expect(closed, 1)


@pytest.mark.parametrize(
    "make", [pytest.param(vi.mean_field, marks=pytest.mark.slow), vi.full_rank]
)
def test_regression_in_closed_form(make, x64):
    """ELBO = log evidence - KL, for any Gaussian q, with no noise."""
    rng = np.random.default_rng(0)
    x, y, s, t = rng.normal(size=(6, 2)), rng.normal(size=6), 0.7, 1.3
    loc = jnp.array([0.4, -0.2])
    q = make(2, loc=loc, scale=0.6)
    prior = vi.mean_field(2, scale=t)
    objective = bayesian_regression(
        likelihood=vi.LinearLogLikelihood(jnp.asarray(x), jnp.asarray(y), jnp.array(s)), prior=prior
    )
    target = vi.target(lambda z: 0.0 * z.sum(), jnp.zeros(2))
    loss, grads = quick_jit(objective)(KEY, q, target)
    precision = x.T @ x / s**2 + np.eye(2) / t**2
    mean = np.linalg.solve(precision, x.T @ y / s**2)
    evidence = dist.MultivariateNormal(jnp.zeros(6), s**2 * jnp.eye(6) + t**2 * x @ x.T).log_prob(y)

    def minus_kl(q):
        spread, off = q.covariance(), q.loc - mean
        quadratic = jnp.trace(precision @ spread) + off @ precision @ off - 2
        return -0.5 * (quadratic - jnp.linalg.slogdet(precision @ spread)[1])

    assert np.isclose(-loss, evidence + minus_kl(q))
    assert equal(grads, jax.tree.map(jnp.negative, jax.grad(minus_kl)(q)))


class ExponentialSum:
    """Σ exp(z), whose mean under a Gaussian is known."""

    def __call__(self, z):
        return jnp.exp(z).sum(-1)


def test_users_register_integrands(x64):
    q = vi.mean_field(2, loc=jnp.array([0.1, -0.3]), scale=0.5)
    target = vi.target(lambda z: 0.0 * z.sum(), jnp.zeros(2))
    program = vi.objective(
        lambda p, q, *, f: q.expect(f, 2) + 0.0 * jnp.mean(p.log_density(q.sample(1)))
    )
    sampled = program(f=ExponentialSum()).value(KEY, q, target)
    vi.register_expectation(vi.Gaussian, ExponentialSum)(
        lambda q, f: jnp.exp(q.loc + 0.5 * q.variance()).sum()
    )
    exact = program(f=ExponentialSum()).value(KEY, q, target)
    assert np.isclose(exact, np.exp(0.1 + 0.125) + np.exp(-0.3 + 0.125))
    assert not np.isclose(exact, sampled)
    mixture = vi.mixture([q, q])  # of which the rule knows nothing
    found = program(f=ExponentialSum(), estimator=vi.Score(baseline="none"))
    assert not np.isclose(found.value(KEY, mixture, target), exact)


# ---- guides ------------------------------------------------------------------------------------


def model(size=None):
    t = numpyro.param("t", 0.3)
    mu = numpyro.sample("mu", dist.Normal(t, 1.5))
    with numpyro.plate("rows", 3, subsample_size=size) as i:
        z = numpyro.sample("z", dist.Normal(mu, 1.0))
        numpyro.sample("y", dist.Normal(z, 0.8), obs=jnp.asarray(Y)[i])


def guide(size=None):
    m, a, s = (numpyro.param(n, x) for n, x in (("m", 0.2), ("a", jnp.zeros(3)), ("s", 0.6)))
    mu = numpyro.sample("mu", dist.Normal(m, 0.7))
    with numpyro.plate("rows", 3, subsample_size=size) as i:
        numpyro.sample("z", dist.Normal(a[i] + 0.5 * mu, s))


def at():
    values = {"t": 0.3, "m": 0.2, "a": [0.1, -0.4, 0.5], "s": 0.6}
    return {name: jnp.array(x) for name, x in values.items()}


def exact(p):
    """ELBO by hand: Gaussians in Gaussians."""
    kl = lambda m, s, m0, s0: jnp.log(s0 / s) + (s**2 + (m - m0) ** 2) / (2 * s0**2) - 0.5
    gap = p["a"] + (0.5 - 1) * p["m"]  # of z's location from mu, in the mean
    local = kl(0.0, p["s"], 0.0, 1.0) + 0.5 * (gap**2 + 0.25 * 0.7**2)
    error = (Y - p["a"] - 0.5 * p["m"]) ** 2 + 0.25 * 0.7**2 + p["s"] ** 2
    likelihood = -0.5 * jnp.log(2 * jnp.pi * 0.8**2) - error / (2 * 0.8**2)
    return jnp.sum(likelihood - local) - kl(p["m"], 0.7, p["t"], 1.5)


SCORED = {"mu": vi.Score(), "z": vi.Pathwise()}


@pytest.mark.parametrize(
    ("analytic", "size", "estimator"),
    [
        ("kl", 2, SCORED),
        pytest.param("entropy", None, SCORED, marks=pytest.mark.slow),
        pytest.param("kl", 2, None, marks=pytest.mark.slow),
    ],
)
def test_guides(analytic, size, estimator, x64):
    """False alarms 1e-6 each; a bias of 0.08 standard deviations is detected."""
    objective = vi.elbo(num_particles=2, analytic=analytic, estimator=estimator)
    compare(gradients(objective, at(), model, guide, size), exact, at())


def test_twin_with_a_divergence_of_the_wrong_sign_fails(x64):
    wrong = vi.objective(lambda p, q: q.expect(lambda z: p.log_likelihood(z) + q.kl(z), 2))
    with pytest.raises(AssertionError):
        compare(gradients(wrong(), at(), model, guide, num=256), exact, at())


def test_agrees_with_numpyros_mean_field_elbo(x64):
    """A normal site with a closed form, and a pair of gamma and log-normal that is sampled."""

    def p():
        x = numpyro.sample("x", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        numpyro.sample("u", dist.LogNormal(0.0, 1.0))
        numpyro.factor("y", -0.5 * jnp.sum((x - 1) ** 2))

    def q():
        m = numpyro.param("m", jnp.array([0.3, -0.2]))
        numpyro.sample("x", dist.Normal(m, 0.7).to_event(1))
        numpyro.sample("u", dist.Gamma(2.0, 3.0))

    params = {"m": jnp.array([0.3, -0.2])}
    mean = lambda loss: quick_jit(lambda key: loss.loss(key, params, p, q))(KEY)
    ours, theirs = mean(vi.elbo(num_particles=4000, analytic="kl")), mean(TraceMeanField_ELBO(4000))
    assert abs(ours - theirs) < 0.2


def test_what_the_model_draws_from_later_sites_is_sampled(x64):
    """The guide draws x before u, the model u given x's child: the closed form would be wrong."""

    def p():
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(u, 1.0))

    def q():
        x = numpyro.sample("x", dist.Normal(numpyro.param("a", 0.4), 0.5))
        numpyro.sample("u", dist.Normal(0.8 * x, 0.6))

    def exact(p):  # E log p - log q, by moments
        second = p["a"] ** 2 + 0.25
        log_p = -jnp.log(2 * jnp.pi) - 0.5 * (0.64 * second + 0.36) - 0.5 * (0.04 * second + 0.36)
        return log_p + jnp.log(2 * jnp.pi * 0.5 * 0.6) + 1

    params = {"a": jnp.array(0.4)}
    objective = vi.elbo(num_particles=2, analytic="kl")
    compare(gradients(objective, params, p, q), exact, params)
    with pytest.raises(vi.TargetError, match="the guide draws after them; 'x' is not"):
        vi.objective(
            lambda p, q: q.expect(lambda z: q.by_site(lambda a, b: a.mean, z, ["x"]), 1)
        )().loss(KEY, params, p, q)


def test_closed_forms_that_cannot_be_had_are_refused():
    target = vi.target(lambda z: -0.5 * jnp.sum(z**2), jnp.zeros(2))
    with pytest.raises(vi.TargetError, match=r"expected a NumPyro model with a guide"):
        vi.elbo(analytic="kl").value(KEY, vi.mean_field(2), target)
    with pytest.raises(ValueError, match=r"analytic in \('entropy', 'kl'\)"):
        vi.elbo(analytic="both").value(KEY, vi.mean_field(2), target)
    doubly = vi.elbo(num_particles=2, analytic="entropy", estimator=vi.DoublyReparameterized())
    with pytest.raises(vi.TargetError, match=r"no closed forms, with DoublyReparameterized"):
        doubly.value(KEY, vi.mean_field(2), target)
    copied = vi.objective(lambda p, q: jnp.mean(q.entropy(1.0 * q.sample(2))))
    with pytest.raises(vi.TargetError, match=r"closed forms at the draws"):
        copied().value(KEY, vi.mean_field(2), target)
