"""The registry of the table objective x estimator x site: what `test_matrix` runs, docs show.

``CELLS`` says of each combination what the test finds: that the gradient is unbiased, that it is
biased, as that of a relaxation is by choice, or that the combination is refused.
"""

import itertools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import gammaln

import vi

Verdict = Literal["unbiased", "biased", "error"]
THETA = {"a": 0.3, "s": 0.8, "t": 0.4}  # a, s: of the guide; t: of the model
ESTIMATORS = {
    "pathwise": vi.Pathwise(),
    "sticking": vi.StickingTheLanding(),
    "doubly": vi.DoublyReparameterized(),
    "score": vi.Score(),
    "score_none": vi.Score(baseline="none"),
    "score_given": vi.Score(baseline=lambda *args: jnp.array(-1.3)),
    "enumerate": vi.Enumerate(),
    "measure": vi.MeasureValued(),
    "accept_reject": vi.AcceptReject(),
    "augmented": vi.AcceptReject(augment=3),
    "relaxed": vi.Relaxed(),
    "path_gradient": vi.PathGradient(),
    "running": vi.RunningScore(total=jnp.array(-1.3), weight=jnp.array(1.0)),
    "implicit": vi.Implicit(),
}

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


def log_densities(law, p):
    """Log densities of model and guide at the points, and the guide's masses there."""
    z, mass = nodes(law, p)
    value = z if law in CONTINUOUS else z.astype(int)
    prior = 0.0 if law in CONTINUOUS else LAWS[law](0.5, 0.5).log_prob(value)
    seen = jnp.sin(z) if law == "von_mises" else z
    return prior + straight(seen, p["t"]), LAWS[law](p["a"], p["s"]).log_prob(value), jnp.exp(mass)


class Entry(NamedTuple):
    """An objective of two particles, and its exact mean.

    Attributes:
      objective: to be tested.
      reduce: the objective as a function of log densities ``(2, ...)`` of model and guide.
      linear: whether it is linear in the log densities.
    """

    objective: vi.Objective
    reduce: Callable[[Any, Any], Any]
    linear: bool = False

    def exact(self, law: str, p: dict) -> Any:
        """The mean over pairs of draws."""
        log_p, log_q, mass = log_densities(law, p)
        pair = lambda x: jnp.stack(jnp.meshgrid(x, x, indexing="ij"))
        return jnp.einsum("i,j,ij->", mass, mass, self.reduce(pair(log_p), pair(log_q)))


def bound(log_w: Any) -> Any:
    return jax.nn.logsumexp(log_w, 0) - jnp.log(2.0)


def hellinger(u: Any) -> Any:
    return jnp.expm1(0.5 * u) ** 2


OBJECTIVES = {
    "elbo": Entry(vi.elbo(num_particles=2), lambda p, q: (p - q).mean(0), linear=True),
    "tempered_elbo": Entry(
        vi.tempered_elbo(num_particles=2, temperature=0.6),
        lambda p, q: (0.6 * p - q).mean(0),
        linear=True,
    ),
    "iwae": Entry(vi.iwae(num_particles=2), lambda p, q: bound(p - q)),
    "miwae": Entry(vi.miwae(num_bounds=2, num_particles=1), lambda p, q: (p - q).mean(0)),
    "ciwae": Entry(
        vi.ciwae(num_particles=2, beta=0.3),
        lambda p, q: 0.3 * (p - q).mean(0) + 0.7 * bound(p - q),
    ),
    "renyi": Entry(vi.renyi(num_particles=2, alpha=0.5), lambda p, q: bound(0.5 * (p - q)) / 0.5),
    "chi_square": Entry(vi.chi_square(num_particles=2), lambda p, q: -bound(2 * (p - q)) / 2),
    "f_divergence": Entry(
        vi.f_divergence(num_particles=2, generator=hellinger),
        lambda p, q: -hellinger(p - q - bound(p - q)).mean(0),
    ),
}
SCORES = ("score", "score_none", "score_given", "running")
VALID = {
    "normal": (
        "pathwise", "sticking", "path_gradient", "doubly", "measure", "implicit", *SCORES,
    ),
    "bernoulli": ("enumerate", "measure", "relaxed", *SCORES),
    "categorical": ("enumerate", "measure", *SCORES),
    "gamma": (
        "pathwise", "sticking", "path_gradient", "doubly", "measure", "accept_reject", "augmented",
        "implicit", *SCORES,
    ),
    "poisson": ("measure", *SCORES),
    "von_mises": ("accept_reject", "augmented", *SCORES),
    "mixture": ("implicit", *SCORES),
}  # fmt: skip
STICKING = ("sticking", "path_gradient")
THOROUGH = ("elbo", "iwae")  # on all sites; the others on these, and under these estimators:
TYPICAL = {"normal", "bernoulli"}
COMMON = {"pathwise", "sticking", "doubly", "score", "enumerate", "measure"}
BASELINES = {"score_none", "score_given"}  # on typical sites, to which they are nothing new


def verdict(objective: str, law: str, estimator: str) -> Verdict:
    """What must come of a combination."""
    if estimator not in VALID[law] or (estimator in STICKING and not OBJECTIVES[objective].linear):
        return "error"
    return "biased" if estimator == "relaxed" else "unbiased"


def is_run(objective: str, law: str, estimator: str) -> bool:
    """Whether the test has a row for it."""
    if estimator in BASELINES and law not in TYPICAL:
        return False
    return objective in THOROUGH or (law in TYPICAL and estimator in COMMON)


CELLS: dict[tuple[str, str, str], Verdict] = {
    (o, s, e): verdict(o, s, e)
    for o, s, e in itertools.product(OBJECTIVES, LAWS, ESTIMATORS)
    if is_run(o, s, e)
}
