"""What every optimizer of parameter trees promises; see `tests.contracts.TREE_OPTIMIZERS`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optim import eval_params
from tests.contracts import TREE_OPTIMIZERS
from vi import storage

CENTRE = {"loc": np.array([0.5, -0.3, 0.4]), "scale": np.array([[0.1, 0.2], [-0.2, 0.4]])}
CENTRE |= {"shift": np.array(0.4), "nothing": np.zeros(0)}
CURVATURE = {"loc": np.array([1.0, 0.1, 0.3]), "scale": np.array([[0.2, 0.7], [1.0, 0.5]])}
CURVATURE |= {"shift": np.array(0.6), "nothing": np.zeros(0)}


def loss(x):
    terms = jax.tree.map(lambda x, c, a: jnp.sum(a * (x - c) ** 2), x, CENTRE, CURVATURE)
    return 0.5 * sum(jax.tree.leaves(terms))


def tree(dtype=jnp.float32):
    return jax.tree.map(lambda c: jnp.zeros(c.shape, dtype), CENTRE)


def stepper(optimizer, trace=lambda: None, f=loss):
    """One step of an ordinary loop, with everything that any transformation may ask for."""

    def step(carry, _=None):
        trace()
        x, state = carry
        value, grads = jax.value_and_grad(f)(x)
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, x)
        updates, state = optimizer.update(grads, state, x, value=value, grad=grads, value_fn=f)
        return (optax.apply_updates(x, updates), state), None

    return step


def descend(optimizer, x, steps, f=loss):
    start = (x, optimizer.init(x))
    run = jax.jit(lambda c: jax.lax.scan(stepper(optimizer, f=f), c, None, steps)[0])
    return run(start)


def shapes(tree):
    return [(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(tree)]


def same(a, b, tol=1e-5):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.allclose(x, y, rtol=tol, atol=tol) for x, y in pairs)


@pytest.mark.parametrize("name", TREE_OPTIMIZERS)
def test_it_descends_and_keeps_its_shapes(name, tmp_path):
    entry = TREE_OPTIMIZERS[name]
    optimizer, traces = entry.make(**entry.numbers), 0

    def count():
        nonlocal traces
        traces += 1

    step = jax.jit(stepper(optimizer, count))
    after = [(tree(), optimizer.init(tree()))]
    for _ in range(4):
        after.append(step(after[-1])[0])
    assert traces == 1
    for carry in after:
        assert shapes(carry) == shapes(after[0])
        assert jax.tree.structure(carry) == jax.tree.structure(after[0])
    assert same(stepper(optimizer)(after[1])[0], after[2])
    storage.save(tmp_path / "state.npz", after[2], {})
    resumed, _ = storage.load_like(tmp_path / "state.npz", after[0])
    for a, b in zip(
        jax.tree.leaves(step(step(resumed)[0])[0]), jax.tree.leaves(after[4]), strict=True
    ):
        assert np.array_equal(a, b)
    pair = jax.tree.map(lambda *x: jnp.stack(x), after[0], after[2])
    batched = jax.vmap(lambda carry: stepper(optimizer)(carry)[0])(pair)
    assert same(jax.tree.map(lambda x: x[1], batched), after[3])
    x, state = descend(optimizer, tree(), entry.steps)
    assert loss(eval_params(state, x)) < entry.ratio * loss(tree())


@pytest.mark.parametrize("name", TREE_OPTIMIZERS)
def test_half_precision_and_zero_gradients(name):
    """bfloat16 leaves stay what they are, scalars do not narrow, and nothing is 0/0."""
    entry = TREE_OPTIMIZERS[name]
    optimizer = entry.make(**entry.numbers)
    x = tree(jnp.bfloat16)
    moved, state = descend(optimizer, x, entry.steps)
    assert shapes(moved) == shapes(x)
    assert loss(eval_params(state, moved)) < 0.2 * loss(x)
    alone = jax.tree.leaves(optimizer.init({"loc": x["loc"]}))
    assert all(s.dtype != jnp.bfloat16 for s in alone if jnp.size(s) != 3)
    still, state = descend(optimizer, jax.tree.map(jnp.asarray, CENTRE), 3)
    assert same(eval_params(state, still), CENTRE, 1e-6)
    assert all(np.all(np.isfinite(s)) for s in jax.tree.leaves(state))


@pytest.mark.parametrize("name", TREE_OPTIMIZERS)
def test_it_composes(name):
    """Under chain, masked, partition, apply_if_finite and inject_hyperparams."""
    entry = TREE_OPTIMIZERS[name]
    optimizer = entry.make(**entry.numbers)
    x, state = descend(optimizer, tree(), 3)
    injected = optax.inject_hyperparams(entry.make)(**entry.numbers)
    chained = optax.chain(optax.identity(), optimizer)
    guarded = optax.apply_if_finite(optimizer, 5)
    for wrapped in (injected, chained, guarded):
        there, its_state = descend(wrapped, tree(), 3)
        assert same(there, x)
        assert same(eval_params(its_state, there), eval_params(state, x))
    broken, _ = guarded.update(
        jax.tree.map(lambda c: jnp.full(c.shape, jnp.nan), CENTRE), its_state, x
    )
    assert all(np.all(u == 0) for u in jax.tree.leaves(broken))
    labels = {"loc": "ours", "scale": "theirs", "shift": "ours", "nothing": "ours"}
    ours = jax.tree.map(lambda label: label == "ours", labels)
    masked = optax.masked(optimizer, ours)
    split = optax.partition({"ours": optimizer, "theirs": optax.set_to_zero()}, labels)
    only = lambda x: loss({**x, "scale": jnp.asarray(CENTRE["scale"], jnp.float32)})
    rest = jax.tree.map(lambda mine: not mine, ours)
    masked = optax.chain(masked, optax.masked(optax.set_to_zero(), rest))
    a, _ = descend(masked, tree(), 3, only)
    b, its_state = descend(split, tree(), 3, only)
    assert same(a, b)
    assert np.all(b["scale"] == 0)
    assert not same(b, tree())
    assert shapes(eval_params(its_state, b)) == shapes(b)
    assert np.all(eval_params(its_state, b)["scale"] == 0)
