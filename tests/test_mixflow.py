"""MixFlows: the map and its inverse, densities, and how `vi.fit` makes one."""

import dataclasses
import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import flows
import vi
from flows import mixflow_run
from flows.hamiltonian import Point
from tests import contracts
from tests.stats import assert_mean
from vi.compile import quick_jit
from vi.posterior import saved

DIM = 2
KEY = jax.random.key(0)
LOG_EVIDENCE = 0.0


def banana(x):
    """A normalised density with curved contours: x₁ ~ N(0, 1), x₂ ~ N(x₁² / 2, 1)."""
    return -0.5 * x[0] ** 2 - 0.5 * (x[1] - 0.5 * x[0] ** 2) ** 2 - jnp.log(2 * jnp.pi)


def moves(momentum="normal", step_size=0.1, num_leapfrog=5):
    return flows.HamiltonianMap(jnp.asarray(step_size), jnp.asarray(num_leapfrog), momentum)


def gaussian_start():
    q0 = vi.full_rank(DIM, loc=jnp.array([0.1, 0.4]), scale=1.1)
    return flows.Flow.of_gaussian(q0)


def mixflow(num_maps, start=None, **options):
    target = vi.target(banana, jnp.zeros(DIM))
    q0 = gaussian_start() if start is None else start
    return flows.MixFlow(target, q0, moves(**options), jnp.asarray(jnp.nan), num_maps)


@functools.partial(jax.jit, static_argnames="num")
def draws(q, key, num):
    return q.sample_and_log_prob(key, num)


@pytest.mark.parametrize("momentum", ["normal", "laplace"])
def test_the_inverse_undoes_the_map_and_determinants_are_those_of_the_jacobian(momentum, x64):
    score = jax.grad(banana)
    at = Point(jnp.array([0.3, -0.7]), jnp.array([-1.2, 0.4]), jnp.asarray(0.35))

    @jax.jit
    def there_and_back(at):
        end, log_det = moves(momentum).move(score, at, jnp.asarray(True))
        back, other = moves(momentum).move(score, end, jnp.asarray(False))
        flat, unravel = jax.flatten_util.ravel_pytree(at)
        forward = lambda s: moves(momentum).move(score, unravel(s), jnp.asarray(True))[0]
        jacobian = jax.jacfwd(lambda s: jax.flatten_util.ravel_pytree(forward(s))[0])(flat)
        return end, back, log_det, other, jnp.linalg.slogdet(jacobian)[1]

    end, back, log_det, other, expected = there_and_back(at)
    assert np.abs(end.position - at.position).max() > 0.1
    assert all(np.allclose(a, b, atol=1e-12) for a, b in zip(back, at, strict=True))
    assert np.isclose(log_det, expected, rtol=1e-10)
    assert np.isclose(log_det, -other, rtol=1e-10)


def test_one_map_is_the_gaussian(x64):
    q = mixflow(1)
    z, log_q = draws(q, jax.random.key(0), 5)
    assert np.allclose(log_q, q.start.log_prob(z))


def test_the_fast_elbo_is_the_slow_one(x64):
    """Windows by prefixes and suffixes, against the definition with N backward passes."""
    q = mixflow(6)
    starts, _ = q._starts(jax.random.key(0), 3)

    @jax.jit
    def slow(at):
        terms = []
        for _ in range(q.num_maps):
            log_q = q._log_density(at) + q.map.log_momentum(at.momentum)
            terms.append(q._log_target(at) - log_q)
            at, _ = q.map.move(q._score, at, jnp.asarray(True))
        return jnp.stack(terms).mean()

    found = jax.jit(lambda q: q.evaluate(jax.random.key(0), 3))(q)
    expected = [slow(jax.tree.map(lambda x, i=i: x[i], starts)) for i in range(3)]
    assert np.allclose(found.elbo, expected, rtol=1e-9)
    assert found.inversion_error.max() < 1e-9


@pytest.mark.parametrize("name", contracts.MIXFLOW_STARTS)
def test_weights_have_mean_one(name, x64):
    """E[p / q] = 1 for a normalised target; the twin forgets one of six components.

    False alarm 1e-6; a bias of 2 % is seen.
    """
    q = mixflow(6, contracts.MIXFLOW_STARTS[name](DIM, float))
    z, log_q = draws(q, jax.random.key(1), 8192)
    weights = np.exp(np.asarray(jax.vmap(banana)(z) - log_q))
    assert_mean(weights[:, None], np.ones(1))
    with pytest.raises(AssertionError):
        assert_mean(weights[:, None] * 6 / 5, np.ones(1))


@pytest.mark.parametrize("name", contracts.MIXFLOW_STARTS)
def test_the_density_of_the_position_alone(name, x64):
    """Its estimate averages over momenta: integrates to one on a grid, and one map is exact."""
    q = mixflow(3, contracts.MIXFLOW_STARTS[name](DIM, float))
    grid = np.stack(np.meshgrid(*[np.linspace(-5, 6, 56)] * 2), -1)
    mass = np.exp(jax.jit(lambda q, z: q.log_prob(z))(q, grid)).sum() * 0.2**2
    assert np.isclose(mass, 1, atol=0.02)


def test_augmented_densities_are_unbiased_for_that_of_the_position(x64):
    """Of points of a grid, one momentum each: their integral is one. The twin forgets log m(ρ).

    False alarm 1e-6; a bias of 3 % is seen.
    """
    q = mixflow(3)
    grid = np.stack(np.meshgrid(*[np.linspace(-5, 6, 56)] * 2), -1).reshape(-1, DIM)
    at = jax.jit(lambda q, keys: jax.lax.map(lambda key: q.augmented_log_prob(key, grid), keys))
    log_q = np.asarray(at(q, jax.random.split(KEY, 64)))
    mass = np.exp(log_q).sum(1) * 0.2**2
    assert_mean(mass[:, None], np.ones(1))
    draw = lambda key: q.map.log_momentum(q._starts(key, len(grid))[0].momentum)
    forgotten = log_q + np.asarray(jax.vmap(draw)(jax.random.split(KEY, 64)))
    with pytest.raises(AssertionError):
        assert_mean((np.exp(forgotten).sum(1) * 0.2**2)[:, None], np.ones(1))


@pytest.fixture(scope="module")
def fits():
    family = flows.mixflow(16, step_sizes=(0.05, 0.1), num_leapfrogs=(16,))
    with jax.enable_x64(True):
        target = vi.target(banana, jnp.zeros(DIM))
        gaussian = vi.fit(target, key=jax.random.key(0))
        mixed = vi.fit(target, key=jax.random.key(0), family=family)
    return gaussian, mixed  # outside, or all tests after it would be in 64 bits


def test_fit_improves_on_the_gaussian(fits, x64):
    gaussian, mixed = fits
    assert mixed.elbo > gaussian.elbo + 0.1
    assert mixed.elbo < LOG_EVIDENCE + 5 * mixed.elbo_sem
    assert np.isclose(mixed.diagnostics.log_evidence, LOG_EVIDENCE, atol=0.1)
    assert mixed.khat < max(gaussian.khat, 0.5)
    assert "of 16 maps" in mixed.verdict.text
    assert "of the orbits" in mixed.verdict.text
    assert float(mixed.q.inversion_error) < 1e-2
    assert mixed.cost["gradients"] > gaussian.cost["gradients"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", contracts.MIXFLOW_STARTS)
def test_contract(name, dtype):
    """Precision is kept, one trace serves a shape, and files hold all but the target."""
    traces = 0

    def look(q, key):
        nonlocal traces
        traces += 1
        return q.sample_and_log_prob(key, 3)

    with contracts.precision(dtype):
        q = mixflow(2, contracts.MIXFLOW_STARTS[name](DIM, dtype), num_leapfrog=2)
        cast = lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
        q = dataclasses.replace(q, map=jax.tree.map(cast, q.map))
        jitted = quick_jit(look)
        found = jitted(q, jax.random.key(0))
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
        jitted(dataclasses.replace(q, start=jax.tree.map(lambda x: 1.1 * x, q.start)), KEY)
        assert traces == 1
        leaves, structure = jax.tree.flatten(q.detached())
        back = saved.rebuild(saved.describe_structure(q.detached()), list(leaves))
        assert jax.tree.structure(back) == structure


@pytest.mark.slow
def test_a_start_that_is_given_or_trained(fits):
    """The Gaussian that was found costs nothing again; a flow is trained first, and helps."""
    gaussian, mixed = fits
    options = {"step_sizes": (0.1,), "num_leapfrogs": (8,)}
    with jax.enable_x64(True):
        target = vi.target(banana, jnp.zeros(DIM))
        family = flows.mixflow(16, step_sizes=(0.05, 0.1), num_leapfrogs=(16,), start=gaussian.q)
        again = vi.fit(target, key=jax.random.key(0), family=family)
        assert again.elbo == pytest.approx(mixed.elbo, abs=1e-9)
        assert again.cost["gradients"] == mixed.cost["gradients"] - gaussian.cost["gradients"]
        assert len(again.history["step"]) == 0
        again.plot_elbo()
        small = lambda dim: flows.planar(dim, key=KEY, num_layers=2)
        bent = vi.fit(target, key=KEY, family=flows.mixflow(4, start=small, **options))
    assert "MixFlow of 4 maps from a planar flow (D = 2)" in bent.verdict.text
    assert "Training changed the ELBO" in bent.verdict.text
    assert "searches ended here" in bent.verdict.text


def test_files(fits, tmp_path, x64):
    mixed = fits[1]
    mixed.save(tmp_path / "mixed.npz")
    back = vi.Posterior.load(tmp_path / "mixed.npz", banana, jnp.zeros(DIM))
    again, expected = (p.sample(jax.random.key(3), 20)["x"] for p in (back, mixed))
    assert np.array_equal(again, expected)


@pytest.mark.parametrize(
    ("num_maps", "kept"), [pytest.param(16, (4, 8), marks=pytest.mark.slow), (6, (1,))]
)
def test_chaotic_maps_are_refused_in_32_bits(num_maps, kept):
    """Long orbits of a rough map lose all digits: fewer maps are left, or the Gaussian itself."""
    leaps = 400 if num_maps == 6 else 8
    family = flows.mixflow(num_maps, step_sizes=(0.2,), num_leapfrogs=(leaps,))
    target = vi.target(banana, jnp.zeros(DIM))
    found = vi.fit(target, key=jax.random.key(0), family=family, num_draws=512)
    assert found.q.num_maps in kept
    said = "this is the Gaussian itself" if kept == (1,) else "in a row were worse, or could not"
    assert said in found.verdict.text


@pytest.mark.slow
@pytest.mark.parametrize(("num_maps", "kept"), [(128, 16), (16, 16)])
def test_where_no_map_can_be_inverted_fewer_are_tried_in_64_bits(num_maps, kept, x64):
    family = flows.mixflow(num_maps, num_orbits=32, step_sizes=(0.1,), num_leapfrogs=(16,))
    found = vi.fit(vi.target(banana, jnp.zeros(DIM)), key=KEY, family=family, num_draws=512)
    assert found.q.num_maps == kept
    assert ("in a row were worse, or could not" in found.verdict.text) == (num_maps > kept)


@pytest.mark.slow
@pytest.mark.parametrize(("share", "usable"), [(0.95, True), (0.5, False)])
def test_maps_that_fail_in_the_neck_of_a_funnel_are_not_used(share, usable, x64, monkeypatch):
    """The twin asks for half of the orbits: its ELBO falls below that of the Gaussian."""
    monkeypatch.setattr(mixflow_run, "SHARE", share)

    def funnel(x):
        wide = -0.5 * (x[0] / 6) ** 2 - jnp.log(6.0)
        return wide - 0.5 * (x[1] * jnp.exp(-x[0] / 4)) ** 2 - x[0] / 4 - jnp.log(2 * jnp.pi)

    target = vi.target(funnel, jnp.zeros(DIM))
    gaussian = vi.fit(target, key=KEY)
    family = flows.mixflow(32, num_orbits=32, step_sizes=(0.02, 0.05), num_leapfrogs=(16,))
    found = vi.fit(target, key=KEY, family=family, num_draws=2048)
    assert found.q.num_maps > 1
    assert (found.elbo > gaussian.elbo + 0.1) == usable


def test_impossible_requests():
    target = vi.target(banana, jnp.zeros(DIM))
    with pytest.raises(ValueError, match="positive num_maps"):
        flows.mixflow(0)
    with pytest.raises(ValueError, match="a start out of"):
        flows.mixflow(start="low_rank")
    with pytest.raises(ValueError, match="a start out of"):
        flows.mixflow(start=vi.low_rank(3, 1))
    with pytest.raises(ValueError, match="'normal' or 'laplace'"):
        flows.mixflow(momentum="cauchy")
    with pytest.raises(ValueError, match="nothing to train"):
        vi.fit(target, key=jax.random.key(0), family=flows.mixflow(), num_steps=10)
