"""What every registered optimizer of `optim` promises, on one quadratic; see `tests.contracts`."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optim import Oracle
from optim.vectors import VectorState
from tests.contracts import TRANSFORMATIONS
from vi import storage
from vi.compile import quick_jit

CHUNK = 10
ROWS = 12
RNG = np.random.default_rng(3)
X = RNG.normal(size=(ROWS, 8)) * np.geomspace(0.3, 3.0, 8)
Y = X @ RNG.normal(size=8)
RIDGE = 0.01
BEST = np.linalg.solve(X.T @ X / ROWS + RIDGE * np.eye(8), X.T @ Y / ROWS)


def tree(vector, dtype=jnp.float32):
    """Vectors, a scalar, a matrix and an empty leaf."""
    a, b, c = np.split(np.asarray(vector), [3, 4])
    made = {"a": a, "b": b[0], "c": {"m": c.reshape(2, 2)}, "e": np.zeros(0)}
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), made)


def flat(params):
    return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(params)])


def oracle(key=None):
    """Least squares with a ridge, which declares all that a method may ask for."""
    del key
    return Oracle.composite(
        lambda params: jnp.asarray(X, flat(params).dtype) @ flat(params) - Y.astype(np.float32),
        lambda h: h**2 / 2,
        lambda params: RIDGE * jnp.sum(flat(params) ** 2) / 2,
        fresh=oracle,
    )


def gap(params):
    x = np.asarray(flat(params), np.float64) - BEST
    return x @ (X.T @ X / ROWS + RIDGE * np.eye(8)) @ x / 2


def step(optimizer, params, state, factor=1.0):
    value, grad = oracle().value_and_grad(params)
    grad = jax.tree.map(lambda g: (factor * g).astype(g.dtype), grad)
    return optimizer.update(
        grad, state, params, value=value, grad=grad, value_fn=oracle().restrict(params)
    )


def make(name):
    entry = TRANSFORMATIONS[name]
    return entry.factory(**entry.options)


@functools.cache
def chunk(name):
    """Ten steps, compiled once for all tests of a method; counts its traces."""
    optimizer, traces = make(name), []

    def run(params, state, factors):
        traces.append(name)

        def body(carry, factor):
            params, state = carry
            updates, state = step(optimizer, params, state, factor)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, state), factors)[0]

    return optimizer, run, quick_jit(run), traces


START = tree(np.linspace(-1, 2, 8))
FINE = jnp.ones(CHUNK)


def kinds(x):
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(x)]


def identical(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_descends_skips_and_resumes(name, tmp_path):
    optimizer, _, run, traces = chunk(name)
    entry = TRANSFORMATIONS[name]
    before = optimizer.init(START)
    params, state = START, before
    for _ in range(entry.steps // CHUNK):
        params, state = run(params, state, FINE)
    assert gap(params) < entry.ratio * gap(START)
    assert kinds((params, state)) == kinds((START, before))
    assert jax.tree.structure((params, state)) == jax.tree.structure((START, before))

    storage.save(tmp_path / "state.npz", run(START, before, FINE), {})
    resumed, _ = storage.load_like(tmp_path / "state.npz", (START, before))
    assert identical(run(*resumed, FINE), run(*run(START, before, FINE), FINE))

    still, after = run(START, before, 0 * FINE)
    assert identical(still, START)
    moved, _ = run(still, after, FINE)
    assert np.all(np.isfinite(flat(moved)))
    assert not identical(moved, START)

    lost, skipped = run(START, before, jnp.nan * FINE)
    assert identical(lost, START)
    if isinstance(skipped, VectorState):
        assert int(skipped.skipped) == CHUNK
        assert identical(skipped.inner, before.inner)
    some, _ = run(START, before, FINE.at[jnp.array([0, 4])].set(jnp.nan))
    assert np.all(np.isfinite(flat(some)))
    assert not identical(some, START)
    assert len(traces) == 1


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_composes(name):
    optimizer, run, compiled, _ = chunk(name)
    entry = TRANSFORMATIONS[name]
    mask = jax.tree.map(lambda _: True, START) | {"b": False}
    labels = jax.tree.map(str, mask)
    floats = {k: v for k, v in entry.options.items() if isinstance(v, float)}
    fixed = inspect.signature(entry.factory).parameters.keys() - floats.keys()
    injected = optax.inject_hyperparams(entry.factory, static_args=fixed)
    wrapped = {
        "plain": optimizer,
        "chain": optax.chain(injected(**entry.options), optax.scale(0.5)),
        "partition": optax.partition({"True": optimizer, "False": optax.sgd(0.25)}, labels),
    }

    @quick_jit
    def all_of_them(params):
        return {n: step(o, params, o.init(params))[0] for n, o in wrapped.items()}

    found = all_of_them(START)
    assert np.allclose(2 * flat(found["chain"]), flat(found["plain"]), rtol=1e-4, atol=1e-6)
    assert np.allclose(found["partition"]["b"], -0.25 * oracle().grad(START)["b"])
    assert np.any(found["partition"]["a"] != 0)

    other = tree(np.linspace(2, -1, 8))
    both = jax.tree.map(lambda *x: jnp.stack(x), START, other)
    batched, _ = quick_jit(jax.vmap(lambda p: run(p, optimizer.init(p), FINE)))(both)
    for i, start in enumerate((START, other)):
        single, _ = compiled(start, optimizer.init(start), FINE)
        assert np.allclose(jax.vmap(flat)(batched)[i], flat(single), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_half_precision(name):
    """States stay wide and parameters narrow, whatever the step; nothing is computed."""
    optimizer = make(name)
    params = jax.eval_shape(lambda: tree(np.zeros(8), jnp.bfloat16))
    before = jax.eval_shape(optimizer.init, params)
    updates, after = jax.eval_shape(functools.partial(step, optimizer), params, before)
    assert kinds(updates) == kinds(params)
    assert kinds(after) == kinds(before)
    floats = [x for x in jax.tree.leaves(after) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert all(x.dtype.itemsize >= 4 for x in floats)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_nothing_to_optimise(name):
    """A mask that hides everything."""
    optimizer = optax.masked(make(name), jax.tree.map(lambda _: False, START))
    updates, _ = jax.eval_shape(lambda p: step(optimizer, p, optimizer.init(p)), START)
    assert kinds(updates) == kinds(START)
