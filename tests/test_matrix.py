"""The table: objective x estimator x site x control flow. Every cell is unbiased, or an error.

Each unbiased cell compares the mean of 8192 gradients with quadrature or enumeration. False
alarms: at most 1e-6 for a cell; a bias of 0.08 standard deviations of one estimate is detected.
Failures of other libraries that are rows here: sites inside scan, jit or vmap whose draws are
frozen; custom derivatives refused; supports that move; importance-weighted bounds of discrete
sites without, or with the wrong sign of, a score term.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.special import gammaln
from numpyro.infer import RenyiELBO

import vi
from tests.gradients import ESTIMATORS, NUM, attempt, compare, gradients
from vi.compile import quick_jit

THETA = {"a": 0.3, "s": 0.8, "t": 0.4}  # a, s: of the guide; t: of the model


# ---- one site, and a model that weaves in what JAX has -----------------------------------------


def woven(z, t):
    """A log density that goes through jit, checkpoint, scan, cond, vmap and custom derivatives."""

    @jax.jit
    def nested(x):
        return -0.5 * (x - t) ** 2

    @jax.checkpoint
    def saved(x):
        return 0.3 * jax.nn.softplus(x) + 0.1 * jax.nn.silu(t * x)  # silu has a custom derivative

    steps, _ = jax.lax.scan(lambda c, i: (c + 0.1 * i * jnp.tanh(z), None), 0.0 * z, jnp.arange(3))
    mapped = jax.vmap(lambda w: w * jnp.sin(z))(jnp.array([0.1, 0.2])).sum(0)
    branch = jax.lax.cond(t > 0, lambda x: 0.2 * x, lambda x: -x, z)
    return nested(z) + saved(z) + steps + mapped + branch


def straight(z, t):
    """The same without any of it."""
    saved = 0.3 * jnp.logaddexp(0, z) + 0.1 * t * z / (1 + jnp.exp(-t * z))
    return -0.5 * (z - t) ** 2 + saved + 0.3 * jnp.tanh(z) + 0.3 * jnp.sin(z) + 0.2 * z


LAWS = {
    "normal": lambda a, s: dist.Normal(a, s),
    "bernoulli": lambda a, s: dist.Bernoulli(logits=a * s),
    "categorical": lambda a, s: dist.Categorical(logits=jnp.stack([a, 0.0 * s, s])),
    "gamma": lambda a, s: dist.Gamma(2.0 + a, 1 / s),
    "poisson": lambda a, s: dist.Poisson(a + s),
    "von_mises": lambda a, s: dist.VonMises(a, 1 / s),
    "mixture": lambda a, s: dist.MixtureSameFamily(
        dist.Categorical(logits=jnp.stack([a, 0.0 * a])),
        dist.Normal(jnp.stack([s - 1.6, 0.8 + 0.0 * s]), jnp.stack([0.5 + 0.0 * s, s])),
    ),
}
CONTINUOUS = ("normal", "gamma", "von_mises", "mixture")


def guide(law):
    a, s = numpyro.param("a", 0.3), numpyro.param("s", 0.8)
    numpyro.sample("z", LAWS[law](a, s))


def model(law):
    t = numpyro.param("t", 0.4)
    support = LAWS[law](0.3, 0.8).support
    base = dist.ImproperUniform(support, (), ()) if law in CONTINUOUS else None
    z = numpyro.sample("z", base or LAWS[law](0.5, 0.5))
    numpyro.factor("woven", woven(jnp.sin(z) if law == "von_mises" else 1.0 * z, t))


def nodes(law, p):
    """Points, and log weights that integrate against the guide, both functions of parameters."""
    if law == "normal":
        x, w = np.polynomial.hermite_e.hermegauss(40)
        return p["a"] + p["s"] * x, jnp.log(w / w.sum())
    if law == "gamma":  # Gauss-Legendre in the logarithm
        x, w = np.polynomial.legendre.leggauss(120)
        u, w = -7.0 + 5.5 * (x + 1), 5.5 * w
        shape, rate = 2.0 + p["a"], 1 / p["s"]
        z = jnp.exp(jnp.asarray(u))
        log_q = shape * jnp.log(rate) + (shape - 1) * u - rate * z - gammaln(shape)
        return z, log_q + u + jnp.log(w)
    if law == "von_mises":  # the trapezoidal rule on the circle
        z = jnp.pi * (2 * jnp.arange(64) + 1 - 64) / 64
        log_norm = jnp.log(2 * jnp.pi * jax.scipy.special.i0(1 / p["s"]))
        return z, jnp.cos(z - p["a"]) / p["s"] - log_norm + jnp.log(2 * jnp.pi / 64)
    if law == "mixture":
        x, w = np.polynomial.hermite_e.hermegauss(40)
        z = jnp.concatenate([p["s"] - 1.6 + 0.5 * x, 0.8 + p["s"] * x])
        shares = jax.nn.log_sigmoid(jnp.stack([p["a"], -p["a"]]))
        return z, (shares[:, None] + jnp.log(w / w.sum())).ravel()
    z = jnp.arange({"bernoulli": 2, "categorical": 3, "poisson": 14}[law])
    return 1.0 * z, LAWS[law](p["a"], p["s"]).log_prob(z)


def log_weights(law, p):
    z, mass = nodes(law, p)
    q = LAWS[law](p["a"], p["s"])
    value = z if law in CONTINUOUS else z.astype(int)
    prior = 0.0 if law in CONTINUOUS else LAWS[law](0.5, 0.5).log_prob(value)
    seen = jnp.sin(z) if law == "von_mises" else z
    return prior + straight(seen, p["t"]) - q.log_prob(value), jnp.exp(mass)


def pairs(reduce):
    def exact(law, p):
        log_w, mass = log_weights(law, p)
        both = jnp.stack(jnp.meshgrid(log_w, log_w, indexing="ij"))
        return jnp.einsum("i,j,ij->", mass, mass, reduce(both))

    return exact


OBJECTIVES = {
    "elbo": (vi.elbo(num_particles=2), pairs(lambda x: x.mean(0))),
    "iwae": (
        vi.iwae(num_particles=2),
        pairs(lambda x: jax.nn.logsumexp(x, 0) - jnp.log(2.0)),
    ),
    "renyi": (
        vi.renyi(num_particles=2, alpha=0.5),
        pairs(lambda x: (jax.nn.logsumexp(0.5 * x, 0) - jnp.log(2.0)) / 0.5),
    ),
}
VALID = {
    "normal": (
        "pathwise", "sticking", "path_gradient", "doubly", "score", "score_none", "score_given",
        "running", "measure",
    ),
    "bernoulli": ("score", "score_none", "running", "enumerate", "measure"),
    "categorical": ("score", "enumerate", "measure"),
    "gamma": (
        "pathwise", "doubly", "score", "measure", "accept_reject", "augmented", "implicit",
    ),
    "poisson": ("score", "running", "measure"),
    "von_mises": ("score", "accept_reject"),
    "mixture": ("score", "implicit"),
}  # fmt: skip
QUICK = {
    ("iwae", "normal", "doubly"), ("elbo", "normal", "measure"), ("iwae", "bernoulli", "score"),
    ("elbo", "bernoulli", "enumerate"), ("iwae", "bernoulli", "enumerate"),
    ("iwae", "categorical", "measure"), ("elbo", "gamma", "accept_reject"),
    ("elbo", "poisson", "measure"), ("elbo", "normal", "score_given"),
    ("elbo", "von_mises", "accept_reject"),
    ("iwae", "mixture", "implicit"), ("iwae", "poisson", "running"),
}  # fmt: skip
CELLS = [
    pytest.param(o, s, e, marks=() if (o, s, e) in QUICK else pytest.mark.slow)
    for o, (s, es) in itertools.product(OBJECTIVES, VALID.items())
    for e in es
]


def params():
    return {name: jnp.array(x) for name, x in THETA.items()}


@pytest.mark.parametrize(("objective", "law", "estimator"), CELLS)
def test_one_site(objective, law, estimator, x64):
    program, exact = OBJECTIVES[objective]
    if objective != "elbo" and estimator in ("sticking", "path_gradient"):
        with pytest.raises(vi.TargetError, match=r"linear in log q.*DoublyReparameterized"):
            gradients(_with(program, estimator), params(), model, guide, law)
        return
    found = gradients(_with(program, estimator), params(), model, guide, law)
    compare(found, lambda p: exact(law, p), params())


def _with(program, estimator):
    return vi.program.with_estimator(program, ESTIMATORS[estimator])


ALSO = {  # allowed, and nothing new as cells
    "normal": ("implicit",),
    "gamma": ("sticking", "path_gradient", "score_none", "score_given", "running"),
    "von_mises": ("augmented", "score_none", "score_given", "running"),
}


@pytest.mark.parametrize("law", VALID)
def test_what_a_site_does_not_allow_is_an_error(law):
    rest = ("score_none", "score_given", "running")
    for estimator in {*ESTIMATORS} - {*VALID[law], *ALSO.get(law, rest)}:
        objective = _with(vi.elbo(num_particles=2), estimator)
        with pytest.raises(vi.TargetError, match=r"guide site 'z' \(.*Score"):
            attempt(objective, params(), model, guide, law)


# ---- twins: estimators that are known to be wrong must fail ------------------------------------


@vi.objective
def sticky_iwae(p, q):
    z = q.sample(2)
    log_w = p.log_density(z) - q.log_density(z, through="draws")
    return jax.nn.logsumexp(log_w) - jnp.log(2.0)


@vi.objective
def frozen_elbo(p, q):
    z = q.sample(2, detached=True)
    return jnp.mean(p.log_density(z) - q.log_density(z))


@pytest.mark.parametrize(
    ("program", "law", "exact"),
    [(sticky_iwae, "normal", "iwae"), (frozen_elbo, "bernoulli", "elbo")],
)
def test_twins_fail(program, law, exact, x64):
    found = gradients(program(), params(), model, guide, law)
    with pytest.raises(AssertionError):
        compare(found, lambda p: OBJECTIVES[exact][1](law, p), params())


def test_numpyros_renyi_bound_fails_on_discrete_sites(x64):
    def one(key):
        loss = RenyiELBO(alpha=0, num_particles=2).loss
        value, grads = jax.value_and_grad(lambda p: -loss(key, p, model, guide, "bernoulli"))(
            params()
        )
        return value, grads

    found = quick_jit(jax.vmap(one))(jax.random.split(jax.random.key(0), NUM))
    with pytest.raises(AssertionError):
        compare(
            jax.tree.map(np.asarray, found),
            lambda p: OBJECTIVES["iwae"][1]("bernoulli", p),
            params(),
        )
