"""Lanczos' iteration where it breaks down, and saddle-free Newton against |H|⁻¹ g."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim import Oracle, saddle_free_newton
from optim.lanczos import lanczos
from tests.losses import INDEFINITE, START, Loss, iterates

SADDLE = Loss(INDEFINITE - 2 * np.eye(4))


def absolute_inverse(H, delta):
    values, V = np.linalg.eigh(H)
    return V @ np.diag(1 / (np.abs(values) + delta * np.abs(values).max())) @ V.T


def limited(s, cap=1.0):
    return s * min(1, cap * np.sqrt(len(s)) / np.linalg.norm(s))


@pytest.mark.parametrize("lagged", [True, False])
@pytest.mark.parametrize("krylov_dim", [None, 4, 9])
def test_full_space_is_the_absolute_inverse(krylov_dim, lagged, x64):
    """The Krylov space of a general gradient is the whole space."""
    options = {"relative_damping": 0.1, "curvature": "lagged" if lagged else "same"}
    optimizer = saddle_free_newton(0.7, krylov_dim=krylov_dim, **options)
    found = iterates(optimizer, lambda t: Oracle(SADDLE), jnp.asarray(START), 4)
    x = before = START
    for t in range(4):
        at = before if lagged and t else x
        s = limited(absolute_inverse(SADDLE.hessian(at), 0.1) @ SADDLE.grad(x))
        before, x = x, x - 0.7 * s
        assert np.allclose(found[t][0], x, rtol=1e-6, atol=1e-8)


def test_krylov_space_and_its_complement(x64):
    """Two products: Ritz values inside; outside, the gradient over the largest of them."""
    optimizer = saddle_free_newton(krylov_dim=2, relative_damping=0.1, curvature="same")
    g, H = SADDLE.grad(START), SADDLE.hessian(START)
    Q = np.linalg.qr(np.stack([g, H @ g], 1))[0]
    values, W = np.linalg.eigh(Q.T @ H @ Q)
    V, top = Q @ W, np.abs(values).max()
    inside = V @ ((V.T @ g) / (np.abs(values) + 0.1 * top))
    s = limited(inside + (g - V @ (V.T @ g)) / (1.1 * top))
    (x, _), *_ = iterates(optimizer, lambda t: Oracle(SADDLE), jnp.asarray(START), 1)
    assert np.allclose(x, START - s)
    # On a quadratic g stays in its Krylov space; a later gradient does not, and still moves.
    x2 = iterates(saddle_free_newton(krylov_dim=1), lambda t: Oracle(SADDLE), jnp.asarray(START), 2)
    assert np.all(x2[1][0] != x2[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
def test_lanczos_stops_where_the_space_ends(scale):
    """Three distinct eigenvalues, one of them zero: three pairs, not five; in any units."""
    eigenvalues = (scale * np.array([0.0, 3.0, -2.0, 3.0, 3.0, -2.0])).astype(np.float32)
    ritz = lanczos(lambda v: eigenvalues * v, jnp.full(6, scale), 5)
    assert int(ritz.valid.sum()) == 3
    valid = np.asarray(ritz.valid)
    values, rows = np.asarray(ritz.values), np.asarray(ritz.vectors)
    assert np.allclose(sorted(values[valid]), scale * np.array([-2, 0, 3]), atol=1e-4 * scale)
    assert np.allclose(rows @ rows.T, np.diag(valid), atol=1e-4)
    assert np.allclose(rows * eigenvalues, values[:, None] * rows, atol=1e-4 * scale)
    assert not lanczos(lambda v: eigenvalues * v, jnp.zeros(6), 3).valid.any()


def test_leaves_a_saddle():
    f = lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4
    for krylov_dim in (None, 2):
        optimizer = saddle_free_newton(krylov_dim=krylov_dim, curvature="same")
        found = iterates(optimizer, lambda t: Oracle(f), jnp.array([1.0, 1e-3]), 40)
        assert np.isclose(f(found[-1][0]), -0.25, atol=1e-4)
    assert jax.eval_shape(optimizer.init, jnp.ones(2)).inner.vectors.shape == (2, 2)
