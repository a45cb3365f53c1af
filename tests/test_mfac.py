"""M-FAC against dense inverses and against the paper's dynamic algorithm."""

import jax.numpy as jnp
import numpy as np
import pytest

from optim import Oracle, mfac
from tests.losses import CONVEX, START, Loss, iterates


def dense_direction(G, v, share, damping=1e-5):
    """(λI + GᵀG / m)⁻¹ v with λ a number plus a share of the mean diagonal."""
    fisher = G.T @ G / len(G)
    lam = damping + share * np.trace(fisher) / fisher.shape[0]
    return np.linalg.solve(fisher + lam * np.eye(len(v)), v)


def dynamic_direction(G, v, lam):
    """The paper's recursion: F₀ = λI, F_i = F_{i-1} + g_i g_iᵀ / m by Sherman and Morrison."""
    m = len(G)

    def inverse(i, x):
        if i == 0:
            return x / lam
        u = inverse(i - 1, G[i - 1])
        return inverse(i - 1, x) - u * (u @ x) / (m + G[i - 1] @ u)

    return inverse(m, v)


def limited(s, cap=1.0):
    return s * min(1, cap * np.sqrt(len(s)) / np.linalg.norm(s))


def test_the_direct_form_is_the_dynamic_algorithm():
    G, v = np.random.default_rng(0).normal(size=(5, 4)), START
    lam = 1e-5 + 0.1 * np.trace(G.T @ G / 5) / 4
    assert np.allclose(dense_direction(G, v, 0.1), dynamic_direction(G, v, lam))


def test_window_of_gradients_is_its_formula(x64):
    """Six steps through a window of three."""
    loss, x, seen, m = Loss(CONVEX), START, [], 0.0
    optimizer = mfac(0.1, num_rows=3, relative_damping=0.1, momentum=0.5)
    found = iterates(optimizer, lambda t: Oracle(loss), jnp.asarray(START), 6)
    for t in range(6):
        g = loss.grad(x)
        seen.append(g)
        G = np.array(seen[-3:])
        m = 0.5 * m + 0.5 * limited(dense_direction(G, g, 0.1))
        x = x - 0.1 * m / (1 - 0.5 ** (t + 1))
        assert np.allclose(found[t][0], x, rtol=1e-8)
        gram = found[t][1].inner.rows @ found[t][1].inner.rows.T
        assert np.allclose(found[t][1].inner.gram, gram)


def test_rows_of_examples_are_its_formula(x64):
    X = np.random.default_rng(1).normal(size=(5, 4))
    oracle = Oracle.composite(lambda w: jnp.asarray(X) @ w, jnp.cosh)
    found = iterates(
        mfac(0.1, rows="per_example", num_rows=5, relative_damping=0.2, momentum=0.0),
        lambda t: oracle,
        jnp.asarray(START),
        3,
    )
    x = START
    for t in range(3):
        rows = np.sinh(X @ x)[:, None] * X
        x = x - 0.1 * limited(dense_direction(rows, rows.mean(0), 0.2))
        assert np.allclose(found[t][0], x, rtol=1e-8)


def test_refusals():
    with pytest.raises(ValueError, match="mfac: expected rows"):
        mfac(0.1, rows="data")
    oracle = Oracle(lambda x: jnp.sum(x), per_example=lambda x: x)
    with pytest.raises(ValueError, match=r"give num_rows=3 losses; got 2. Pass num_rows=2"):
        iterates(mfac(0.1, rows="per_example", num_rows=3), lambda t: oracle, jnp.ones(2), 1)
    with pytest.raises(ValueError, match="declares per_example"):
        iterates(mfac(0.1, rows="per_example"), lambda t: Oracle(jnp.sum), jnp.ones(2), 1)
