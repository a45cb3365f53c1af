"""What every registered optimizer of `optim` promises, on one quadratic; see `tests.contracts`."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim
from optim import Oracle, eval_params
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
    return jnp.concatenate([jnp.ravel(x).astype(jnp.float32) for x in jax.tree.leaves(params)])


def oracle(key=None):
    """Least squares with a ridge, which declares all that a method may ask for."""
    del key
    return Oracle.composite(
        lambda params: X.astype(np.float32) @ flat(params) - Y.astype(np.float32),
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


def named(state, name):
    """Leaves of a state by the last name on their path, whatever it is wrapped in."""
    found = jax.tree_util.tree_leaves_with_path(state)
    return [x for path, x in found if getattr(path[-1], "name", None) == name]


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_descends_skips_and_resumes(name, tmp_path):
    optimizer, _, run, traces = chunk(name)
    entry = TRANSFORMATIONS[name]
    before = optimizer.init(START)
    params, state = START, before
    for _ in range(entry.steps // CHUNK):
        params, state = run(params, state, FINE)
    assert gap(eval_params(state, params)) < entry.ratio * gap(START)
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

    lost, skipped = run(START, before, FINE.at[::2].set(jnp.inf).at[1::2].set(jnp.nan))
    assert identical(lost, START)
    counts = named(skipped, "skipped")
    assert max(map(int, counts)) == CHUNK
    if len(counts) == 1:  # nothing but the number is changed, not even that of the steps
        again = jax.tree.map(lambda x, y: y if x is counts[0] else x, skipped, before)
        assert identical(again, before)
    if "key" not in entry.options and len(counts) == 1:  # the first step is still to come
        first, plain = run(lost, skipped, FINE)[0], run(START, before, FINE)[0]
        assert np.allclose(flat(first), flat(plain), rtol=1e-5)
    some, _ = run(START, before, FINE.at[jnp.array([0, 4])].set(jnp.nan))
    assert np.all(np.isfinite(flat(some)))
    assert not identical(some, START)
    assert len(traces) == 1


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_composes_and_narrows(name):
    """In a chain and a partition; and half precision takes the same step, in a wide state."""
    optimizer = chunk(name)[0]
    mask = jax.tree.map(lambda _: True, START) | {"b": False}
    labels = jax.tree.map(str, mask)
    wrapped = {
        "plain": optimizer,
        "chain": optax.chain(optax.identity(), optimizer, optax.scale(0.5)),
        "partition": optax.partition({"True": optimizer, "False": optax.sgd(0.25)}, labels),
    }
    half = tree(np.linspace(-1, 2, 8), jnp.bfloat16)

    @quick_jit
    def all_of_them(params, half):
        found = {n: step(o, params, o.init(params)) for n, o in wrapped.items()}
        return found | {"half": step(optimizer, half, optimizer.init(half))}

    found = all_of_them(START, half)
    updates = {n: x[0] for n, x in found.items()}
    assert np.allclose(2 * flat(updates["chain"]), flat(updates["plain"]), rtol=1e-4, atol=1e-6)
    assert np.allclose(updates["partition"]["b"], -0.25 * oracle().grad(START)["b"])
    assert np.any(updates["partition"]["a"] != 0)
    assert kinds(eval_params(found["partition"][1], START)) == kinds(START)

    assert kinds(updates["half"]) == kinds(half)
    size = np.linalg.norm(flat(updates["plain"]))
    assert np.linalg.norm(flat(updates["half"]) - flat(updates["plain"])) < 0.05 * size
    copies = [id(x) for part in named_trees(found["half"][1], "start") for x in part]
    floats = [x for x in jax.tree.leaves(found["half"][1]) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert all(x.dtype.itemsize >= 4 for x in floats if id(x) not in copies)


def named_trees(state, name):
    """Leaves under each field of that name: copies of the parameters, in their own dtypes."""
    found = {}
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        for i, key in enumerate(path):
            if getattr(key, "name", None) == name:
                found.setdefault(path[: i + 1], []).append(x)
    return found.values()


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_injected_hyperparameters_act_at_each_step(name):
    """Whatever is a float is injected; changed after two steps, each changes what follows.

    What is compared with the method by itself also shows that `vmap` is a loop.
    """
    optimizer, _, compiled, _ = chunk(name)
    entry = TRANSFORMATIONS[name]
    bound = inspect.signature(entry.factory).bind(**entry.options)
    bound.apply_defaults()
    floats = {k: v for k, v in bound.arguments.items() if isinstance(v, float)}
    fixed = bound.arguments.keys() - floats.keys()
    injected = optax.inject_hyperparams(entry.factory, static_args=fixed)(**entry.options)

    acting = [k for k in floats if k in entry.options and k not in entry.starts]
    rows = [{}, {}, *({k: 0.8} for k in acting)]
    late = np.arange(CHUNK) >= 2
    values = {
        k: jnp.array([v * np.where(late, row.get(k, 1.0), 1.0) for row in rows], jnp.float32)
        for k, v in floats.items()
    }
    starts = [START, tree(np.linspace(2, -1, 8)), *(START for _ in acting)]

    def run(params, values):
        def body(carry, now):
            params, state = carry
            state = state._replace(hyperparams=now)
            updates, state = step(injected, params, state)
            params = optax.apply_updates(params, updates)
            return (params, state), flat(eval_params(state, params))

        return jax.lax.scan(body, (params, injected.init(params)), values, CHUNK)[1]

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *starts)
    found = quick_jit(jax.vmap(run))(stacked, values)
    for end, start in zip(found[:2], starts[:2], strict=True):
        single, state = compiled(start, optimizer.init(start), FINE)
        assert np.allclose(end[-1], flat(eval_params(state, single)), rtol=1e-2, atol=1e-2)
    for end in found[2:]:
        assert not np.allclose(end, found[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_nothing_to_optimise(name):
    """A mask that hides everything."""
    optimizer = optax.masked(make(name), jax.tree.map(lambda _: False, START))
    updates, _ = jax.eval_shape(lambda p: step(optimizer, p, optimizer.init(p)), START)
    assert kinds(updates) == kinds(START)


@pytest.mark.parametrize("name", ["dog", "a_dog", "nigt", "clip_by_ema_norm", "mfac", "psgd_dense"])
def test_complex_parameters_are_refused(name):
    with pytest.raises(optim.ComplexParameterError, match="expected real parameters"):
        jax.eval_shape(make(name).init, jnp.ones(3, jnp.complex64))
