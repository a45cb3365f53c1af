"""Interacting particles against quantiles, Gaussians and fixed points in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from samplers import particles
from vi.distances import kernel_stein

KEY = jax.random.key(2)
MEAN, COVARIANCE = np.array([1.0, -2.0]), np.array([[2.0, 0.6], [0.6, 0.5]])
PRECISION = np.linalg.inv(COVARIANCE).astype(np.float32)
gaussian = lambda x: -0.5 * (x - MEAN) @ PRECISION @ (x - MEAN)


def run(how, start, num_steps, key=KEY):
    one = lambda state, key: how.step(key, state)
    scan = jax.jit(lambda state, keys: jax.lax.scan(one, state, keys))
    return scan(how.init(start), jax.random.split(key, num_steps))


def start(n=100, dim=2):
    return jax.random.normal(jax.random.key(0), (n, dim))


# ---- Stein -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "num_steps"),
    [
        ({"step_size": 0.3}, 600),
        ({"step_size": 1.0, "method": "newton"}, 30),
        ({"step_size": 0.3, "temperature": optax.linear_schedule(5.0, 1.0, 300)}, 600),
    ],
    ids=["gradient", "newton", "annealed"],
)
def test_svgd_finds_a_gaussian(options, num_steps):
    state, info = run(particles.svgd(gaussian, **options), start(), num_steps)
    x = np.asarray(state.particles)
    np.testing.assert_allclose(x.mean(0), MEAN, atol=0.02)
    np.testing.assert_allclose(np.cov(x.T), COVARIANCE, rtol=0.2, atol=0.05)
    scores = jax.vmap(jax.grad(gaussian))(state.particles)
    first = jax.vmap(jax.grad(gaussian))(start())
    assert kernel_stein(state.particles, scores) < 0.01 * kernel_stein(start(), first)
    assert info.moved[-1] < 0.05 * info.moved[0]


def test_the_direction_of_svgd_is_its_formula():
    x, h = start(5), 0.7
    state, _ = particles.svgd(gaussian, 0.1, bandwidth=h).step(KEY, particles.ParticleState(x, 0))
    k = lambda a, b: jnp.exp(-jnp.sum((a - b) ** 2) / (2 * h**2))
    phi = lambda a: sum(k(b, a) * jax.grad(gaussian)(b) + jax.grad(k)(b, a) for b in x) / 5
    expected = x + 0.1 * jnp.stack([phi(a) for a in x])
    np.testing.assert_allclose(state.particles, expected, rtol=1e-5)


def test_newton_steps_are_bounded_where_the_curvature_vanishes():
    """The log of a scale: far above it the density is nearly straight, and Newton's step long."""
    scale = lambda x: -5 * x[0] - 2.5 * jnp.exp(-2 * x[0])  # 5 observations of variance one
    far = 6 + 0.3 * start(30, 1)
    step = jax.jit(particles.svgd(scale, 1.0, method="newton").step)
    state, _ = step(KEY, particles.ParticleState(far, 0))
    move = jnp.abs(state.particles - far)
    assert 0.1 < move.max() < 2.001 * far.std()
    for _ in range(40):
        state, _ = step(KEY, state)
    assert abs(jnp.median(state.particles)) < 0.5


def test_annealing_reaches_both_modes():
    """From one side; without annealing all particles stay there."""
    both = lambda x: jnp.logaddexp(-0.5 * jnp.sum((x - 5) ** 2), -0.5 * jnp.sum((x + 5) ** 2))
    side = 5 + 0.5 * start(60, 1)
    share = {}
    for name, heat in (("cold", 1.0), ("hot", optax.linear_schedule(30.0, 1.0, 1500))):
        state, _ = run(particles.svgd(both, 0.5, temperature=heat), side, 2000)
        share[name] = float(jnp.mean(state.particles < 0))
    assert share["cold"] == 0
    assert 0.25 < share["hot"] < 0.75


# ---- flows of functionals ----------------------------------------------------------------------


def energy(w):
    """Energy distance from a unit normal, less its constant: displacement convex on the line."""
    w = w[:, 0]
    cdf, pdf = jax.scipy.stats.norm.cdf(w), jax.scipy.stats.norm.pdf(w)
    to_target = jnp.mean(w * (2 * cdf - 1) + 2 * pdf)
    return 2 * to_target - jnp.mean(jnp.abs(w[:, None] - w))


def test_descent_of_the_energy_distance_ends_at_quantiles():
    """F⁻¹((i - ½)/n) exactly."""
    n = 15
    schedule = lambda count: 0.3 * 0.997**count
    state, _ = run(particles.particle_descent(energy, schedule), start(n, 1) + 2, 4000)
    found = np.sort(np.asarray(state.particles)[:, 0])
    np.testing.assert_allclose(found, stats.norm.ppf((np.arange(n) + 0.5) / n), atol=2e-3)


def test_mean_field_langevin_has_its_fixed_point():
    """F = ½(E x - a)² + ½ r E x²: a normal of mean a/(1 + r) and variance λ/r.

    The system of N particles is linear, so its own stationary law, steps included, is exact: the
    variance about their mean is λ/r / (1 - εr/2) (1 - 1/N). At 4,000 particles the mean of 50
    looks is good to 1 %.
    """
    a, r, heat, size = 2.0, 0.5, 0.3, 0.1
    functional = lambda x: 0.5 * (jnp.mean(x) - a) ** 2 + 0.5 * r * jnp.mean(x**2)
    how = particles.mean_field_langevin(functional, size, temperature=heat)
    one = lambda state, key: (lambda s: (s, (s.particles.mean(), s.particles.var())))(
        how.step(key, state)[0]
    )
    scan = jax.jit(lambda s, k: jax.lax.scan(one, s, k)[1])
    mean, variance = scan(how.init(start(4000, 1)), jax.random.split(KEY, 400))
    np.testing.assert_allclose(mean[200:].mean(), a / (1 + r), atol=0.01)
    np.testing.assert_allclose(variance[200:].mean(), heat / r / (1 - size * r / 2), rtol=0.02)
    assert abs(variance[200:].mean() - heat / r) > 0.01  # the step's bias is seen


# ---- consensus ---------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_consensus_sampling_of_a_gaussian(beta):
    state, _ = run(particles.consensus_sampling(gaussian, 0.7, beta=beta), start(20_000), 100)
    x = np.asarray(state.particles)
    np.testing.assert_allclose(x.mean(0), MEAN, atol=0.15)
    np.testing.assert_allclose(np.cov(x.T), COVARIANCE, rtol=0.1, atol=0.03)


def test_consensus_optimisation_passes_local_maxima():
    """Rastrigin's function in five dimensions, whose optimum gradients do not find."""
    loss = lambda x: jnp.sum((x - 1) ** 2 + 10 * (1 - jnp.cos(2 * jnp.pi * (x - 1))))
    log_density = lambda x: -loss(x)
    how = particles.consensus_optimization(log_density, 0.02, diffusion=4.0)
    state, _ = run(how, 4 * start(2000, 5), 1000)
    np.testing.assert_allclose(state.particles.mean(0), 1.0, atol=0.02)
    x = 4 * start(20, 5)
    descend = lambda x, _: (x - 0.001 * jax.vmap(jax.grad(loss))(x), None)
    assert jax.vmap(loss)(jax.lax.scan(descend, x, length=2000)[0]).min() > 1


# ---- fictitious play ---------------------------------------------------------------------------


def test_fictitious_play_has_its_fixed_point():
    """ℓ = ½(h - a)², h = θ: the Gibbs measure is normal, of mean a/(1 + 2λ') and variance λ/2λ'."""
    a, decay, heat, size = 2.0, 0.5, 0.3, 0.05
    how = particles.entropic_fictitious_play(
        lambda w: w, lambda h: 0.5 * (h - a) ** 2,
        temperature=heat, decay=decay, step_size=size, rate=0.1,
    )  # fmt: skip
    state, info = run(how, start(4000, 1) - 3, 100)
    np.testing.assert_allclose(state.outputs, a / (1 + 2 * decay), atol=0.02)
    np.testing.assert_allclose(state.particles.mean(), a / (1 + 2 * decay), atol=0.06)
    variance = heat / (2 * decay) / (1 - size * decay)
    np.testing.assert_allclose(state.particles.var(), variance, rtol=0.15)
    assert not info.kept.any()


# ---- faults ------------------------------------------------------------------------------------

HOLED = lambda x: -0.5 * jnp.sum(x**2) + jnp.sum(x) * jnp.where(x[0] > 3, jnp.nan, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        particles.svgd(HOLED, 0.1),
        particles.svgd(HOLED, 1.0, method="newton"),
        particles.mean_field_langevin(lambda x: -jnp.mean(jax.vmap(HOLED)(x)), 0.1),
    ],
    ids=["svgd", "newton", "langevin"],
)
def test_particles_without_a_score_stay_and_are_counted(how):
    x = start(10).at[0].set(4.0)
    state, info = how.step(KEY, how.init(x))
    assert info.kept == 1
    np.testing.assert_array_equal(state.particles[0], x[0])
    assert jnp.isfinite(state.particles).all()
    assert jnp.all(state.particles[1:] != x[1:])


def test_consensus_gives_no_weight_to_what_is_not_finite():
    x = start(10).at[0].set(4.0)
    for how in (particles.consensus_sampling, particles.consensus_optimization):
        state, info = how(HOLED, 0.1).step(KEY, how(HOLED, 0.1).init(x))
        assert jnp.isfinite(state.particles).all()
        assert info.kept == 0


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="'newton'"):
        particles.svgd(gaussian, 0.1, method="bfgs")
    with pytest.raises(ValueError, match=r"\(N, D\), N at least 2"):
        particles.svgd(gaussian, 0.1).init(jnp.zeros(3))


@pytest.mark.slow
def test_double_precision_is_kept(x64):
    for how in (
        particles.svgd(lambda x: -jnp.sum(x**2), 0.1),
        particles.consensus_sampling(lambda x: -jnp.sum(x**2), 0.1),
        particles.mean_field_langevin(lambda x: jnp.mean(x**2), 0.1),
    ):
        for dtype in (np.float32, np.float64):
            x = np.arange(6, dtype=dtype).reshape(3, 2)
            assert how.step(KEY, how.init(x))[0].particles.dtype == dtype
