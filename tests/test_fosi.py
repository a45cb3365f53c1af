"""FOSI against its formula in NumPy, and what it leaves to its base."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optim import Oracle, fosi
from tests.losses import INDEFINITE, START, iterates

KEY = jax.random.key(1)
QUADRATIC = lambda x: 0.5 * x @ jnp.asarray(INDEFINITE) @ x


@pytest.mark.parametrize(
    ("largest", "smallest", "cap"), [(1, 0, 9.0), (1, 1, 9.0), (4, 0, 9.0), (1, 1, 0.05)]
)
def test_is_its_formula(largest, smallest, cap, x64):
    """Momentum as base; measured after steps 1 and 4, used from the next."""
    options = {"num_largest": largest, "num_smallest": smallest, "period": 3, "warmup": 1}
    optimizer = fosi(
        KEY, optax.sgd(0.05, momentum=0.7), 0.4, momentum=0.6, max_change=cap, **options
    )
    found = iterates(optimizer, lambda t: Oracle(QUADRATIC), jnp.asarray(START), 7)
    values, vectors = np.linalg.eigh(INDEFINITE)
    chosen = list(range(4 - largest, 4)) + list(range(smallest))
    x, w, trace, V, lam = START, np.zeros(4), np.zeros(4), np.zeros((4, 0)), np.zeros(0)
    for t in range(7):
        g = INDEFINITE @ x
        inside = V @ (V.T @ g)
        w = 0.6 * w + 0.4 * inside
        trace = 0.7 * trace + g - inside
        other = -0.05 * trace
        newton = 0.4 * V @ ((V.T @ w) / np.abs(lam))
        newton *= min(1, 2 * cap / max(np.linalg.norm(newton), 1e-300))
        x = x - newton + other - V @ (V.T @ other)
        if t in (1, 4):
            V, lam = vectors[:, chosen], values[chosen]
            w = V @ (V.T @ w)
        assert np.allclose(found[t][0], x, rtol=1e-7, atol=1e-9)


def test_no_pair_is_taken_twice():
    """A multiple of the identity has one pair in any Krylov space, not one at either end."""
    f = Oracle(lambda x: jnp.sum(x**2))
    optimizer = fosi(KEY, optax.sgd(0.1), num_largest=2, num_smallest=2, warmup=0)
    _, state = iterates(optimizer, lambda t: f, jnp.linspace(-1.0, 2.0, 10), 1)[-1]
    vectors, there = np.asarray(state.inner.vectors), np.asarray(state.inner.values) != 0
    assert 1 <= there.sum() < 4
    assert np.allclose(vectors @ vectors.T, np.diag(there), atol=1e-3)


def test_base_gets_trees_and_extra_arguments():
    """A base with a line search; the parameters are a tree in half precision."""
    seen = {}

    def update(updates, state, params=None, *, value=None, value_fn=None, **extra):
        seen.update(updates=updates, gap=value_fn(params) - value)
        return jax.tree.map(lambda g: -0.1 * g, updates), state

    base = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    f = lambda t: jnp.sum(t["a"] ** 2).astype(jnp.float32) + t["b"].astype(jnp.float32) ** 2
    x = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.ones((), jnp.bfloat16)}
    optimizer = fosi(KEY, base, num_largest=1)
    value, g = jax.value_and_grad(f)(x)
    updates, _ = optimizer.update(g, optimizer.init(x), x, value=value, value_fn=f)
    assert jax.tree.structure(seen["updates"]) == jax.tree.structure(x)
    assert seen["gap"] == 0
    assert updates["a"].dtype == jnp.bfloat16
    assert np.allclose(updates["a"].astype(jnp.float32), -0.2, rtol=1e-2)


def test_conditioning_of_the_base_is_that_of_the_rest():
    """Condition 1e4 with two outliers: plain descent is stuck, FOSI around it is not."""
    scale = jnp.array([1.0, 1.5, 2.0, 1e3, 1e4])
    f = Oracle(lambda x: jnp.sum(scale * x**2) / 2)
    start = jnp.ones(5)
    plain = iterates(optax.sgd(1.5e-4), lambda t: f, start, 100)[-1][0]
    split = iterates(
        fosi(KEY, optax.sgd(0.5), 1.0, num_largest=2, warmup=0, momentum=0.0, max_change=1e3),
        lambda t: f,
        start * 1e-4,
        100,
    )[-1][0]
    assert f(plain) > 1
    assert f(jnp.asarray(split)) < 1e-10 * f(start * 1e-4)
