"""The table, continued: plates, minibatches, scan and cond; and what is refused.

False alarms and detected biases as in `test_matrix`.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import cond, scan
from scipy import special

import vi
from tests.gradients import attempt, compare, gradients
from tests.matrix import ESTIMATORS
from tests.stats import assert_mean

# ---- plates, minibatches, and several sites ----------------------------------------------------

Y = np.array([0.3, 1.2, -0.4, 2.0])


def rows_model(size):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 4, subsample_size=size) as i:
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("y", dist.Normal(mu + z, 1.0), obs=jnp.asarray(Y)[i])


def rows_guide(size):
    m, logits = numpyro.param("m", 0.2), numpyro.param("logits", jnp.zeros(4))
    mu = numpyro.sample("mu", dist.Normal(m, 0.7))
    with numpyro.plate("rows", 4, subsample_size=size) as i:
        numpyro.sample("z", dist.Bernoulli(logits=logits[i] + 0.5 * mu))


def rows_params():
    return {"m": jnp.array(0.2), "logits": jnp.array([0.1, -0.4, 0.5, 0.9])}


def rows_exact(p):
    x, w = np.polynomial.hermite_e.hermegauss(30)

    def at(e):
        mu = p["m"] + 0.7 * e
        on = jax.nn.sigmoid(p["logits"] + 0.5 * mu)
        out = dist.Normal(0.0, 1.0).log_prob(mu) - dist.Normal(p["m"], 0.7).log_prob(mu)
        for z, mass, prior in ((0.0, 1 - on, 0.6), (1.0, on, 0.4)):
            terms = jnp.log(prior) + dist.Normal(mu + z, 1.0).log_prob(Y) - jnp.log(mass)
            out = out + jnp.sum(mass * terms)
        return out

    return jnp.sum(w / w.sum() * jax.vmap(at)(jnp.asarray(x)))


MIXED = {
    "default": None,
    "score": vi.Score(),
    "enumerate_under_score": {"mu": vi.Score(), "z": vi.Enumerate()},
    "measure_above_enumerate": {"mu": vi.MeasureValued(), "z": vi.Enumerate()},
    "running": vi.RunningScore(total=jnp.array(-9.0), weight=jnp.array(1.0)),
    "sticking_with_measure": {"*": vi.StickingTheLanding(), "z": vi.MeasureValued()},
}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param(name, size, marks=() if (name, size) in KEPT else pytest.mark.slow)
        for KEPT in [{("sticking_with_measure", 2)}]
        for name in MIXED
        for size in (None, 2)
    ],
)
def test_global_and_local_sites(name, size, x64):
    """Mixed estimators in one guide, all rows and minibatches."""
    objective = vi.elbo(num_particles=2, estimator=MIXED[name])
    compare(
        gradients(objective, rows_params(), rows_model, rows_guide, size), rows_exact, rows_params()
    )


def local_model(size):
    t = numpyro.param("t", 0.1)
    with numpyro.plate("rows", 4, subsample_size=size) as i:
        z = numpyro.sample("z", dist.Bernoulli(logits=jnp.full(2, 0.3)).to_event(1))
        numpyro.sample("y", dist.Normal(z.sum(-1) + t, 1.0), obs=jnp.asarray(Y)[i])


def local_guide(size):
    logits = numpyro.param("logits", jnp.zeros(4))
    with numpyro.plate("rows", 4, subsample_size=size) as i:
        both = jnp.stack([logits[i], 1 - logits[i]], -1)
        numpyro.sample("z", dist.Bernoulli(logits=both).to_event(1))


def local_exact(p):
    z = jnp.array(list(itertools.product([0.0, 1.0], repeat=2)))
    both = jnp.stack([p["logits"], 1 - p["logits"]], -1)
    log_q = dist.Bernoulli(logits=both[:, None]).to_event(1).log_prob(z)
    log_p = dist.Bernoulli(logits=jnp.full(2, 0.3)).to_event(1).log_prob(z)
    log_w = log_p + dist.Normal(z.sum(-1) + p["t"], 1.0).log_prob(Y[:, None]) - log_q
    bound = jnp.logaddexp(log_w[:, :, None], log_w[:, None]) - jnp.log(2.0)
    return jnp.sum(jnp.exp(log_q[:, :, None] + log_q[:, None]) * bound)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("score", 2),
        ("enumerate", None),
        pytest.param("score", None, marks=pytest.mark.slow),
        pytest.param("enumerate", 2, marks=pytest.mark.slow),
        pytest.param("measure", 2, marks=pytest.mark.slow),
    ],
)
def test_importance_weights_act_datum_by_datum(name, size, x64):
    at = {"logits": jnp.array([0.1, -0.4, 0.5, 0.9]), "t": jnp.array(0.1)}
    objective = vi.iwae(num_particles=2, estimator=ESTIMATORS[name])
    compare(gradients(objective, at, local_model, local_guide, size), local_exact, at)


# ---- numpyro's scan and cond -------------------------------------------------------------------


def chain_model():
    def step(carry, _):
        z = numpyro.sample("z", dist.Bernoulli(logits=0.3 + carry))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=0.7)
        return 1.0 * z, None

    scan(step, 0.0, None, length=3)


def chain_guide():
    a, b = numpyro.param("a", 0.2), numpyro.param("b", 0.5)

    def step(carry, _):
        z = numpyro.sample("z", dist.Bernoulli(logits=a + b * carry))
        return 1.0 * z, None

    scan(step, 0.0, None, length=3)


def chain_exact(p):
    out = 0.0
    for path in itertools.product([0, 1], repeat=3):
        log_p = log_q = 0.0
        for before, z in zip((0, *path), path, strict=False):
            log_q += dist.Bernoulli(logits=p["a"] + p["b"] * before).log_prob(z)
            log_p += dist.Bernoulli(logits=0.3 + before).log_prob(z)
            log_p += dist.Normal(z, 1.0).log_prob(0.7)
        out += jnp.exp(log_q) * (log_p - log_q)
    return out


def two():
    return {"a": jnp.array(0.2), "b": jnp.array(0.5)}


def test_discrete_sites_inside_scan(x64):
    objective = vi.elbo(num_particles=2)
    compare(gradients(objective, two(), chain_model, chain_guide), chain_exact, two())
    for estimator in (vi.Pathwise(), vi.Enumerate(), vi.MeasureValued()):
        with pytest.raises(vi.TargetError, match=r"'z'.*Score"):
            attempt(vi.elbo(num_particles=2, estimator=estimator), two(), chain_model, chain_guide)


MASK = np.array([1.0, 0.0, 1.0])


def test_masks_inside_scan(x64):
    """What a mask takes out of the density is drawn all the same, and has its costs."""

    def model():
        def step(before, on):
            with numpyro.handlers.mask(mask=on):
                z = numpyro.sample("z", dist.Bernoulli(logits=0.3 + before))
                numpyro.sample("y", dist.Normal(z, 1.0), obs=0.7)
            numpyro.factor("f", 0.8 * z)
            return 1.0 * z, None

        scan(step, 0.0, MASK == 1)

    def guide():
        a, b = numpyro.param("a", 0.2), numpyro.param("b", 0.5)

        def step(before, on):
            with numpyro.handlers.mask(mask=on):
                z = numpyro.sample("z", dist.Bernoulli(logits=a + b * before))
            return 1.0 * z, None

        scan(step, 0.0, MASK == 1)

    def exact(p):
        out = 0.0
        for path in itertools.product([0, 1], repeat=3):
            before, z = np.array([0, *path[:-1]]), np.array(path)
            log_q = dist.Bernoulli(logits=p["a"] + p["b"] * before).log_prob(z)
            log_p = dist.Bernoulli(logits=0.3 + before).log_prob(z)
            log_p += dist.Normal(z, 1.0).log_prob(0.7)
            gain = jnp.sum(MASK * (log_p - log_q)) + 0.8 * z.sum()
            out += jnp.exp(log_q.sum()) * gain
        return out

    compare(gradients(vi.elbo(num_particles=2), two(), model, guide), exact, two())


def branch_model():
    numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(0.0, 1.0))


def branch_guide():
    a, b = numpyro.param("a", 0.2), numpyro.param("b", 0.5)
    x = numpyro.sample("x", dist.Normal(a, 1.0))
    draw = lambda loc: numpyro.sample("y", dist.Normal(loc, 0.8))
    cond(x > 0, lambda _: draw(b), lambda _: draw(b - 0.3), None)


def branch_exact(p):
    positive = jax.scipy.stats.norm.cdf(p["a"])
    minus_kl = lambda m, s: -0.5 * (m**2 + s**2 - 1) + jnp.log(s)
    above, below = minus_kl(p["b"], 0.8), minus_kl(p["b"] - 0.3, 0.8)
    return minus_kl(p["a"], 1.0) + positive * above + (1 - positive) * below


def test_branches_of_cond(x64):
    objective = vi.elbo(num_particles=2, estimator={"x": vi.Score()})
    compare(gradients(objective, two(), branch_model, branch_guide), branch_exact, two())
    with pytest.raises(vi.TargetError, match=r"miss the jump.*Score"):
        attempt(vi.elbo(), two(), branch_model, branch_guide)


# ---- what cannot be right is refused -----------------------------------------------------------


def inside(transform):
    def program():
        a = numpyro.param("a", 0.2)
        draw = lambda loc: numpyro.sample("x", dist.Normal(loc, 1.0))
        match transform:
            case "jit":
                jax.jit(draw)(a)
            case "vmap":
                jax.vmap(draw)(a[None])
            case "scan":
                jax.lax.scan(lambda c, _: (draw(c), None), a, None, length=2)
            case "fori_loop":
                jax.lax.fori_loop(0, 2, lambda _, c: draw(c), a)
            case "cond":
                jax.lax.cond(a > 0, draw, lambda c: c, a)
            case "checkpoint":
                jax.checkpoint(draw)(a)

    return program


@pytest.mark.parametrize("kind", ["jit", "vmap", "scan", "fori_loop", "cond", "checkpoint"])
def test_sites_inside_jax_transformations_are_refused(kind):
    plain = lambda: numpyro.sample("x", dist.Normal(0.0, 1.0))
    for pair in ((plain, inside(kind)), (inside(kind), plain)):
        with pytest.raises(vi.TargetError, match="'x' is inside jax"):
            attempt(vi.elbo(), two(), *pair)


def test_moving_supports_are_refused_under_score():
    def uniform():
        numpyro.sample("x", dist.Uniform(numpyro.param("a", 0.2), 2.0))

    plain = lambda: numpyro.sample("x", dist.Normal(0.0, 1.0))
    with pytest.raises(vi.TargetError, match=r"support that does not move.*'x' \(Uniform\)"):
        attempt(vi.elbo(num_particles=2, estimator=vi.Score()), two(), plain, uniform)


def test_other_invalid_pairs():
    run = lambda objective, size=2: attempt(objective, rows_params(), rows_model, rows_guide, size)
    reparameterised = {"mu": vi.Pathwise(), "z": vi.Score()}
    with pytest.raises(vi.TargetError, match="takes a subset of its rows"):
        run(vi.iwae(num_particles=2, estimator=reparameterised))
    with pytest.raises(vi.TargetError, match=r"enumerate site 'z' in parallel.*Score"):
        run(vi.iwae(num_particles=2), None)
    with pytest.raises(vi.TargetError, match="DoublyReparameterized for all random sites"):
        run(vi.iwae(num_particles=2, estimator={**reparameterised, "mu": ESTIMATORS["doubly"]}))
    with pytest.raises(vi.TargetError, match="num_particles >= 2"):
        run(vi.elbo(estimator=vi.Score()))
    with pytest.raises(vi.TargetError, match=r"names of guide sites.*'other'"):
        run(vi.elbo(estimator={"other": vi.Score()}))

    @vi.objective
    def moved(p, q):
        z = q.sample(2)
        return jnp.mean(p.log_density({**z}) - q.log_density(z))

    with pytest.raises(vi.TargetError, match="Pass the draws unchanged"):
        run(moved())


def test_particles_along_a_plate_are_refused():
    """Broadcast against the model's one site, five would count as five data."""

    def one():
        numpyro.sample("x", dist.Normal(0.0, 1.0))

    def five():
        with numpyro.plate("particles", 5):
            numpyro.sample("x", dist.Normal(numpyro.param("a", 0.2), 1.0))

    for estimator in (vi.Pathwise(), vi.Score()):
        with pytest.raises(vi.TargetError, match=r"'x'; the model has \(\), .* num_particles"):
            attempt(vi.elbo(num_particles=2, estimator=estimator), two(), one, five)


def test_rows_that_meet_again_are_not_enumerated_in_parallel():
    def joint():
        with numpyro.plate("rows", 3):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("total", dist.Normal(z.sum(), 1.0), obs=1.0)

    def guide():
        with numpyro.plate("rows", 3):
            numpyro.sample("z", dist.Bernoulli(numpyro.param("p", jnp.full(3, 0.4))))

    at = {"p": jnp.array([0.4, 0.3, 0.6])}
    for estimator in (vi.Enumerate(), vi.MeasureValued()):
        with pytest.raises(vi.TargetError, match=r"site 'total' is not.*Score"):
            attempt(vi.elbo(num_particles=2, estimator=estimator), at, joint, guide)


LONG = {
    "elbo_measure": (vi.elbo, vi.MeasureValued()),
    "iwae": (vi.iwae, vi.Score()),
    "iwae_enumerate": (vi.iwae, vi.Enumerate()),
}


@pytest.mark.parametrize("name", LONG)
def test_the_traced_program_grows_linearly(name):
    """A chain of sites, each of which depends on all before it."""
    make, estimator = LONG[name]
    objective = make(num_particles=2, estimator=estimator)

    def size(count):
        def program(logit):
            before = 0.0
            for i in range(count):
                before = numpyro.sample(f"z{i}", dist.Bernoulli(logits=logit + 0.1 * before))

        loss = lambda x: objective.loss(
            jax.random.key(0), {}, lambda: program(0.5), lambda: program(x)
        )
        return str(jax.make_jaxpr(jax.grad(loss))(0.3)).count("\n")

    small, middle, large = size(4), size(8), size(16)
    assert large - middle < 2.2 * (middle - small), (small, middle, large)


def test_polygamma_is_what_accept_reject_finds(x64):
    """E log z of a gamma has the derivative polygamma(1, shape); also for shapes below 1."""

    @vi.objective
    def mean_log(p, q):
        return q.expect(lambda z: jnp.log(z["z"]), 2)

    def law():
        numpyro.sample("z", dist.Gamma(numpyro.param("shape", 0.5), 1.0))

    for shape in (0.5, 3.0):
        _, grads = gradients(
            mean_log(estimator=vi.AcceptReject(augment=2)), {"shape": jnp.array(shape)}, law, law
        )
        assert_mean(grads["shape"], special.polygamma(1, shape))
