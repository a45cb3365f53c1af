"""Families against SciPy, closed forms and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import vi
from tests.stats import assert_mean
from vi.families.scale import (
    BlockScale,
    DenseScale,
    DiagonalScale,
    LowRankScale,
    from_positive,
    to_positive,
)


def random_gaussian(kind, positive="linear", dim=4, seed=0):
    rng = np.random.default_rng(seed)
    diagonal = jnp.asarray(rng.uniform(0.3, 2.0, dim))
    loc = jnp.asarray(rng.normal(size=dim))
    if kind == "diagonal":
        return vi.Gaussian(loc, DiagonalScale.of(diagonal, positive))
    if kind == "low_rank":
        factor = jnp.asarray(rng.normal(size=(dim, 2)))
        return vi.Gaussian(loc, LowRankScale.of(diagonal, factor, positive))
    tril = lambda n: jnp.asarray(np.tril(rng.normal(size=(n, n)), -1)) + jnp.diag(diagonal[:n])
    if kind == "block":
        blocks = (DenseScale.of(tril(1), positive), DenseScale.of(tril(3), positive))
        return vi.Gaussian(loc, BlockScale(blocks, ((2,), (0, 1, 3))))
    return vi.Gaussian(loc, DenseScale.of(tril(dim), positive))


KINDS = ("diagonal", "dense", "block", "low_rank")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positive", ["linear", "softplus", "exp"])
def test_density_entropy_and_moments_are_scipys(kind, positive, x64):
    q = random_gaussian(kind, positive)
    covariance = np.asarray(q.covariance())
    reference = stats.multivariate_normal(np.asarray(q.loc), covariance)
    z = np.random.default_rng(1).normal(size=(2, 5, 4))
    assert np.allclose(q.log_prob(jnp.asarray(z)), reference.logpdf(z), rtol=1e-10)
    assert np.isclose(q.entropy(), reference.entropy(), rtol=1e-10)
    assert np.allclose(q.variance(), np.diag(covariance), rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_covariance(kind, x64):
    """Exact: the map from noise to draws is linear, so its Jacobian's square is the covariance."""
    q = random_gaussian(kind)
    jacobian = jax.jacobian(lambda e: q.draw(e[None])[0][0])(jnp.zeros(q.scale.noise_dim))
    assert np.allclose(jacobian @ jacobian.T, q.covariance(), atol=1e-12)


def test_a_negative_linear_scale_means_its_absolute_value(x64):
    q = random_gaussian("dense")
    flipped = vi.Gaussian(q.loc, DenseScale(q.scale.raw * jnp.array([1, -1, 1, -1.0])))
    assert np.allclose(flipped.covariance(), q.covariance())
    assert np.isclose(flipped.entropy(), q.entropy())


@pytest.mark.parametrize("kind", ["linear", "softplus", "exp"])
def test_positive_maps_invert(kind, x64):
    values = jnp.array([1e-6, 0.3, 1.0, 50.0])
    assert np.allclose(to_positive(from_positive(values, kind), kind), values, rtol=1e-9)
    with pytest.raises(ValueError, match="'linear', 'softplus' or 'exp'"):
        to_positive(values, "square")


@pytest.fixture(scope="module")
def mix():
    a = vi.full_rank(2, loc=jnp.array([-1.0, 0.0]), scale=0.7)
    b = vi.full_rank(2, loc=jnp.array([2.0, 1.0]), scale=1.3)
    return vi.mixture([a, b], jnp.array([1.0, 3.0]))


@pytest.mark.parametrize(
    "weights", [[-1.0, 2.0], [0.0, 1.0], [np.nan, 1.0], [np.inf, 1.0], [1.0], [[0.5, 0.5]]]
)
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="2 positive finite weights"):
        vi.mixture([vi.full_rank(2), vi.full_rank(2)], jnp.array(weights))


def test_weights_may_be_traced():
    make = jax.jit(lambda w: vi.mixture([vi.full_rank(2), vi.full_rank(2)], w).logits)
    assert np.allclose(np.exp(make(jnp.array([0.25, 0.75]))), [0.25, 0.75])


def test_mixture_is_normalised_and_has_its_moments(mix):
    grid = np.linspace(-9, 11, 400)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1)
    density = np.exp(np.asarray(mix.log_prob(jnp.asarray(points, jnp.float32)), float))
    cell = (grid[1] - grid[0]) ** 2
    mean = (density[..., None] * points).sum((0, 1)) * cell
    assert np.isclose(density.sum() * cell, 1, atol=1e-5)
    assert np.allclose(mean, mix.loc, atol=1e-4)
    offset = points - mean
    covariance = np.einsum("xy,xyi,xyj->ij", density, offset, offset) * cell
    assert np.allclose(covariance, mix.covariance(), atol=1e-3)
    assert np.allclose(mix.variance(), np.diag(mix.covariance()), atol=1e-5)


def test_mixture_draws(mix):
    """False alarms: 2e-6. Detects a bias of 0.05 standard deviations."""
    z = mix.sample(jax.random.key(0), 20_000)
    assert_mean(z, mix.loc)
    assert_mean((np.asarray(z) - np.asarray(mix.loc)) ** 2, mix.variance())
    with pytest.raises(AssertionError):  # the twin: draws of one component only
        assert_mean(mix._component(0).sample(jax.random.key(0), 20_000), mix.loc)


def test_mixture_expectations_are_differentiable_in_the_weights(mix, x64):
    """E_q[z₁] = Σ w_k m_k1: its gradient in the logits is exact, whatever the noise averages to."""
    mix = jax.tree.map(lambda x: x.astype(jnp.float64), mix)

    def mean(q):
        noise = q.noise(jax.random.key(1), 500)
        z, weights = q.draw(jnp.concatenate([noise, -noise], axis=1))
        return weights @ z[:, 0]

    gradient = jax.grad(mean)(mix)
    exact = jax.grad(lambda q: q.loc[0])(mix)
    assert np.allclose(gradient.logits, exact.logits, atol=1e-9)
    assert np.allclose(gradient.components.loc, exact.components.loc, atol=1e-9)


def test_delta_is_a_point():
    q = vi.Delta(jnp.array([1.0, 2.0]))
    z, log_q = q.sample_and_log_prob(jax.random.key(0), 3)
    assert np.array_equal(z, np.tile([1.0, 2.0], (3, 1)))
    assert not np.any(log_q)
    assert q.entropy() == 0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: vi.low_rank(3, 4), "0 < rank <= dim"),
        (lambda: vi.block(((0, 1), (1, 2))), "name each of"),
        (lambda: vi.mixture([vi.mean_field(2), vi.full_rank(2)]), "all of one structure"),
        (lambda: vi.mixture([]), "at least one component"),
    ],
)
def test_wrong_families_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
