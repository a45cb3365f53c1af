"""How noisy gradients are: against particles, closed forms and the bound on the noise."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi
from tests.stats import assert_mean
from tests.test_objectives import KEY, MEAN, log_density
from vi.compile import quick_jit


def datum():
    z = numpyro.sample("z", dist.Normal(numpyro.param("t", 0.3), 1.0))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=1.5)


def near():
    numpyro.sample("z", dist.Normal(numpyro.param("a", 0.7), numpyro.param("s", 0.8)))


def data():
    """Twenty of them."""
    z = numpyro.sample("z", dist.Normal(numpyro.param("t", 0.3) * jnp.ones(20), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=jnp.full(20, 1.5))


def near_all():
    loc, scale = numpyro.param("a", 0.97), numpyro.param("s", 0.74)
    numpyro.sample("z", dist.Normal(loc * jnp.ones(20), scale).to_event(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "guide", "at", "num_samples"),
    [
        pytest.param(datum, near, {"t": 0.3, "a": 0.7, "s": 0.8}, 100_000, id="1"),
        pytest.param(data, near_all, {"t": 0.3, "a": 0.97, "s": 0.74}, 30_000, id="20"),
    ],
)
def test_signal_to_noise_against_particles(model, guide, at, num_samples):
    """Rainforth et al.: K^-1/2 for the guide, K^1/2 for the model and under DReG.

    Slopes over K = 4, 16, 64 within 0.15, in one dimension and in twenty; a slope's standard
    error is below 0.03.
    """
    at = jax.tree.map(jnp.array, at)
    ks = np.array([4, 16, 64])

    def slopes(estimator):
        found = [
            vi.gradient_noise(
                vi.iwae(num_particles=int(k), estimator=estimator),
                KEY,
                at,
                model,
                guide,
                num_samples=num_samples,
            ).groups
            for k in ks
        ]
        return {n: np.polyfit(np.log(ks), np.log([g[n].snr for g in found]), 1)[0] for n in at}

    plain, doubly = slopes(vi.Pathwise()), slopes(vi.DoublyReparameterized())
    assert abs(plain["a"] + 0.5) < 0.15
    assert abs(doubly["a"] - 0.5) < 0.15
    assert abs(plain["t"] - 0.5) < 0.15


def test_gradient_noise_compiles_once():
    """Whatever the key, the point, the number of samples and the data; not for other shapes."""
    traces = 0

    def model(y):
        nonlocal traces
        traces += 1
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu, 1.0).expand(y.shape).to_event(1), obs=y)

    def guide(y):
        numpyro.sample("mu", dist.Normal(numpyro.param("loc", 0.0), 1.0))

    run = lambda key, loc, y, count: vi.gradient_noise(
        vi.elbo(), jax.random.key(key), {"loc": loc}, model, guide, y, num_samples=count
    )
    first = run(0, 0.0, np.ones(3), 16)
    before = traces
    second = run(1, 0.5, np.zeros(3), 32)
    assert traces == before
    assert first.value != second.value
    run(0, 0.0, np.ones(2), 16)
    assert traces > before

    def density(x):
        nonlocal traces
        traces += 1
        return -0.5 * jnp.sum(x**2)

    target, q = vi.target(density, jnp.zeros(2)), vi.mean_field(2)
    vi.gradient_noise(vi.elbo(), jax.random.key(0), q, target, num_samples=16)
    before = traces
    vi.gradient_noise(vi.elbo(), jax.random.key(1), q, target, num_samples=32)
    assert traces == before
    with pytest.raises(ValueError, match="expected num_samples >= 1"):
        run(0, 0.0, np.ones(3), 0)
    with pytest.raises(TypeError, match="expected with a family its target alone"):
        vi.gradient_noise(vi.elbo(), KEY, q, model, guide)


def test_gradient_noise_of_a_known_estimator(x64):
    """STL has none at the posterior; of the score at the posterior the variance is the Fisher's."""
    exact = vi.mean_field(3, loc=jnp.asarray(MEAN), scale=1.0)
    target = vi.target(log_density, jnp.zeros(3))
    still = vi.gradient_noise(vi.elbo(estimator=vi.StickingTheLanding()), KEY, exact, target)
    assert still.variance < 1e-20
    noise = vi.gradient_noise(vi.elbo(), KEY, exact, target, num_samples=4096)
    assert np.isclose(noise.groups["loc"].variance, 3.0, rtol=0.15)  # E (z - m)² for each
    assert np.isclose(noise.groups["scale.raw"].variance, 6.0, rtol=0.15)  # E (ε² - 1)²
    assert noise.num_samples == 4096
    assert "snr" in str(noise)


@pytest.mark.parametrize(
    "make", [pytest.param(vi.mean_field, marks=pytest.mark.slow), vi.full_rank]
)
def test_reference_noise(make, x64):
    """Squared errors of gradients of a quadratic have the mean given. Twin: 10 % off."""
    precision = np.array([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]])
    quadratic = vi.target(lambda x: -0.5 * (x - MEAN) @ precision @ (x - MEAN), jnp.zeros(3))
    q = make(3, loc=jnp.array([0.2, -0.7, 0.3]), scale=0.6)
    objective = vi.elbo(num_particles=2, analytic="entropy")
    one = lambda key: objective(key, q, quadratic)[1]
    found = quick_jit(jax.vmap(one))(jax.random.split(KEY, 16_000))
    off = lambda q: q.loc - MEAN
    minus_elbo = lambda q: (
        0.5 * (off(q) @ precision @ off(q) + jnp.trace(precision @ q.covariance())) - q.entropy()
    )
    errors = jax.tree.map(jnp.subtract, found, jax.grad(minus_elbo)(q))
    squares = sum(jnp.sum(e.reshape(len(e), -1) ** 2, 1) for e in jax.tree.leaves(errors))
    reference = vi.reference_noise(q, quadratic, num_particles=2)
    assert_mean(squares, reference.quadratic)
    with pytest.raises(AssertionError):
        assert_mean(squares, 1.1 * reference.quadratic)
    assert reference.bound > reference.quadratic
    with pytest.raises(ValueError, match=r"positive='linear'"):
        vi.reference_noise(make(3, positive="exp"), quadratic)


def test_the_bound_on_noise_is_attained(x64):
    """By a dense scale of one coordinate under a quadratic of one curvature, less the mean."""
    target = vi.target(lambda x: -0.7 * jnp.sum((x - 1) ** 2), jnp.zeros(1))
    q = vi.full_rank(1, loc=jnp.array([0.4]), scale=0.6)
    found = vi.reference_noise(q, target)
    mean = 1.4**2 * (0.6**2 + 0.6**2)
    assert np.isclose(found.bound - mean, found.quadratic)
