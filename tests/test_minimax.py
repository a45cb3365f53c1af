"""Minimax optimizers: rotations, bilinear games, and a problem without monotonicity."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim
from optim import eval_params, saddle_gradient

START = (jnp.array([1.0]), jnp.array([0.5]))


def turn(x, y):
    return jnp.sum(x * y)


def run(optimizer, f, start, calls, noise=0.0):
    """Parameters at the end, and the solution."""

    def step(carry, key):
        z, state = carry
        _, gradient = saddle_gradient(f)(z)
        keys = jax.random.split(key)
        gradient = tuple(
            g + noise * jax.random.normal(k, g.shape) for g, k in zip(gradient, keys, strict=True)
        )
        updates, state = optimizer.update(gradient, state, z)
        return (optax.apply_updates(z, updates), state), None

    scan = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys)[0])
    z, state = scan((start, optimizer.init(start)), jax.random.split(jax.random.key(0), calls))
    return z, eval_params(state, z)


def size(z):
    return float(jnp.sqrt(sum(jnp.sum(x**2) for x in z)))


def test_extragradient_takes_its_steps():
    """On a rotation the map is I - γJ + γ²J², whose factor is √((1 - γ²)² + γ²)."""
    gamma = 0.5
    _, z = run(optim.extragradient(optax.sgd(gamma)), turn, START, 20)
    factor = np.sqrt((1 - gamma**2) ** 2 + gamma**2)
    np.testing.assert_allclose(size(z), size(START) * factor**10, rtol=1e-5)
    after, z = run(optim.extragradient(optax.sgd(gamma)), turn, START, 1)
    assert size(jax.tree.map(jnp.subtract, z, START)) == 0  # a look ahead moves no solution
    np.testing.assert_allclose(after[0], START[0] - gamma * START[1], rtol=1e-6)


def test_descent_ascent_goes_outwards():
    assert run(optax.sgd(0.5), turn, START, 20)[1][0].item() != 0
    assert size(run(optax.sgd(0.5), turn, START, 20)[1]) > 5 * size(START)


def test_past_extragradient_has_the_queries_of_optax():
    """With no gradient before the first, where optax by itself takes the first for it."""
    rate, z0 = 0.3, START
    ours, _ = run(optim.past_extragradient(optax.sgd(rate)), turn, z0, 40)
    expected = optax.optimistic_gradient_descent(rate)
    state, z = expected.init(z0), z0
    state = (state[0]._replace(is_initial_step=jnp.array(0)), *state[1:])
    for _ in range(40):
        updates, state = expected.update(saddle_gradient(turn)(z)[1], state, z)
        z = optax.apply_updates(z, updates)
    np.testing.assert_allclose(ours[0], z[0], rtol=1e-4)


@pytest.mark.parametrize(("rate", "near"), [(0.5, True), (0.65, False)])
def test_past_extragradient_is_stable_up_to_its_limit(rate, near):
    """On a rotation, γ < 1/√3 = 0.577."""
    _, z = run(optim.past_extragradient(optax.sgd(rate)), turn, START, 400)
    assert (size(z) < size(START)) == near


def bilinear(n=30):
    """A path of differences: badly conditioned, as the lower bounds have it."""
    a = np.eye(n) - np.eye(n, k=1)
    b = np.zeros(n)
    b[-1] = 1.0
    a, b = jnp.asarray(a / 2, jnp.float32), jnp.asarray(b / 2, jnp.float32)
    return lambda x, y: y @ (a @ x - b)


def test_the_anchor_makes_the_last_iterate_fast():
    f, start = bilinear(), (jnp.zeros(30), jnp.zeros(30))
    residual = lambda z: size(saddle_gradient(f)(z)[1])
    found = {}
    for calls in (500, 2000):
        _, z = run(optim.anchored_gradient(0.3), f, start, calls)
        found[calls] = residual(z)
    _, z = run(optim.extragradient(optax.sgd(0.3)), f, start, 2000)
    assert found[2000] < 0.35 * found[500]  # O(1/T)
    assert found[2000] < 0.5 * residual(z)


def test_extragradient_plus_converges_where_extragradient_does_not():
    """A rotation with a push outwards: F = (-ay, ax) - b(x, y), negative comonotone with b/(a²+b²).

    The factor of a step is |1 - ργ F(1 - γF)| with F = -b + ai.
    """
    a, b, gamma = 1.0, 0.3, 0.9
    f = lambda x, y: jnp.sum(a * x * y - b / 2 * x**2 + b / 2 * y**2)
    eigen = complex(-b, a)
    for ratio, near in ((1.0, False), (0.2, True)):
        factor = abs(1 - ratio * gamma * eigen * (1 - gamma * eigen))
        assert (factor < 1) == near
        _, z = run(optim.extragradient(optax.sgd(gamma), ratio=ratio), f, START, 40)
        np.testing.assert_allclose(size(z), size(START) * factor**20, rtol=1e-3)


def test_two_timescales_leave_points_that_are_no_minimax():
    """f = -x²/2 + 2xy - y²/2 has at 0 a minimax point, for max_y f = 3x²/2: slow x finds it."""
    f = lambda x, y: jnp.sum(-(x**2) / 2 + 2 * x * y - y**2 / 2)
    slow = optim.extragradient(optim.two_timescale(optax.sgd(0.3), 10.0))
    assert size(run(slow, f, START, 1000)[1]) < 1e-3
    g = lambda x, y: jnp.sum(-2 * x**2 + x * y - y**2 / 2)  # max_y g = -3x²/2: no minimum
    assert size(run(slow, g, START, 1000)[1]) > 10


@pytest.mark.parametrize("wrap", [optim.extragradient, optim.past_extragradient])
def test_adam_inside_converges_under_noise(wrap):
    """Steps fall, and the average is near; descent-ascent by Adam stays away."""
    f = lambda x, y: jnp.sum(x * y) + 0.05 * jnp.sum(x**2) - 0.05 * jnp.sum(y**2)
    schedule = optax.cosine_decay_schedule(0.05, 3000)
    inner = optax.adam(schedule, b1=0.0, b2=0.99)
    _, z = run(wrap(inner), f, START, 3000, noise=0.1)
    assert size(z) < 0.1


def test_pairs_are_needed():
    pairs = optim.two_timescale(optax.sgd(0.1), 2.0)
    with pytest.raises(ValueError, match="parts of slow"):
        pairs.update({"x": 1.0}, pairs.init({"x": 1.0}), None)
    how = optim.extragradient(optax.sgd(0.1))
    with pytest.raises(ValueError, match="expected params"):
        how.update(START, how.init(START))
