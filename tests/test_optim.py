"""The shared optimizer core."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optim import (
    PolynomialAverageState,
    average_params,
    init_rows,
    polynomial_average,
    step_rows,
)


def run(power, steps, dtype=jnp.float32):
    optimizer = polynomial_average(optax.sgd(1.0), power)
    x = jnp.zeros((), dtype)
    state, iterates = optimizer.init(x), []
    for t in range(1, steps + 1):
        updates, state = optimizer.update(-jnp.asarray(t, dtype), state, x)
        x = optax.apply_updates(x, updates)
        iterates.append(float(x))
    return np.array(iterates), state, x


@pytest.mark.parametrize("power", [0.0, 3.0, 8.0])
def test_average_is_its_definition(power):
    iterates, state, x = run(power, 12)
    expected = 0.0
    for t, value in enumerate(iterates, 1):
        expected += (power + 1) / (power + t) * (value - expected)
    assert np.isclose(average_params(state, x), expected, rtol=1e-6)
    if power == 0:
        assert np.isclose(expected, iterates.mean())


def test_updates_pass_through_and_extra_arguments_too():
    plain, wrapped = optax.lbfgs(), polynomial_average(optax.lbfgs())
    f = lambda x: jnp.sum((x - 1.0) ** 2)
    x = jnp.zeros(3)
    grads = jax.grad(f)(x)
    extra = {"value": f(x), "grad": grads, "value_fn": f}
    a, _ = plain.update(grads, plain.init(x), x, **extra)
    b, _ = wrapped.update(grads, wrapped.init(x), x, **extra)
    assert np.array_equal(a, b)


def test_accumulator_is_at_least_single_precision():
    _, state, x = run(8.0, 5, jnp.bfloat16)
    assert state.average.dtype == jnp.float32
    assert average_params(state, x).dtype == jnp.bfloat16


def test_wrong_use_is_refused():
    optimizer = polynomial_average(optax.sgd(1.0))
    x = jnp.zeros(2)
    with pytest.raises(ValueError, match="expected params"):
        optimizer.update(x, optimizer.init(x))
    with pytest.raises(TypeError, match="state of polynomial_average"):
        average_params(optax.sgd(1.0).init(x), x)
    assert isinstance(optimizer.init(x), PolynomialAverageState)


def test_a_row_goes_as_under_its_own_optimizer_on_the_steps_that_touch_it():
    """Adam on rows 1 and 3 of five in turn; dense Adam, which moves all rows on, is the twin."""
    optimizer = optax.adam(0.1)
    grads = np.random.default_rng(0).normal(size=(6, 1, 2)).astype(np.float32)
    table = start = jnp.ones((5, 2))
    state, own, dense, dense_state = init_rows(optimizer, table), {}, table, optimizer.init(table)
    step = jax.jit(lambda *a: step_rows(optimizer, *a), donate_argnums=(2, 3))
    table = jnp.copy(start)
    for t, g in enumerate(grads):
        row = 1 + 2 * (t % 2)
        table, state = step(jnp.asarray([row, 9]), jnp.concatenate([g, g]), state, table)
        x, s = own.get(row, (start[row], optimizer.init(start[row])))
        updates, s = optimizer.update(g[0], s, x)
        own[row] = optax.apply_updates(x, updates), s
        whole = jnp.zeros((5, 2)).at[row].set(g[0])
        updates, dense_state = optimizer.update(whole, dense_state, dense)
        dense = optax.apply_updates(dense, updates)
    expected = start.at[jnp.asarray([1, 3])].set(jnp.stack([own[1][0], own[3][0]]))
    np.testing.assert_allclose(table, expected, rtol=1e-6)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(dense, expected, rtol=1e-2)
