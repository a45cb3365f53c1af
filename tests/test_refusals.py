"""What programs are refused, each before anything is computed, and what takes its place."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi
from tests.gradients import attempt, compare, gradients
from vi.program import with_estimator

Q = vi.mean_field(2)
TARGET = vi.target(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
DOUBLY = vi.DoublyReparameterized()


def trace(objective):
    return jax.eval_shape(lambda key: objective(key, Q, TARGET), jax.random.key(0))


@vi.objective
def vector(p, q):
    z = q.sample(3)
    return p.log_density(z) - q.log_density(z)


@vi.objective
def nothing(p, q):
    q.sample(3)


@vi.objective
def column(p, q):
    return q.expect(lambda z: z[:, :1], 3)


@vi.objective
def law(p, q):
    return jnp.mean(q.log_prob(q.sample(3)))


@vi.objective
def misspelt(p, q):
    return jnp.mean(q.log_density(q.sample(3), through="draw"))


@pytest.mark.parametrize(
    ("objective", "kind", "says"),
    [
        (vector(), vi.TargetError, r"returns a scalar; got shape \(3,\).*jnp.mean"),
        (nothing(), vi.TargetError, "returns a scalar; got None"),
        (column(), vi.TargetError, r"one value for each draw, of shape \(3,\).*\(3, 1\)"),
        (law(), AttributeError, r"has no 'log_prob'; it has log_density\(z\)"),
        (misspelt(), ValueError, "expected through out of"),
        (vi.elbo(num_particles=2.5), TypeError, "integer number of particles"),
        (vi.forward_kl(num_particles=2, estimator=DOUBLY), vi.TargetError, "leaves its gradient"),
        (
            vi.reweighted_wake_sleep(num_particles=2, reparameterized=True, estimator=DOUBLY),
            vi.TargetError,
            "leaves its gradient to the estimator",
        ),
        (
            vi.piwae(num_bounds=2, num_particles=1, estimator=DOUBLY),
            vi.TargetError,
            "says itself what its densities are differentiated",
        ),
        (
            vi.piwae(num_bounds=2, num_particles=1, estimator=vi.Score()),
            vi.TargetError,
            "expected reparameterised sites only",
        ),
        (
            vi.forward_kl(num_particles=2, reparameterized=True, estimator=vi.Score()),
            vi.TargetError,
            "expected reparameterised sites only",
        ),
    ],
)
def test_programs(objective, kind, says):
    with pytest.raises(kind, match=says):
        trace(objective)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: vi.elbo(num_particle=2), r"expected options out of \['num_particles'"),
        (lambda: vi.iwae(), "missing a required argument: 'num_particles'"),
        (lambda: vi.elbo(estimator=vi.Score), r"an instance such as vi.Score\(\)"),
        (lambda: vi.elbo(estimator={"z": "enumerate"}), "got 'enumerate'"),
    ],
)
def test_calls_of_objectives(make, says):
    with pytest.raises(TypeError, match=says):
        make()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: vi.ciwae(num_particles=2, beta=1.5), r"ciwae: expected beta in \[0, 1\]; got 1.5"),
        (lambda: vi.ciwae(num_particles=2, beta=jnp.array(-0.1)), "expected beta in"),
        (lambda: vi.tempered_elbo(temperature=0.0), "expected temperature > 0"),
        (lambda: vi.chi_square(num_particles=2, order=0.5), "expected order >= 1"),
        (lambda: vi.renyi(num_particles=2, alpha=jnp.array(1.0)), "expected alpha other than 1"),
        (lambda: vi.data_emphasised_elbo(emphasis="much"), "expected emphasis >= 0; got 'much'"),
        (lambda: vi.functional_elbo(beta=-1.0), "expected beta >= 0"),
        (lambda: vi.elbo(analytic="all"), "expected analytic in"),
        (lambda: vi.info_vae(site="z", kernel_name="box"), "expected kernel_name 'rbf' or 'imq'"),
        (lambda: vi.info_vae(site="z", alpha=2.0), "expected alpha <= 1"),
        (lambda: vi.elbo(estimator=vi.Score(baseline="runing")), "expected baseline out of"),
        (lambda: vi.elbo(estimator=vi.AcceptReject(augment=0)), "expected augment >= 1"),
        (lambda: vi.elbo(estimator={"z": vi.AcceptReject(augment=1.5)}), "an integer; got 1.5"),
        (lambda: vi.elbo(estimator=vi.Relaxed(temperature=0.0)), "expected temperature > 0"),
        (lambda: vi.elbo(estimator=vi.RunningScore(decay=1.0)), r"expected decay in \[0, 1\)"),
        (lambda: vi.elbo(estimator=vi.Implicit(cdf=0.5)), "expected cdf a function"),
        (lambda: vi.elbo(estimator=vi.AcceptReject(transform=abs)), "expected transform a pair"),
        (lambda: vi.marginal(coin, auxiliary=["u"], proposal=coin, num_particles=0.5), "integer"),
        (lambda: vi.normalize(coin, proposal=coin, num_particles=0), "num_particles >= 1"),
    ],
)
def test_ranges(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_ranges_where_they_end():
    """Values at the ends are let through, arrays also inside jit; traced ones are not known."""
    vi.ciwae(num_particles=2, beta=1)
    vi.elbo(estimator=vi.RunningScore(decay=0.0))
    temperature = jnp.array(0.5)
    jax.jit(lambda b: vi.tempered_elbo(temperature=temperature).arrays["temperature"] * b)(2.0)
    jax.jit(lambda b: vi.ciwae(num_particles=2, beta=b).arrays["beta"])(2.0)


@vi.objective(requires={"power": ("odd", lambda x: x % 2 == 1)})
def powers(p, q, *, power):
    return q.expect(lambda z: p.log_density(z) ** power, 2)


def test_ranges_of_users():
    powers(power=3)
    with pytest.raises(ValueError, match="powers: expected power odd; got 2"):
        powers(power=2)


def coin():
    numpyro.sample(
        "z", dist.Bernoulli(logits=numpyro.param("a", 0.3)), infer={"estimator": vi.Score}
    )


def test_a_class_is_no_estimator():
    with pytest.raises(vi.TargetError, match="give an instance"):
        vi.elbo(num_particles=2).loss(jax.random.key(0), {"a": jnp.array(0.3)}, coin, coin)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (vi.Score(baseline="runing"), "site 'z': Score: expected baseline out of"),
        (vi.Relaxed(temperature=-1.0), "site 'z': Relaxed: expected temperature > 0"),
    ],
)
def test_ranges_of_what_a_site_asks_for(how, says):
    """In its infer, and in an objective whose estimator was replaced."""

    def asks():
        numpyro.sample("z", dist.Bernoulli(0.3), infer={"estimator": how})

    plain = lambda: numpyro.sample("z", dist.Bernoulli(0.3))
    for guide, objective in (
        (asks, vi.elbo(num_particles=2)),
        (plain, with_estimator(vi.elbo(num_particles=2), how)),
    ):
        with pytest.raises(ValueError, match=says):
            objective.plan(plain, guide)
    with pytest.raises(ValueError, match=r"elbo: .*: expected"):
        trace(with_estimator(vi.elbo(num_particles=2), how))


def test_a_site_whose_value_is_given_is_not_drawn():
    """Its score, of mean zero over draws alone, would be taken at a constant."""
    given = numpyro.handlers.substitute(coin, data={"z": 1})
    with pytest.raises(vi.TargetError, match=r"the value of guide site 'z' is given.*dist.Delta"):
        attempt(vi.elbo(num_particles=2, estimator=vi.Score()), {"a": jnp.array(0.3)}, coin, given)


def test_a_parameter_of_the_name_of_a_plate():
    """NumPyro substitutes values by name: the parameters would be the rows that are taken."""

    def named():
        numpyro.param("rows", jnp.zeros(3))
        with numpyro.plate("rows", 3):
            numpyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(vi.TargetError, match=r"names of parameters and plates.*'rows' is both"):
        attempt(vi.elbo(), {"rows": jnp.zeros(3)}, named, named)


def rows(x, law):
    """Three rows, the last of which a mask takes out of the density, but not out of the cost."""
    a = numpyro.param("a", 0.3)
    with numpyro.plate("rows", 3), numpyro.handlers.mask(mask=jnp.array([True, True, False])):
        numpyro.sample("z", law(a + 0 * x))


def costs(x, law):
    with numpyro.plate("rows", 3):
        with numpyro.handlers.mask(mask=jnp.array([True, True, False])):
            z = numpyro.sample("z", law(0.0 * x))
        numpyro.factor("f", 2.0 * z)


@pytest.mark.slow
def test_what_a_mask_takes_out_is_drawn_all_the_same(x64):
    """Bernoulli rows: E f = 2 σ(a) each, and the divergence of the two that are left."""
    law = lambda logits: dist.Bernoulli(logits=logits)

    def exact(p):
        on = jax.nn.sigmoid(p["a"])
        divergence = on * jnp.log(2 * on) + (1 - on) * jnp.log(2 * (1 - on))
        return 6 * on - 2 * divergence

    objective = vi.elbo(num_particles=2, estimator=vi.Score())
    found = gradients(objective, {"a": jnp.array(0.3)}, costs, rows, jnp.zeros(3), law)
    compare(found, exact, {"a": jnp.array(0.3)})


@pytest.mark.slow
def test_acceptance_rejection_sums_over_events(x64):
    """Three rows of two coordinates; the gradient of the mean, 2 + a for each, is known."""

    def pairs(x):
        a = numpyro.param("a", 0.3)
        with numpyro.plate("rows", 3):
            numpyro.sample("z", dist.Gamma((2 + a) * jnp.ones((3, 2)), 1.0).to_event(1))

    def sums(x):
        base = dist.ImproperUniform(dist.constraints.positive, (), (2,))
        with numpyro.plate("rows", 3):
            z = numpyro.sample("z", base)
            numpyro.factor("f", jnp.arange(3.0) * z.sum(-1))

    def exact(p):
        return 2 * 3 * (2 + p["a"]) + 6 * dist.Gamma(2 + p["a"], 1.0).entropy()

    objective = vi.elbo(num_particles=2, estimator=vi.AcceptReject())
    found = gradients(objective, {"a": jnp.array(0.3)}, sums, pairs, jnp.zeros(3))
    compare(found, exact, {"a": jnp.array(0.3)})


@pytest.mark.slow
def test_gammas_of_small_shape_stay_inside_the_support():
    """Their draws underflow in 32 bits; at zero log density and gradient are not finite."""

    def small(shape):
        shape = numpyro.param("shape", shape)
        numpyro.sample("gamma", dist.Gamma(shape, 1.25))
        numpyro.sample("beta", dist.Beta(shape, shape))
        numpyro.sample("dirichlet", dist.Dirichlet(shape * jnp.ones(3)))

    def gradient(key):
        loss = vi.elbo(num_particles=2, estimator=vi.AcceptReject()).loss
        return jax.grad(lambda p: loss(key, p, small, small, 0.02))({"shape": jnp.array(0.02)})

    found = jax.jit(jax.vmap(gradient))(jax.random.split(jax.random.key(0), 1000))
    assert np.isfinite(found["shape"]).all()


def model(x):
    numpyro.sample("scale", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    numpyro.sample("scale", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("z", dist.Normal(numpyro.param("a", 0.2) * x, 0.7))


@pytest.mark.slow
def test_a_penalty_on_a_batch_needs_all_sites_in_its_plate():
    with pytest.raises(vi.TargetError, match="all random sites in one plate"):
        vi.info_vae(site="z").loss(
            jax.random.key(0), {"a": jnp.array(0.2)}, model, guide, jnp.ones(3)
        )


def test_sites_that_a_batch_penalty_cannot_be_of():
    run = lambda site, *pair: attempt(
        vi.info_vae(site=site), {"a": jnp.array(0.2)}, *pair, jnp.ones(3)
    )
    with pytest.raises(vi.TargetError, match=r"out of \['scale', 'z'\]; got 'w'"):
        run("w", model, guide)
    with pytest.raises(vi.TargetError, match=r"local latent site.*'scale' is one for all"):
        run("scale", model, guide)


@vi.objective
def split_iwae(p, q):
    """`vi.iwae` of two particles, its model's density in two parts."""
    z = q.sample(2)
    log_p = p.log_prior(z) + p.log_likelihood(z)
    return jax.nn.logsumexp(log_p - q.log_density(z)) - jnp.log(2.0)


def one(x):
    z = numpyro.sample("z", dist.Normal(numpyro.param("m", 0.3), 1.0))
    numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


def one_guide(x):
    numpyro.sample("z", dist.Normal(numpyro.param("a", 0.2) + 0 * x, 0.7))


@pytest.mark.slow
def test_a_moved_prior_counts_once_however_the_density_is_taken_apart():
    """Equal to the whole density's gradient, key by key; the prior counted twice is not."""
    params = {"a": jnp.array(0.2), "m": jnp.array(0.3)}
    estimator = vi.DoublyReparameterized(model=True)

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(program):
        loss = program(estimator=estimator).loss
        of = lambda key: jax.grad(lambda p: loss(key, p, one, one_guide, jnp.array(1.0)))(params)
        return jax.vmap(of)(jax.random.split(jax.random.key(0), 5))

    whole = functools.partial(vi.iwae, num_particles=2)
    for name in params:
        assert np.allclose(gradient(split_iwae)[name], gradient(whole)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", [vi.Pathwise(), vi.StickingTheLanding()])
def test_sleep_is_differentiated_through_its_parameters(estimator, x64):
    """Dreams are data: what omits the score of q would omit all. Closed form by moments."""
    objective = vi.sleep(arguments={"x": "x"}, num_particles=2, estimator=estimator)
    x = jnp.zeros(3)

    def exact(p):  # z ~ N(0, 1), x | z ~ N(z, 1), q = N(a x, 0.7²): E (z - a x)² = 1 - 2a + 2a²
        spread = 1 - 2 * p["a"] + 2 * p["a"] ** 2
        return 3 * (-0.5 * jnp.log(2 * jnp.pi * 0.49) - 0.5 * spread / 0.49)

    def dreamer(x):
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def reader(x):
        a = numpyro.param("a", 0.2)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("z", dist.Normal(a * x, 0.7))

    found = gradients(objective, {"a": jnp.array(0.2)}, dreamer, reader, x)
    compare(found, exact, {"a": jnp.array(0.2)})
