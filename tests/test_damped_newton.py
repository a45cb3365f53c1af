"""Damped Newton against its formulas in NumPy."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optim import Oracle, damped_newton
from tests.losses import CONVEX, INDEFINITE, START, Loss, iterates


def reference(loss, rule, x, steps, *, M, order=3.0, exponent=1.0):
    found = []
    for _ in range(steps):
        g = loss.grad(x)
        values, V = np.linalg.eigh(loss.hessian(x))
        inverse = V @ np.diag(1 / np.abs(values)) @ V.T
        n = inverse @ g
        decrement = np.sqrt(g @ n)
        if rule == "aicn":
            # the root of (L ĝ / 2) α² + α - 1
            alpha = (np.sqrt(1 + 2 * M * decrement) - 1) / (M * decrement)
            assert np.isclose(M * decrement / 2 * alpha**2 + alpha, 1)
        elif rule == "root":
            power = 1 / (order - 1)
            alpha = 1 / (1 + (9 * M) ** power * decrement ** ((order - 2) * power))
        else:
            for j in range(30):
                theta = 2.0**j * M * decrement**exponent
                alpha = 1 / (1 + theta)
                new = loss.grad(x - alpha * n)
                if 2 * alpha * theta * new @ n >= new @ inverse @ new:
                    break
            M = 2.0 ** (j - 1) * M
        x = x - alpha * n
        found.append(x)
    return np.array(found)


@pytest.mark.parametrize("A", [CONVEX, INDEFINITE - 2 * np.eye(4)], ids=["convex", "indefinite"])
@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("aicn", {}),
        ("root", {"order": 2.0}),
        ("root", {"order": 4.0}),
        ("universal", {}),
        ("universal", {"exponent": 2 / 3}),
    ],
)
def test_is_its_formula(rule, options, A, x64):
    loss = Loss(A)
    optimizer = damped_newton(rule, smoothness=0.3, **options)
    found = iterates(optimizer, lambda t: Oracle(loss), jnp.asarray(START), 4)
    expected = reference(loss, rule, START, 4, M=0.3, **options)
    assert np.allclose([x for x, _ in found], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", ["aicn", "root", "universal"])
def test_converges_from_far_where_newton_overshoots(rule):
    """log cosh plus a small quadratic, from 5; full Newton steps cycle between +-c."""
    f = lambda x: jnp.sum(jnp.logaddexp(x, -x)) + 0.01 * x @ x
    full = lambda x: x - (np.tanh(x) + 0.02 * x) / (1 / np.cosh(x) ** 2 + 0.02)
    x = 5.0
    for _ in range(100):
        x = full(x)
    assert abs(x) > 1
    optimizer = damped_newton(rule, smoothness=20.0)
    end, state = iterates(optimizer, lambda t: Oracle(f), jnp.full(2, 5.0), 100)[-1]
    assert np.abs(end).max() < 1e-4
    assert int(state.skipped) == 0


def test_universal_stays_at_the_optimum_in_single_precision():
    """Rounding makes the test of acceptance fail there; σ must not run away, nor the iterate."""
    loss = Loss(CONVEX)
    end, state = iterates(
        damped_newton(), lambda t: Oracle(loss), jnp.asarray(START, jnp.float32), 60
    )[-1]
    assert np.abs(end).max() < 1e-5
    assert np.isfinite(state.inner.smoothness)


def test_refusals():
    with pytest.raises(ValueError, match="damped_newton: expected rule"):
        damped_newton("newton")
    with pytest.raises(ValueError, match=r"damped_newton: .* optax.MultiSteps"):
        optax.MultiSteps(damped_newton(), 2).init(jnp.ones(2))
    optax.MultiSteps(damped_newton("aicn"), 2).init(jnp.ones(2))
