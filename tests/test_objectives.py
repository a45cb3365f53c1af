"""Objectives: exact identities between them, closed forms, and what their gradients are worth."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vi
from tests.gradients import compare, gradients
from tests.stats import assert_mean
from vi.compile import quick_jit
from vi.distances.kernels import kernel, mmd
from vi.random import fast_key
from vi.stochastic import StochasticRun

KEY = jax.random.key(0)
# Of 32 bits: of 64-bit constants JAX remembers the type from one precision to the next.
MEAN = np.array([0.5, -1.0, 0.3], np.float32)


def log_density(x):
    """A Gaussian of unit covariance and log evidence 0.7."""
    return 0.7 + dist.Normal(jnp.asarray(MEAN), 1.0).log_prob(x).sum()


@pytest.fixture(scope="module")
def target():
    with jax.enable_x64(True):
        return vi.target(log_density, jnp.zeros(3))


def family(scale=0.8):
    return vi.mean_field(3, loc=jnp.array([0.2, -0.7, 0.3]), scale=scale)


def equal(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.allclose(x, y, rtol=1e-10, atol=1e-12) for x, y in pairs)


# ---- special cases, on the same draws ----------------------------------------------------------

SAME = {
    "miwae_of_one_particle": (vi.miwae(num_bounds=6, num_particles=1), vi.elbo(num_particles=6)),
    "miwae_of_one_bound": (vi.miwae(num_bounds=1, num_particles=6), vi.iwae(num_particles=6)),
    "ciwae_at_one": (vi.ciwae(num_particles=6, beta=1.0), vi.elbo(num_particles=6)),
    "ciwae_at_zero": (vi.ciwae(num_particles=6, beta=0.0), vi.iwae(num_particles=6)),
    "renyi_of_order_zero": (vi.renyi(num_particles=6, alpha=0.0), vi.iwae(num_particles=6)),
    "untempered": (vi.tempered_elbo(num_particles=6, temperature=1.0), vi.elbo(num_particles=6)),
    "vargrad": (
        vi.log_variance(num_particles=6),
        vi.elbo(num_particles=6, estimator=vi.Score()),
    ),
    "doubly_elbo": (
        vi.elbo(num_particles=6, estimator=vi.DoublyReparameterized()),
        vi.elbo(num_particles=6, estimator=vi.StickingTheLanding()),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_special_cases_coincide(name, target, x64):
    ours, theirs = (objective(KEY, family(), target) for objective in SAME[name])
    assert equal(ours[1], theirs[1])
    assert name == "vargrad" or equal(ours[0], theirs[0])


def test_bounds_are_ordered(target, x64):
    """ELBO <= MIWAE <= IWAE draw by draw; IWAE <= log evidence <= CUBO in the mean."""
    value = lambda objective: quick_jit(jax.vmap(lambda k: objective.value(k, family(), target)))
    keys = jax.random.split(KEY, 2000)
    elbo = value(vi.elbo(num_particles=8))(keys)
    miwae = value(vi.miwae(num_bounds=2, num_particles=4))(keys)
    iwae = value(vi.iwae(num_particles=8))(keys)
    assert np.all(elbo <= miwae + 1e-12)
    assert np.all(miwae <= iwae + 1e-12)
    assert iwae.mean() < 0.7
    covering = dataclasses.replace(vi.chi_square(num_particles=4096))
    assert -covering.value(KEY, family(1.2), target) > 0.7


def test_tempering_and_arrays_do_not_compile_again(target, x64):
    traces = 0

    def run(objective, q):
        nonlocal traces
        traces += 1
        return objective(KEY, q, target)[0]

    jitted = jax.jit(run)
    at = [
        float(jitted(vi.tempered_elbo(temperature=jnp.array(t)), family())) for t in (0.2, 0.6, 1.0)
    ]
    assert traces == 1
    assert np.isclose(at[1], (at[0] + at[2]) / 2)
    assert "temperature" in repr(vi.tempered_elbo(temperature=jnp.array(0.5)))


RAMP = vi.scheduled(lambda t: 0.2 + 0.3 * t)


def test_schedules_follow_the_steps_of_a_fit():
    """Three steps of gradient descent by hand, at inverse temperatures 0.2, 0.5 and 0.8."""
    target = vi.target(log_density, jnp.zeros(3))
    objective = vi.tempered_elbo(num_particles=2, temperature=RAMP)
    run = StochasticRun(target, family(), KEY, objective, optax.sgd(0.1), 3, 2)
    found = run.advance(run.initial())
    q = family()
    for t, beta in enumerate((0.2, 0.5, 0.8)):
        at = vi.tempered_elbo(num_particles=2, temperature=beta)
        _, grads = at(jax.random.fold_in(fast_key(KEY), t), q, target)
        q = jax.tree.map(lambda x, g: x - 0.1 * g, q, grads)
    assert np.allclose(found.q.loc, q.loc, rtol=1e-5)
    assert np.allclose(found.q.scale.raw, q.scale.raw, rtol=1e-5)


def test_schedules_need_a_number_of_steps(target):
    objective = vi.tempered_elbo(num_particles=2, temperature=RAMP)
    with pytest.raises(ValueError, match=r"num_steps with the scheduled options \['temperature'\]"):
        StochasticRun(target, family(), KEY, objective, optax.sgd(0.1), None, 2)
    with pytest.raises(ValueError, match=r"a step for the scheduled options \['temperature'\]"):
        objective.value(KEY, family(), target)
    assert "temperature=Scheduled" in repr(objective)


def test_schedules_follow_the_steps_of_svi(x64):
    objective = vi.data_emphasised_elbo(emphasis=RAMP)
    svi = vi.SVI(model, guide, optax.sgd(0.0), objective)
    found = svi.run(KEY, 3, progress_bar=False)
    state, losses = svi.init(KEY), []
    at = lambda key, e: vi.data_emphasised_elbo(emphasis=e).loss(
        key, svi.get_params(state), model, guide
    )
    by_hand, key = quick_jit(at), state.rng_key
    for emphasis in (0.2, 0.5, 0.8):
        key, step_key = jax.random.split(key)
        losses.append(by_hand(step_key, jnp.array(emphasis)))
    assert np.allclose(found.losses, losses)


# ---- model and guide ---------------------------------------------------------------------------

Y = np.array([0.3, 1.2, -0.4, 2.0, 0.9], np.float32)


def model(size=None):
    t = numpyro.param("t", 0.3)
    with numpyro.plate("rows", 5, subsample_size=size) as i:
        z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        numpyro.sample("y", dist.Normal(z.sum(-1) + t, 1.0), obs=jnp.asarray(Y)[i])


def guide(size=None):
    a, s = numpyro.param("a", 0.2), numpyro.param("s", 0.6)
    with numpyro.plate("rows", 5, subsample_size=size) as i:
        loc = a * jnp.asarray(Y)[i]
        numpyro.sample("z", dist.Normal(loc[:, None], s).expand([len(loc), 2]).to_event(1))


PARAMS = {"t": 0.3, "a": 0.2, "s": 0.6}


def graded(objective, key=KEY, size=None, at=None):
    at = jax.tree.map(jnp.asarray, at or PARAMS)
    return jax.value_and_grad(lambda p: -objective.loss(key, p, model, guide, size))(at)


@pytest.mark.slow
def test_piwae_routes_two_losses(x64):
    _, ours = graded(vi.piwae(num_bounds=2, num_particles=3))
    value, tight = graded(vi.iwae(num_particles=6))
    _, loose = graded(vi.miwae(num_bounds=2, num_particles=3))
    assert np.isclose(ours["t"], tight["t"])
    assert np.isclose(ours["a"], loose["a"])
    assert np.isclose(ours["s"], loose["s"])
    assert not np.isclose(ours["a"], tight["a"])
    wake = graded(vi.reweighted_wake_sleep(num_particles=6))[1]
    assert np.isclose(wake["t"], tight["t"])  # wake-θ
    assert np.isclose(graded(vi.piwae(num_bounds=2, num_particles=3))[0], value)


@pytest.mark.parametrize("size", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_infovae_and_emphasis_contain_the_elbo(size, x64):
    plain = graded(vi.elbo(num_particles=3), size=size)
    assert equal(plain, graded(vi.data_emphasised_elbo(emphasis=1.0, num_particles=3), size=size))
    same = vi.info_vae(site="z", alpha=0.0, strength=1.0, num_particles=3)
    assert equal(plain, graded(same, size=size))
    value, _ = graded(vi.info_vae(site="z", alpha=0.0, strength=2.0, num_particles=3), size=size)
    assert not np.isclose(value, plain[0])


@pytest.mark.slow
def test_penalties_are_scaled_to_all_data(x64):
    """MMD-VAE of the whole data: sum of log likelihoods less N times the penalty."""
    objective = vi.info_vae(site="z", alpha=1.0, strength=3.0, num_particles=4, kernel_name="rbf")
    caught = {}

    @vi.objective
    def spy(p, q):
        z = q.sample(4)
        caught.update(z=z["z"], prior=p.sample_prior(4)["z"])
        return jnp.mean(p.log_density(z) - p.log_prior(z))

    value = lambda of: -of.loss(KEY, jax.tree.map(jnp.asarray, PARAMS), model, guide)
    likelihood = value(spy())
    k = kernel("rbf", 2)
    penalty = np.mean([mmd(a, b, k) for a, b in zip(caught["z"], caught["prior"], strict=True)])
    assert np.isclose(value(objective), likelihood - 5 * 3 * penalty)
    with pytest.raises(ValueError, match=r"alpha \+ strength >= 1"):
        graded(vi.info_vae(site="z", alpha=0.2, strength=0.3))
    with pytest.raises(vi.TargetError, match=r"penalty.*Pathwise"):
        graded(dataclasses.replace(objective, estimator=vi.Score()))


def test_mmd_is_unbiased_for_its_closed_form(x64):
    """Two Gaussians under a Gaussian kernel. Twin: with the diagonal left in, it is biased."""
    gap, dim, ell = 0.6, 2, 2.0  # the kernel exp(-d²/(2 dim)) has squared length dim
    mean = lambda var, shift: (
        (ell / (ell + var)) ** (dim / 2) * np.exp(-0.5 * dim * shift**2 / (ell + var))
    )
    closed = mean(2.0, 0.0) + mean(2 * 1.5**2, 0.0) - 2 * mean(1 + 1.5**2, gap)
    k = kernel("rbf", dim)

    def one(key):
        a, b = jax.random.normal(key, (2, 20, dim))
        return mmd(a, gap + 1.5 * b, k)

    found = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, 4000)))
    assert_mean(found, closed)
    with pytest.raises(AssertionError):
        assert_mean(found + 1 / 20, closed)


# ---- wake-sleep, against sums and integrals over pairs of particles ----------------------------


def wake_exact(law, z, mass, log_p, p):
    """Sum over pairs of the self-normalised gradients of log q."""
    q = lambda p: law(p).log_prob(z)
    log_w = log_p - q(p)
    pairs = jnp.stack(jnp.meshgrid(log_w, log_w, indexing="ij"))
    share = jax.nn.softmax(pairs, 0)[0]  # of the first of two
    weights = 2 * jnp.einsum("i,j,ij->i", mass, mass, share)
    return jax.grad(lambda p: jnp.sum(weights * q(p)))(p)


@pytest.mark.parametrize(
    "kind", ["bernoulli", pytest.param("normal", marks=pytest.mark.slow), "reparameterized"]
)
def test_wake_gradients(kind, x64):
    """Exact, bias of two particles included. False alarms 1e-6; detects 0.06 sd."""
    if kind == "bernoulli":
        law = lambda p: dist.Bernoulli(logits=p["a"])
        z = jnp.array([0, 1])
        mass = jnp.exp(law({"a": 0.4}).log_prob(z))
        prior = dist.Bernoulli(0.3)
    else:
        law = lambda p: dist.Normal(p["a"], 0.8)
        x, w = np.polynomial.hermite_e.hermegauss(60)
        z, mass = jnp.asarray(0.4 + 0.8 * x), jnp.asarray(w / w.sum())
        prior = dist.Normal(0.0, 1.0)
    likelihood = lambda z: dist.Normal(z, 1.0).log_prob(1.5)
    exact = wake_exact(law, z, mass, prior.log_prob(z) + likelihood(z), {"a": jnp.array(0.4)})
    objective = vi.reweighted_wake_sleep(num_particles=2, reparameterized=kind == "reparameterized")

    def p():
        numpyro.factor("y", likelihood(numpyro.sample("z", prior)))

    def q():
        numpyro.sample("z", law({"a": numpyro.param("a", 0.4)}))

    def gradients(objective):
        one = lambda key: jax.grad(lambda a: -objective.loss(key, {"a": a}, p, q))(0.4)
        return quick_jit(jax.vmap(one))(jax.random.split(KEY, 16_000))

    assert_mean(gradients(objective), exact["a"])
    if kind == "normal":  # twin: without weights
        with pytest.raises(AssertionError):
            assert_mean(gradients(vi.reweighted_wake_sleep(num_particles=1)), exact["a"])


@pytest.mark.parametrize("name", ["forward_kl", "symmetric_kl", "f_divergence", "iwae"])
def test_fits_reach_the_posterior(name, target):
    """The family contains the posterior: every divergence has its minimum there."""
    options = {"num_particles": 16}
    if name == "f_divergence":
        options["generator"] = lambda u: jnp.expm1(0.5 * u) ** 2
    if name == "iwae":  # its pathwise gradient is nearly all noise
        options["estimator"] = vi.DoublyReparameterized()
    posterior = vi.fit(
        vi.target(log_density, jnp.zeros(3)),
        key=KEY,
        family=vi.mean_field(3),
        objective=getattr(vi, name)(**options),
        optimizer=optax.adam(0.02),
        num_steps=1500,
    )
    assert np.allclose(posterior.q.loc, MEAN, atol=0.1)
    assert np.allclose(posterior.q.variance(), 1, atol=0.2)


@pytest.mark.slow
def test_enumeration_over_pairs_agrees_with_vimco(x64):
    """VIMCO of three particles, exactly: the mean over all triples of values of two bits."""
    logits = jnp.array([0.3, -0.5])
    table = jnp.array([0.2, -1.0, 0.7, 0.1])
    z = jnp.array(list(itertools.product([0, 1], repeat=2)))

    def exact(logits):
        log_q = dist.Bernoulli(logits=logits).to_event(1).log_prob(z)
        log_w = table - log_q
        triples = jnp.array(list(itertools.product(range(4), repeat=3)))
        bound = jax.nn.logsumexp(log_w[triples], -1) - jnp.log(3.0)
        return jnp.sum(jnp.exp(log_q[triples].sum(-1)) * bound)

    def p():
        z = numpyro.sample("z", dist.Bernoulli(0.5).expand([2]).to_event(1))
        numpyro.factor("table", table[2 * z[0] + z[1]] + 2 * jnp.log(2.0))

    def q():
        numpyro.sample("z", dist.Bernoulli(logits=numpyro.param("l", logits)).to_event(1))

    objective = vi.iwae(num_particles=3, estimator=vi.Score())
    one = lambda key: jax.grad(lambda l: -objective.loss(key, {"l": l}, p, q))(logits)
    found = quick_jit(jax.vmap(one))(jax.random.split(KEY, 16_000))
    assert_mean(found, jax.grad(exact)(logits))


# ---- sleep -------------------------------------------------------------------------------------


def pair(x, size=None):
    t = numpyro.param("t", 0.3)
    with numpyro.plate("rows", 4, subsample_size=size) as i:
        z = numpyro.sample("z", dist.Normal(t, 1.0))
        numpyro.sample("x", dist.Normal(z, 0.5), obs=x[i])


def amortised(x, size=None):
    a, s = numpyro.param("a", 0.4), numpyro.param("s", 0.7)
    with numpyro.plate("rows", 4, subsample_size=size) as i:
        numpyro.sample("z", dist.Normal(a * x[i], s))


def test_sleep(x64):
    """Four data, two of them in a batch: z - a x has the mean (1 - a) t and a known variance."""
    at = {"t": jnp.array(0.3), "a": jnp.array(0.4), "s": jnp.array(0.7)}

    def exact(p):
        t = jax.lax.stop_gradient(p["t"])
        square = (1 - p["a"]) ** 2 * (1 + t**2) + p["a"] ** 2 * 0.25
        return 4 * (-jnp.log(p["s"]) - 0.5 * jnp.log(2 * jnp.pi) - square / (2 * p["s"] ** 2))

    objective = vi.sleep(arguments={"x": "x"}, num_particles=2)
    data = jnp.array([5.0, -9.0, 2.0, 4.0])  # of no account
    compare(gradients(objective, at, pair, amortised, data, 2), exact, at)
    twin = vi.objective(lambda p, q: jnp.mean(q.log_density(p.sample_prior(2))))  # at those data
    with pytest.raises(AssertionError):
        compare(gradients(twin(), at, pair, amortised, data, None, num=64), exact, at)
    with pytest.raises(vi.TargetError, match=r"an observed site, out of \['x'\]"):
        vi.sleep(arguments={"z": "x"}).loss(KEY, at, pair, amortised, data)
    target = vi.target(log_density, jnp.zeros(3))
    with pytest.raises(vi.TargetError, match=r"without .* simulate"):
        vi.sleep(arguments={"x": "x"}).value(KEY, family(), target)


def test_divergences_have_their_values(x64):
    """Of normal laws, in closed form; to five standard errors of 100,000 draws and no more."""
    target = vi.target(lambda x: dist.Normal(1.0, 1.0).log_prob(x).sum() + 0.7, jnp.zeros(1))
    q = vi.mean_field(1, loc=jnp.array([0.3]), scale=1.3)
    value = lambda make: make(num_particles=100_000).value(KEY, q, target)
    kl = lambda m, s, n, r: np.log(r / s) + (s**2 + (m - n) ** 2) / (2 * r**2) - 0.5
    forward, reverse = kl(1.0, 1.0, 0.3, 1.3), kl(0.3, 1.3, 1.0, 1.0)
    assert abs(value(vi.forward_kl) + forward) < 0.02
    assert abs(value(vi.symmetric_kl) - (0.7 - reverse - forward)) < 0.02
    assert abs(forward - reverse) > 0.05


# ---- degenerate cases --------------------------------------------------------------------------


def test_too_few_particles(target):
    run = lambda objective: objective.value(KEY, family(), target)
    for name in ("f_divergence", "log_variance"):
        options = {"generator": jnp.negative} if name == "f_divergence" else {}
        with pytest.raises(ValueError, match=rf"{name}: expected num_particles >= 2"):
            run(getattr(vi, name)(num_particles=1, **options))
    with pytest.raises(ValueError, match="at least one particle"):
        run(vi.elbo(num_particles=0))
    with pytest.raises(ValueError, match="expected at least two points"):
        mmd(jnp.zeros((1, 2)), jnp.zeros((3, 2)), kernel("rbf", 2))


@pytest.mark.parametrize(
    "name", ["iwae", "renyi", "chi_square", "forward_kl", "reweighted_wake_sleep"]
)
def test_particles_of_no_weight_do_no_harm(name, x64):
    """Half of the draws are outside of the target's support; values are those of the others."""
    half = vi.target(lambda x: jnp.where(x[0] > 0, -x[0], -jnp.inf), jnp.ones(1))
    q = vi.mean_field(1, loc=jnp.array([0.1]))
    options = {"alpha": 0.5} if name == "renyi" else {}
    objective = getattr(vi, name)(num_particles=8, **options)
    loss, grads = objective(KEY, q, half)
    assert np.isfinite(loss)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


def test_large_log_weights_are_reduced_in_log_space():
    """Weights of e^1000 in single precision."""
    target = vi.target(lambda x: 1000.0 - 0.5 * jnp.sum(x**2), jnp.zeros(2))
    q = vi.mean_field(2, scale=0.8)
    for objective in (
        vi.iwae(num_particles=4), vi.renyi(num_particles=4, alpha=-1.0),
        vi.chi_square(num_particles=4), vi.forward_kl(num_particles=4),
    ):  # fmt: skip
        loss, grads = objective(KEY, q, target)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((loss, grads)))
