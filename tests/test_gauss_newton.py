"""Gauss-Newton against dense formulas in NumPy and a least-squares solver."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optim import Oracle, gauss_newton
from tests.losses import iterates

RNG = np.random.default_rng(2)
X = RNG.normal(size=(6, 3))
LABELS = np.array([0, 2, 1, 1, 0, 2])
PRIOR = np.linspace(0.5, 2.0, 6)
W0 = RNG.normal(size=6)


def softmax_oracle(rows=slice(None), fresh=None):
    """Three classes, two features a class, tanh of a linear map; a factorised prior."""
    x, y = jnp.asarray(X[rows, :2]), LABELS[rows]
    return Oracle.composite(
        lambda w: jnp.tanh(x @ w.reshape(2, 3)),
        lambda h: jax.nn.logsumexp(h, axis=1) - h[jnp.arange(len(y)), y],
        lambda w: jnp.sum(jnp.asarray(PRIOR) * w**2) / 2,
        fresh=fresh,
    )


def softmax_direction(w, damping, rows=slice(None), curvature_rows=None):
    """(JᵀQJ / R + diag)⁻¹ g with loops over rows."""

    def parts(rows):
        G, g = np.diag(PRIOR + damping), PRIOR * w
        for x, y in zip(X[rows, :2], LABELS[rows], strict=True):
            h = np.tanh(x @ w.reshape(2, 3))
            p = np.exp(h) / np.exp(h).sum()
            J = np.zeros((3, 6))
            for c in range(3):
                J[c].reshape(2, 3)[:, c] = (1 - h[c] ** 2) * x
            n = len(X[rows])
            G = G + J.T @ (np.diag(p) - np.outer(p, p)) @ J / n
            g = g + J.T @ (p - np.eye(3)[y]) / n
        return G, g

    g = parts(rows)[1]
    return np.linalg.solve(parts(rows if curvature_rows is None else curvature_rows)[0], g)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(None)], ids=["few_rows", "many_rows"])
def test_is_its_formula_with_a_softmax_and_a_prior(rows, x64):
    """Three rows of outputs against six parameters (Woodbury), and eighteen (direct)."""
    found = iterates(
        gauss_newton(0.5, damping=lambda t: 0.3 * (1 + t) ** 0.5),
        lambda t: softmax_oracle(rows),
        jnp.asarray(W0),
        3,
    )
    w = W0
    for t in range(3):
        w = w - 0.5 * softmax_direction(w, 0.3 * np.sqrt(1 + t), rows)
        assert np.allclose(found[t][0], w, rtol=1e-8)


def test_fresh_curvature(x64):
    fresh = lambda key: softmax_oracle(slice(2, 5))
    oracle = softmax_oracle(slice(0, 2), fresh)
    optimizer = gauss_newton(damping=0.2, key=jax.random.key(0))
    (w, _), *_ = iterates(optimizer, lambda t: oracle, jnp.asarray(W0), 1)
    assert np.allclose(w, W0 - softmax_direction(W0, 0.2, slice(0, 2), slice(2, 5)))


T = np.linspace(0, 1, 8)
TARGET = 2 * np.exp(-3 * T)


def curve(w, np=jnp):
    return w[0] * np.exp(w[1] * T)


def curve_jacobian(w):
    return np.stack([np.exp(w[1] * T), w[0] * T * np.exp(w[1] * T)], 1)


CURVE = Oracle.composite(curve, lambda h: (h - TARGET) ** 2 / 2)


def test_squared_errors_are_levenberg_marquardt(x64):
    """Each step is the damped least-squares problem of the linearised residual; the damping
    follows the ratio of decreases, and steps that go up are not taken."""
    w, lam, refused = np.array([-1.0, 0.0]), 1e-3, 0
    found = iterates(gauss_newton(damping=lam, adaptive=True), lambda t: CURVE, jnp.asarray(w), 13)
    f = lambda w: np.mean((curve(w, np) - TARGET) ** 2) / 2
    for t in range(13):
        r, J = (curve(w, np) - TARGET) / np.sqrt(8), curve_jacobian(w) / np.sqrt(8)
        stacked = np.vstack([J, np.sqrt(lam) * np.eye(2)])
        s = np.linalg.lstsq(stacked, np.append(-r, [0, 0]), rcond=None)[0]
        ratio = (f(w) - f(w + s)) / (f(w) - np.sum((r + J @ s) ** 2) / 2)
        lam *= 1.5 if ratio < 0.25 else 0.5 if ratio > 0.75 else 1
        w, refused = (w + s, refused) if ratio > 0 else (w, refused + 1)
        assert np.allclose(found[t][0], w, rtol=1e-6)
        assert np.isclose(found[t][1].inner.damping, lam)
    assert refused > 0
    end = iterates(gauss_newton(damping=1e-3, adaptive=True), lambda t: CURVE, jnp.asarray(w), 60)
    assert np.allclose(end[-1][0], [2, -3], atol=1e-5)


def test_what_is_a_decrease_does_not_depend_on_the_units_of_the_loss():
    """Steps that go up are refused at a loss of 1e-18 too, below the rounding of 1."""

    @jax.jit
    def damping_and_end(c):
        oracle = Oracle.composite(curve, lambda h: c * (h - TARGET.astype(np.float32)) ** 2 / 2)
        optimizer, w = gauss_newton(damping=1e-3 * c, adaptive=True), jnp.array([-1.0, 0.0])

        def body(carry, _):
            w, state = carry
            value, g = oracle.value_and_grad(w)
            updates, state = optimizer.update(g, state, w, value=value, value_fn=oracle)
            return (w + updates, state), (state.inner.damping / c, ~jnp.any(updates))

        return jax.lax.scan(body, (w, optimizer.init(w)), None, 8)[1]

    usual, refused = damping_and_end(1.0)
    assert np.any(refused)
    small, also = damping_and_end(2.0**-60)
    assert np.allclose(small, usual)
    assert np.array_equal(also, refused)


def test_row_losses_that_are_not_convex(x64):
    """A Student-t row loss: negative curvature counts as none, the direction is one of descent."""
    oracle = Oracle.composite(
        lambda w: jnp.asarray(X) @ w, lambda h: jnp.log1p((h - jnp.asarray(LABELS)) ** 2)
    )
    w = np.array([3.0, -2.0, 1.0])
    e = X @ w - LABELS
    q = np.maximum(2 * (1 - e**2) / (1 + e**2) ** 2, 0)
    g = X.T @ (2 * e / (1 + e**2)) / 6
    s = np.linalg.solve(X.T @ (q[:, None] * X) / 6 + 0.1 * np.eye(3), g)
    (found, _), *_ = iterates(gauss_newton(damping=0.1), lambda t: oracle, jnp.asarray(w), 1)
    assert np.allclose(found, w - s)
    assert g @ s > 0


def test_refusals():
    optimizer = gauss_newton()
    with pytest.raises(ValueError, match="declares outputs"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)), jnp.ones(2), value_fn=jnp.sum)
    x = jnp.ones(3)
    wrong = {
        r"\(\) and row losses with shape \(\)": (jnp.sum, jnp.square),
        r"\(3,\) and row losses with shape \(\)": (jnp.sin, jnp.sum),
        r"\(4, 3\) and row losses with shape \(3,\)": (
            lambda x: jnp.outer(jnp.ones(4), x),
            lambda h: jnp.sum(h, axis=0),
        ),
    }
    for match, parts in wrong.items():
        oracle = Oracle.composite(*parts)
        with pytest.raises(ValueError, match=f"gauss_newton: .* got outputs with shape {match}"):
            optimizer.update(x, optimizer.init(x), x, value_fn=oracle)
    with pytest.raises(ValueError, match="expected a number as damping"):
        gauss_newton(damping=lambda t: t, adaptive=True)
    with pytest.raises(ValueError, match=r"gauss_newton: .* optax.MultiSteps"):
        optax.MultiSteps(gauss_newton(adaptive=True), 2).init(jnp.ones(2))
