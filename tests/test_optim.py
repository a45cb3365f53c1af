"""The shared optimizer core."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optim import PolynomialAverageState, average_params, polynomial_average


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
