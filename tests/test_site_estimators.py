"""Estimators of sites one by one: identities, closed forms, and what they are worth.

False alarms: 1e-6 for each comparison; a bias of 0.08 standard deviations of one estimate is
detected. The table of objectives and sites is in `test_matrix`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import numpyro.infer
import optax
import pytest
from scipy import special

import vi
from tests import contracts
from tests.gradients import attempt, compare, gradients
from tests.matrix import ESTIMATORS as SITES
from tests.stats import assert_mean
from vi.compile import quick_jit

KEY = jax.random.key(0)


@vi.objective
def mean_of(p, q, *, f, num_particles=2):
    return q.expect(f, num_particles)


def only(law, names=("a",)):
    """A guide of one site, which is its own model."""

    def guide():
        numpyro.sample("z", law(*(numpyro.param(name, 0.5) for name in names)))

    return guide


# ---- gammas, and acceptance-rejection ----------------------------------------------------------


def by_gamma(a, b):
    return dist.Gamma(a, b)


LOG_NORMAL_MAP = (
    lambda d, e: d.concentration / d.rate * jnp.exp(e / jnp.sqrt(d.concentration)),
    lambda d, z: jnp.sqrt(d.concentration) * jnp.log(z * d.rate / d.concentration),
)


@pytest.mark.parametrize(
    "estimator",
    [vi.MeasureValued(), vi.AcceptReject(transform=LOG_NORMAL_MAP)],
    ids=["measure", "transform"],
)
def test_gammas_against_polygamma(estimator, x64):
    """E (log z, z) of a gamma, by its shape and its rate. Twin: the score term left out."""
    guide = only(by_gamma, ("a", "b"))
    objective = mean_of(f=lambda z: jnp.log(z["z"]) + z["z"], estimator=estimator)
    at = {"a": jnp.array(0.7), "b": jnp.array(1.6)}
    _, grads = gradients(objective, at, guide, guide)
    assert_mean(grads["a"], special.polygamma(1, 0.7) + 1 / 1.6)
    assert_mean(grads["b"], -1 / 1.6 - 0.7 / 1.6**2)
    with pytest.raises(AssertionError):
        assert_mean(grads["a"], special.polygamma(1, 1.7) + 1 / 1.6)  # as if one power were missed


# ---- implicit reparameterisation ---------------------------------------------------------------


def test_a_cdf_that_is_given(x64):
    """Exponential laws, whose implicit path is the explicit one, draw by draw."""
    law = lambda a: dist.Exponential(a)
    given = vi.Implicit(cdf=lambda d, z: -jnp.expm1(-d.rate * z))
    for estimator in (given, vi.Implicit()):
        objective = mean_of(f=lambda z: z["z"] ** 2, num_particles=1, estimator=estimator)
        caught = lambda p, o=objective: -o.loss(KEY, p, only(law), only(law))
        value, grad = jax.jit(jax.value_and_grad(caught))({"a": jnp.array(0.5)})
        assert np.isclose(grad["a"], -2 * value / 0.5)  # z² = (ε / a)²
    with pytest.raises(vi.TargetError, match=r"'z' \(Dirichlet\).*got Implicit"):
        mean_of(f=lambda z: z["z"][:, 0], estimator=given).loss(
            KEY, {}, *2 * (only(lambda a: dist.Dirichlet(a * jnp.ones(3))),)
        )


# ---- relaxations -------------------------------------------------------------------------------


def one_hot(a):
    return dist.Multinomial(1, logits=jnp.stack([a, -0.4]), total_count_max=1)


@pytest.mark.parametrize("straight_through", [False, True])
def test_relaxations_are_what_they_say(straight_through, x64):
    """Two categories: a binary concrete variable, by quadrature over its logistic noise.

    Twin: the exact gradient, which a relaxation does not have.
    """
    tau, c = 0.7, jnp.array([2.0, -1.0])
    how = vi.Relaxed(temperature=tau, straight_through=straight_through)
    objective = mean_of(f=lambda z: z["z"] @ c, num_particles=1, estimator=how)
    at = {"a": jnp.array(0.3)}
    value, grads = gradients(objective, at, only(one_hot), only(one_hot))
    u, w = np.polynomial.legendre.leggauss(200)
    u, w = 0.5 * (u + 1), 0.5 * w

    def relaxed(a):
        soft = jax.nn.sigmoid((a + 0.4 + jnp.log(u) - jnp.log1p(-u)) / tau)
        return jnp.sum(w * (soft * c[0] + (1 - soft) * c[1]))

    hard = lambda a: c[1] + (c[0] - c[1]) * jax.nn.sigmoid(a + 0.4)
    assert_mean(value, hard(0.3) if straight_through else relaxed(0.3))
    assert_mean(grads["a"], jax.grad(relaxed)(0.3))
    with pytest.raises(AssertionError):
        assert_mean(grads["a"], jax.grad(hard)(0.3))


def test_plans_say_what_is_biased():
    plan = vi.elbo(estimator=vi.Relaxed()).plan(only(one_hot), only(one_hot))
    assert "Relaxed(temperature=0.5, straight_through=True) (biased)" in plan
    several = only(lambda a: dist.Multinomial(3, logits=jnp.stack([a, -0.4])))
    with pytest.raises(vi.TargetError, match=r"\(MultinomialLogits\).*got Relaxed"):
        vi.elbo(estimator=vi.Relaxed()).plan(several, several)


# ---- double reparameterisation of the model ----------------------------------------------------


def hierarchy():
    t, v = numpyro.param("t", 0.2), numpyro.param("v", 0.8)
    x = numpyro.sample("x", dist.Normal(t, v))
    z = numpyro.sample("z", dist.Logistic(t * x, 0.5 * v))
    numpyro.sample("y", dist.Normal(z + t, 1.0), obs=1.0)


def hierarchy_guide():
    a, s = numpyro.param("a", 0.3), numpyro.param("s", 0.7)
    x = numpyro.sample("x", dist.Normal(a, s))
    numpyro.sample("z", dist.Normal(0.5 * x + a, 0.9))


def hierarchy_exact(p):
    e, w = np.polynomial.hermite_e.hermegauss(24)
    x, z, w = e[:, None], e[None], np.outer(w, w) / w.sum() ** 2
    x = p["a"] + p["s"] * x
    z = 0.5 * x + p["a"] + 0.9 * z
    log_p = dist.Normal(p["t"], p["v"]).log_prob(x)
    log_p += dist.Logistic(p["t"] * x, 0.5 * p["v"]).log_prob(z)
    log_p += dist.Normal(z + p["t"], 1.0).log_prob(1.0)
    log_q = dist.Normal(p["a"], p["s"]).log_prob(x)
    log_q += dist.Normal(0.5 * x + p["a"], 0.9).log_prob(z)
    return jnp.sum(w * (log_p - log_q))


def one_level():
    t, v = numpyro.param("t", 0.2), numpyro.param("v", 0.8)
    z = numpyro.sample("z", dist.Normal(t, v))
    numpyro.sample("y", dist.Normal(z + t, 1.0), obs=1.0)


def one_level_guide():
    numpyro.sample("z", dist.Normal(numpyro.param("a", 0.3), numpyro.param("s", 0.7)))


def pairs_exact(p):
    e, w = np.polynomial.hermite_e.hermegauss(40)
    z, w = p["a"] + p["s"] * e, w / w.sum()
    log_w = dist.Normal(p["t"], p["v"]).log_prob(z) - dist.Normal(p["a"], p["s"]).log_prob(z)
    log_w += dist.Normal(z + p["t"], 1.0).log_prob(1.0)
    return w @ (jnp.logaddexp(log_w[:, None], log_w) - jnp.log(2.0)) @ w


AT = {"t": 0.2, "v": 0.8, "a": 0.3, "s": 0.7}


@pytest.mark.parametrize(
    ("objective", "model", "guide", "exact"),
    [
        pytest.param(vi.elbo, hierarchy, hierarchy_guide, hierarchy_exact, id="elbo"),
        pytest.param(vi.iwae, one_level, one_level_guide, pairs_exact, id="iwae"),
    ],
)
def test_scores_of_the_model_become_paths(objective, model, guide, exact, x64):
    """Of priors that are learnt: unbiased, and not the ordinary gradient. Twin: another point."""
    at = jax.tree.map(jnp.array, AT)
    how = vi.DoublyReparameterized(model=True)
    found = gradients(objective(num_particles=2, estimator=how), at, model, guide)
    compare(found, exact, at)
    with pytest.raises(AssertionError):
        compare(found, lambda p: exact({**p, "v": p["v"] + 0.1 * jnp.sin(p["t"])}), at)


@pytest.mark.slow
def test_paths_of_the_model_have_less_noise():
    """With 64 particles near the posterior: the variance in the prior's location at most half."""
    at = {"t": jnp.array(0.2), "v": jnp.array(0.8), "a": jnp.array(0.5), "s": jnp.array(0.6)}
    noise = {
        how.model: vi.gradient_noise(
            vi.iwae(num_particles=64, estimator=how), KEY, at, one_level, one_level_guide
        )
        for how in (vi.DoublyReparameterized(), vi.DoublyReparameterized(model=True))
    }
    assert noise[True].groups["v"].variance < 0.5 * noise[False].groups["v"].variance


def test_where_the_model_has_no_paths():
    guide = only(lambda a: dist.Gamma(2.0, a))
    model = only(lambda a: dist.ImproperUniform(dist.constraints.positive, (), ()))
    how = vi.DoublyReparameterized(model=True)
    with pytest.raises(vi.TargetError, match=r"scalar with a cdf.*DoublyReparameterized\(\)"):
        attempt(vi.elbo(estimator=how), {}, model, guide)
    target = vi.target(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    with pytest.raises(vi.TargetError, match="a target has none"):
        vi.elbo(estimator=how)(KEY, vi.mean_field(2), target)


# ---- running baselines -------------------------------------------------------------------------


def far(x):
    return 50 - 0.5 * jnp.sum((x - 1) ** 2)


@pytest.mark.slow
def test_running_baselines_take_the_noise_out():
    """One particle of an objective far from zero; and the mean is the one stated."""
    target, q = vi.target(far, jnp.zeros(3)), vi.mean_field(3)
    running = vi.elbo(estimator=vi.RunningScore(decay=0.5))
    for value in (40.0, 50.0):
        running = running.update(jnp.array(value))
    assert np.isclose(running.estimator.mean, (0.5 * 40 + 50) / 1.5)
    assert np.isclose(running.update(jnp.array(jnp.nan)).estimator.mean, running.estimator.mean)
    plain = vi.gradient_noise(vi.elbo(estimator=vi.Score(baseline="none")), KEY, q, target)
    assert vi.gradient_noise(running, KEY, q, target).variance < 0.05 * plain.variance


@pytest.mark.slow
def test_fits_and_svi_carry_running_baselines(tmp_path):
    """The loops do what a loop by hand does, step by step, also after an interruption."""
    target, objective = vi.target(far, jnp.zeros(3)), vi.elbo(estimator=vi.RunningScore())
    seen = []
    options = {"key": KEY, "family": vi.mean_field(3), "optimizer": optax.adam(0.02)}
    posterior = vi.fit(
        target,
        **options,
        objective=objective,
        num_steps=1000,
        callback=lambda step, state, info: seen.append(state.running["*"]) or False,
    )
    assert np.allclose(posterior.q.loc, 1, atol=0.1)
    assert abs(float(seen[-1].mean) - posterior.elbo) < 1
    assert np.isclose(seen[0].weight, (1 - 0.9**100) / 0.1)
    options |= {"objective": objective, "num_steps": 1000, "checkpoint": tmp_path / "fit"}
    vi.fit(target, **options, callback=lambda step, *_: step >= 300, on_failure="return")
    again = vi.fit(target, **options)
    assert np.array_equal(again.q.loc, posterior.q.loc)

    def model():
        numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.factor("up", 50.0)

    def guide():
        numpyro.sample("z", dist.Normal(numpyro.param("m", 0.5), 1.0))

    by_name = vi.elbo(estimator={"z": vi.RunningScore()})
    svi = vi.SVI(model, guide, optax.sgd(0.01), by_name)
    result = svi.run(KEY, 5, progress_bar=False)
    state, losses, mine = svi.init(KEY), [], by_name
    for _ in range(5):
        state, loss = svi.update(state)
        losses.append(loss)
        mine = mine.update(-loss)
    assert np.allclose(losses, result.losses)
    assert np.isclose(
        state.mutable_state["_running"]["z"].mean, mine.estimator["z"].mean, rtol=1e-6
    )
    assert np.isclose(mine.estimator["z"].mean, 50, atol=3)
    assert np.isfinite(svi.evaluate(state))


def test_running_baselines_are_given_from_outside():
    def guide():
        numpyro.sample("z", dist.Poisson(2.0), infer={"estimator": vi.RunningScore()})

    with pytest.raises(vi.TargetError, match=r"'z' has it in its infer"):
        vi.elbo().loss(KEY, {}, guide, guide)


# ---- as losses ---------------------------------------------------------------------------------


def normal_pair():
    numpyro.sample("z", dist.Normal(numpyro.param("a", 0.5), 1.0))


LOSSES = {
    **{n: e.make for n, e in contracts.ESTIMATORS.items() if isinstance(e.make(), vi.Objective)},
    **{f"elbo_{n}": (lambda e=e: vi.elbo(num_particles=2, estimator=e)) for n, e in SITES.items()},
    "iwae_doubly_model": lambda: vi.iwae(
        num_particles=2, estimator=vi.DoublyReparameterized(model=True)
    ),
}


@pytest.mark.parametrize("svi", [vi.SVI, numpyro.infer.SVI])
def test_every_objective_and_estimator_is_a_loss(svi):
    """In both loops: a step is traced, and leaves the state as it was in shape and type."""
    laws = dict.fromkeys(("enumerate", "relaxed"), lambda a: dist.Bernoulli(logits=a))
    laws |= dict.fromkeys(("accept_reject", "augmented"), lambda a: dist.Gamma(2.0, jnp.exp(a)))
    for name, make in LOSSES.items():
        guide = only(laws[name[5:]]) if name[5:] in laws else normal_pair
        loop = svi(guide, guide, optax.adam(0.1), make())
        state = loop.init(KEY)
        after, loss = jax.eval_shape(loop.update, state)
        assert loss.shape == (), name
        like = lambda x: (x.shape, x.dtype)
        before, after = jax.tree.leaves(state), jax.tree.leaves(after)
        assert list(map(like, before)) == list(map(like, after)), name


# ---- families on the flat vector ---------------------------------------------------------------


@pytest.mark.slow
def test_weak_derivatives_of_a_mean_field(x64):
    """Of the ELBO of a Gaussian, in closed form; no gradient of the density is taken."""
    loc, scale = jnp.array([0.2, -0.7]), 0.8
    target = vi.target(lambda x: -jnp.floor(jnp.abs(x)).sum(), jnp.zeros(2))
    q = vi.mean_field(2, loc=loc, scale=scale, positive="exp")

    def exact(q):
        edges = jnp.arange(1.0, 9.0)[:, None]
        tail = lambda x: jax.scipy.stats.norm.cdf(x / q.scale.diagonal)
        return -jnp.sum(tail(q.loc - edges) + tail(-q.loc - edges)) + q.entropy()

    objective = vi.elbo(estimator=vi.MeasureValued())
    one = lambda key: jax.grad(lambda q: objective.value(key, q, target))(q)
    found = quick_jit(jax.vmap(one))(jax.random.split(KEY, 8192))
    expected = jax.grad(exact)(q)
    assert_mean(found.loc, expected.loc)
    assert_mean(found.scale.raw, expected.scale.raw)
    pathwise = jax.jit(jax.grad(lambda q: vi.elbo().value(KEY, q, target)))(q)
    assert np.allclose(pathwise.loc, 0, atol=1e-9)  # the twin: blind to what is piecewise constant


@pytest.mark.parametrize(
    ("family", "estimator", "why"),
    [
        ("full_rank", vi.MeasureValued(), "mean-field Gaussians only"),
        ("delta", vi.Score(), "a point has not"),
        ("mean_field", vi.Enumerate(), "values of discrete sites"),
        ("mean_field", vi.Implicit(), "have one"),
        ("mean_field", vi.AcceptReject(), "have a path"),
        ("mean_field", vi.Relaxed(), "relaxes discrete sites"),
    ],
)
def test_fits_name_what_a_family_does_not_allow(family, estimator, why):
    target = vi.target(far, jnp.zeros(3))
    with pytest.raises(vi.TargetError, match=rf"vi\.fit: .*StickingTheLanding.*{why}"):
        vi.fit(target, key=KEY, family=family, estimator=estimator, num_steps=10)
