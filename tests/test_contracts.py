"""What every registered family, estimator and optimizer promises; see `tests.contracts`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vi
from tests import contracts
from tests.contracts import DIM, ESTIMATORS, FAMILIES, MODELS, OPTIMIZERS, precision
from vi import storage
from vi.posterior import saved

DTYPES = ("float32", "float64")
LOC = np.array([0.3, -0.2, 0.5])
KEY = jax.random.key(0)


def close(a, b, tol):
    return all(
        np.allclose(x, y, rtol=tol, atol=tol)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def identical(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in pairs)


def describe(q, key, z):
    """All that a family can say of itself."""
    draws, log_q = q.sample_and_log_prob(key, 5)
    reparameterised, weights = q.draw(q.noise(key, 4))
    return draws, log_q, q.log_prob(z), q.variance(), q.covariance(), reparameterised, weights


# ---- families ----------------------------------------------------------------------------------

COSTLY = {  # to compile
    "mixture_of_flows", "elbo_pathwise_mixture", "mixture_flow", "bonnet_price", "spherical_radial",
    "riemannian_adam", "polynomial_average", "reverse_kl_of_a_flow", "normalized_a_dog_averaged",
    "iwae_doubly", "stein",
}  # fmt: skip


def listed(registry):
    """Names, those of costly entries marked as slow."""
    slow = pytest.mark.slow
    return [pytest.param(name, marks=slow) if name in COSTLY else name for name in registry]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", listed(FAMILIES))
def test_family(name, dtype):
    make = FAMILIES[name]
    traces = 0

    def traced(*args):
        nonlocal traces
        traces += 1
        return describe(*args)

    with precision(dtype):
        q, other = (make(jnp.asarray(sign * LOC, dtype)) for sign in (1, -2))
        z = jnp.asarray(np.linspace(-1, 1, 2 * DIM).reshape(2, DIM), dtype)
        tol = 1e-5 if dtype == "float32" else 1e-12
        eager = describe(q, KEY, z)
        assert {leaf.dtype for leaf in jax.tree.leaves((q, eager))} == {jnp.dtype(dtype)}
        assert q.dim == DIM
        draws, log_q, *_, weights = eager
        assert draws.shape == (5, DIM)
        assert np.allclose(q.log_prob(draws), log_q, rtol=1e-4)
        assert np.isclose(weights.sum(), 1)
        one, log_one = q.sample_and_log_prob(KEY)
        assert one.shape == (DIM,)
        assert log_one.shape == ()
        jitted = jax.jit(traced)
        assert close(jitted(q, KEY, z), eager, tol)
        jitted(other, jax.random.key(1), z + 1)
        assert traces == 1
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), q, other)
        batched = jax.vmap(lambda q: q.log_prob(z))(stacked)
        assert close(batched, jnp.stack([q.log_prob(z), other.log_prob(z)]), tol)
        leaves, structure = jax.tree.flatten(q)
        back = saved.rebuild(saved.describe_structure(q), list(leaves))
        assert jax.tree.structure(back) == structure
        assert identical(back, q)


@pytest.mark.parametrize("name", listed(FAMILIES))
def test_gradients_of_a_familys_density(name, x64):
    q = FAMILIES[name](jnp.asarray(LOC))
    z = jnp.asarray(np.linspace(-1, 1, DIM))
    finite_differences(lambda q: q.log_prob(z), q, jax.grad(lambda q: q.log_prob(z))(q))


def finite_differences(f, at, gradient, h=1e-6):
    """Central differences along a fixed direction of all leaves."""
    rng = np.random.default_rng(0)
    along = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), at)
    moved = lambda t: f(jax.tree.map(lambda x, v: x + t * v, at, along))
    slope = (moved(h) - moved(-h)) / (2 * h)
    parts = jax.tree.map(lambda g, v: jnp.sum(g * v), gradient, along)
    assert np.isclose(sum(jax.tree.leaves(parts)), slope, rtol=1e-5, atol=1e-7)


# ---- estimators --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", listed(ESTIMATORS))
def test_estimator(name):
    entry = ESTIMATORS[name]
    make_family = FAMILIES[entry.family]
    estimator, traces = entry.make(), 0
    assert jax.tree.structure(estimator) == jax.tree.structure(entry.make())

    def traced(estimator, key, q, target):
        nonlocal traces
        traces += 1
        return estimator(key, q, target)

    jitted = jax.jit(traced)
    for dtype in DTYPES:
        with precision(dtype):
            q, target = make_family(jnp.asarray(LOC, dtype)), contracts.target(dtype)
            found = jitted(estimator, KEY, q, target)
            assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
    assert traces == 2
    with precision("float64"):
        assert close(estimator(KEY, q, target), found, 1e-9)
        keys = jax.random.split(KEY, 2)
        batched = jax.vmap(lambda key: estimator(key, q, target))(keys)
        looped = [jitted(estimator, key, q, target) for key in keys]
        assert close(batched, jax.tree.map(lambda *x: jnp.stack(x), *looped), 1e-9)
        assert not close(looped[0], looped[1], 1e-9)
        if entry.differentiable:
            loss = jax.jit(lambda q: estimator(KEY, q, target)[0])
            finite_differences(loss, q, found[1])


# ---- optimizers --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", listed(OPTIMIZERS))
def test_optimizer(name, tmp_path):
    entry = OPTIMIZERS[name]
    optimizer, estimator = entry.make(), ESTIMATORS[entry.estimator].make()
    traces = 0

    def step(carry, t, target):
        nonlocal traces
        traces += 1
        q, state = carry
        loss, grads = estimator(jax.random.fold_in(KEY, t), q, target)
        updates, state = optimizer.update(grads, state, q, value=loss, grad=grads)
        return optax.apply_updates(q, updates), state

    jitted = jax.jit(step)
    for dtype in DTYPES:
        with precision(dtype):
            target = contracts.target(dtype)
            q = FAMILIES[entry.family](jnp.asarray(LOC, dtype))
            start = (q, optimizer.init(q))
            after = [start]
            for t in range(4):
                after.append(jitted(after[-1], t, target))
            leaves, before = jax.tree.leaves(after[-1][0]), jax.tree.leaves(q)
            assert [(x.shape, x.dtype) for x in leaves] == [(x.shape, x.dtype) for x in before]
            assert all(np.all(np.isfinite(x)) for x in leaves)
            assert not identical(after[-1][0], q)
            assert jax.tree.structure(after[-1]) == jax.tree.structure(start)
    assert traces == 2
    with precision("float64"):
        assert close(step(start, 0, target), after[1], 1e-9)
        scanned, _ = jax.jit(
            lambda start: jax.lax.scan(
                lambda c, t: (step(c, t, target), None), start, jnp.arange(4)
            )
        )(start)
        assert close(scanned, after[-1], 1e-9)
        pair = jax.tree.map(lambda *x: jnp.stack(x), after[0], after[2])
        batched = jax.vmap(lambda carry: step(carry, 2, target))(pair)
        assert close(jax.tree.map(lambda x: x[1], batched), after[3], 1e-9)
        storage.save(tmp_path / "state.npz", after[2], {})
        resumed, _ = storage.load_like(tmp_path / "state.npz", start)
        for t in (2, 3):
            resumed = jitted(resumed, t, target)
        assert identical(resumed, after[-1])


# ---- fits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_posterior_saves_and_loads(name, tmp_path):
    model, args = MODELS[name]
    posterior = vi.fit(model, *args, key=KEY)
    posterior.save(tmp_path / "posterior.npz")
    back = vi.Posterior.load(tmp_path / "posterior.npz", model, *args)
    assert identical(back.q, posterior.q)
    assert identical(back.sample(KEY, 10), posterior.sample(KEY, 10))
    assert back.verdict == posterior.verdict
    assert back.cost == posterior.cost
