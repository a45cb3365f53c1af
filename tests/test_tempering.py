"""Programs normalised by SMC: the estimate of the normaliser, and gradients through resampling.

False alarms: 1e-6 for each comparison; a bias of 0.08 standard deviations of one estimate is
detected.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi
from tests.gradients import attempt, compare, gradients
from tests.stats import assert_mean
from vi.compile import quick_jit
from vi.program import tempering

KEY = jax.random.key(0)
AT = {"loc": 0.3, "scale": 0.9}
SCORED = {"_chosen": vi.Score()}


def program():
    """A positive site and a real one; the evidence of two observations is known."""
    v = numpyro.sample("v", dist.LogNormal(0.0, 0.8))
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("a", dist.Normal(m, 0.5), obs=1.1)
    numpyro.sample("b", dist.LogNormal(jnp.log(v), 0.4), obs=3.0)


def proposal():
    numpyro.sample("v", dist.LogNormal(0.2, 1.0))
    numpyro.sample("m", dist.Normal(0.3, 1.2))


EVIDENCE = np.exp(
    dist.Normal(0.0, 1.25**0.5).log_prob(1.1)
    + dist.LogNormal(0.0, (0.8**2 + 0.4**2) ** 0.5).log_prob(3.0)
)


PLAIN = vi.Score(baseline="none")


def normalisers(count):
    """Of the program itself: the ELBO of the guide is log Ẑ."""
    how = vi.Tempering(temperatures=(0.3,), step_size=0.7)
    guide = vi.normalize(program, proposal=proposal, num_particles=4, tempering=how)
    sites = ("ancestors/1", "accepted/1", "_chosen")
    objective = vi.elbo(estimator=dict.fromkeys(sites, PLAIN))
    value = lambda key: jnp.exp(-objective.loss(key, {}, program, guide))
    return np.asarray(quick_jit(jax.vmap(value))(jax.random.split(KEY, count)))


@pytest.mark.slow
def test_normalisers_are_unbiased(x64, monkeypatch):
    """Against the evidence. Twin: moves that are always accepted leave no target invariant."""
    assert_mean(normalisers(8192), EVIDENCE)
    monkeypatch.setattr(tempering, "_pick", lambda mask, new, old: new)
    with pytest.raises(AssertionError):
        assert_mean(normalisers(8000), EVIDENCE)  # of another shape: nothing cached can serve


# ---- gradients ---------------------------------------------------------------------------------


def curved():
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.factor("f", -0.5 * (z - 1.5) ** 2 + 0.3 * z)


def gaussian():
    loc, scale = numpyro.param("loc", 0.3), numpyro.param("scale", 0.9)
    numpyro.sample("z", dist.Normal(loc, scale))


def log_w(z, p):
    log_p = dist.Normal(0.0, 1.0).log_prob(z) - 0.5 * (z - 1.5) ** 2 + 0.3 * z
    return log_p - dist.Normal(p["loc"], p["scale"]).log_prob(z)


def moved(p):
    """One particle, one move: E of 0.4 log w before and 0.6 log w after it, on a grid."""
    e = jnp.linspace(-7.5, 7.5, 601)
    mass = dist.Normal(0.0, 1.0).log_prob(e) + jnp.log(e[1] - e[0])
    z = (p["loc"] + p["scale"] * e)[:, None]
    there = z + 0.8 * e
    log_r = dist.Normal(p["loc"], p["scale"]).log_prob
    here_w, there_w = log_w(z, p), log_w(there, p)
    rise = log_r(there) - log_r(z) + 0.4 * (there_w - here_w)
    accept = jnp.exp(jnp.minimum(rise, 0))
    after = accept * there_w + (1 - accept) * here_w
    return jnp.sum(jnp.exp(mass[:, None] + mass) * (0.4 * here_w + 0.6 * after))


def resampled(p):
    """Two particles that stay where they are, resampled once: all four pairs of ancestors."""
    e, mass = np.polynomial.hermite_e.hermegauss(40)
    mass = mass / mass.sum()
    a, b = jnp.meshgrid(*2 * (log_w(p["loc"] + p["scale"] * e, p),), indexing="ij")
    mean = lambda x, y: jnp.logaddexp(x, y) - jnp.log(2.0)
    share = jax.nn.sigmoid(0.4 * (a - b))
    after = share**2 * 0.6 * a + (1 - share) ** 2 * 0.6 * b
    after += 2 * share * (1 - share) * mean(0.6 * a, 0.6 * b)
    return jnp.sum(jnp.outer(mass, mass) * (mean(0.4 * a, 0.4 * b) + after))


@vi.objective
def frozen(p, q):
    """The ELBO, its draws as data: without the scores."""
    z = q.sample(2, detached=True)
    return jnp.mean(p.log_density(z) - q.log_density(z))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exact", "particles", "step_size"),
    [pytest.param(moved, 1, 0.8, marks=pytest.mark.slow), (resampled, 2, 1e-9)],
)
def test_gradients_through_resampling(exact, particles, step_size, x64):
    """Twin: without the scores of what is resampled and accepted."""
    how = vi.Tempering(temperatures=(0.4,), step_size=step_size)
    guide = vi.normalize(curved, proposal=gaussian, num_particles=particles, tempering=how)
    compare(gradients(vi.elbo(num_particles=2), AT, curved, guide), exact, AT)
    if exact is moved:
        with pytest.raises(AssertionError):
            compare(gradients(frozen(), AT, curved, guide, num=2048), exact, AT)


def test_what_cannot_be_tempered():
    """Named errors; and estimators that need the density of the guide at its draws again."""
    how = vi.Tempering(temperatures=(0.5,))

    def bits():
        numpyro.sample("z", dist.Bernoulli(0.3))

    def nested():
        a = numpyro.sample("a", dist.Gamma(2.0, 1.0))
        numpyro.sample("b", dist.Uniform(0.0, a))

    run = lambda fn, **options: attempt(
        vi.elbo(num_particles=2, **options),
        {},
        fn,
        vi.normalize(fn, proposal=fn, num_particles=3, tempering=how),
    )
    with pytest.raises(vi.TargetError, match=r"fixed support with vi.Tempering.*'z' is discrete"):
        run(bits)
    with pytest.raises(vi.TargetError, match=r"'b' has a support that depends on other sites"):
        run(nested)
    with pytest.raises(vi.TargetError, match="random beyond its sites"):
        run(proposal, estimator={"*": vi.StickingTheLanding(), **SCORED})
    with pytest.raises(vi.TargetError, match=r"'ancestors/1' \(CategoricalLogits\).*Valid here"):
        run(proposal, estimator={"ancestors/1": vi.Pathwise()})
    for wrong in ((0.5, 0.4), (0.0,), [0.5]):
        with pytest.raises(ValueError, match="expected temperatures between 0 and 1"):
            vi.normalize(
                bits, proposal=bits, num_particles=2, tempering=vi.Tempering(temperatures=wrong)
            )
