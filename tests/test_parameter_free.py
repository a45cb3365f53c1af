"""Parameter-free and normalised methods against float64 readings of their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim
from optim import a_dog, average_params, dog, dowg, eval_params, layerwise_dog, polynomial_average

START = {"a": np.array([1.0, -2.0, 0.5]), "b": np.array([[3.0, 0.1], [0.2, -1.0]])}
CUTS = (slice(0, 3), slice(3, 7))
RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(7, 7)) / 3 + np.eye(7)
NOISE = RNG.normal(size=(8, 7))
START_VECTOR = np.concatenate([x.ravel() for x in START.values()])


def gradient(x, t):
    """A field with no symmetry, as a noisy gradient is, at a vector."""
    return MATRIX @ x + 0.3 * np.sin(x) + NOISE[t]


def ours(optimizer, steps=8):
    """Iterates and solutions of a transformation on the tree, as vectors."""
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
    unflat = lambda v: {"a": v[:3], "b": v[3:].reshape(2, 2)}
    x = jax.tree.map(jnp.asarray, START)
    state, found = optimizer.init(x), []
    for t in range(steps):
        grads = jax.tree.map(jnp.asarray, unflat(gradient(flat(x), t)))
        updates, state = optimizer.update(grads, state, x)
        x = optax.apply_updates(x, updates)
        found.append((flat(x), flat(eval_params(state, x))))
    return np.array(found)


def reference(step, steps=8):
    """The same of a generator of (iterate, solution) that is sent gradients."""
    rule, found = step(START_VECTOR.copy()), []
    x = next(rule)
    for t in range(steps):
        x, solution = rule.send(gradient(x, t))
        found.append((x, solution))
    return np.array(found)


def distance_rule(alpha, cuts, *, weighted=False):
    def rule(x):
        start, radius = x.copy(), [alpha * (1 + np.linalg.norm(x[c])) for c in cuts]
        sums = [0.0 for _ in cuts]
        g = yield x
        while True:
            x, old = x.copy(), x
            for k, c in enumerate(cuts):
                radius[k] = max(radius[k], np.linalg.norm(old[c] - start[c]))
                weight = radius[k] ** 2 if weighted else 1.0
                sums[k] += weight * g[c] @ g[c]
                x[c] -= radius[k] * np.sqrt(weight) / np.sqrt(sums[k]) * g[c]
            g = yield x, x

    return rule


def a_dog_rule(alpha, *, normalize=False):
    def rule(x):
        start, w, r = x.copy(), x.copy(), alpha * (1 + np.linalg.norm(x))
        total, average, sum_r, a, G = 0.0, np.zeros_like(x), r, 1.0, 0.0
        g = yield x
        while True:
            if normalize:
                g = g / np.linalg.norm(g)
            G += a**2 * g @ g
            eta = r / np.sqrt(G)
            w, y = w - a * eta * g, x - eta * g
            average = (total * average + a * r * y) / (total + a * r)
            total += a * r
            r = max(r, np.linalg.norm(w - start))
            sum_r += r
            a = max(1.0, 0.5 * sum_r / r)
            x = (1 - 1 / a) * y + w / a
            g = yield x, average

    return rule


def momentum_rule(rates, beta, power, *, transport=False):
    def rule(x):
        m, solution, t = None, x.copy(), 0
        g = yield x
        while True:
            m = g if m is None else beta * m + (1 - beta) * g
            new = solution - rates(t) * m / np.linalg.norm(m) ** power
            x = new + beta / (1 - beta) * (new - solution) if transport else new
            solution, t = new, t + 1
            g = yield x, solution

    return rule


ALL = (slice(0, 7),)
schedule = lambda t: 0.3 / (1 + t)
CASES = {
    "dog": (dog(1e-2), distance_rule(1e-2, ALL)),
    "layerwise_dog": (layerwise_dog(1e-2), distance_rule(1e-2, CUTS)),
    "dowg": (dowg(1e-2), distance_rule(1e-2, ALL, weighted=True)),
    "a_dog": (a_dog(0.1), a_dog_rule(0.1)),
    "normalized_a_dog": (a_dog(0.1, normalize=True), a_dog_rule(0.1, normalize=True)),
    "normalized_momentum": (
        optim.normalized_momentum(schedule, 0.8),
        momentum_rule(schedule, 0.8, 1.0),
    ),
    "norm_power_momentum": (
        optim.normalized_momentum(0.2, 0.8, power=0.4),
        momentum_rule(lambda t: 0.2, 0.8, 0.4),
    ),
    "nigt": (optim.nigt(schedule, 0.8), momentum_rule(schedule, 0.8, 1.0, transport=True)),
}


@pytest.mark.parametrize("name", CASES)
def test_steps_are_the_formula(name, x64):
    optimizer, rule = CASES[name]
    assert np.allclose(ours(optimizer), reference(rule), rtol=1e-12, atol=1e-12)


def test_clipping_is_its_definition(x64):
    sizes = [0.0, 2.0, 1.0, 50.0, 0.0, 3.0, 80.0]
    clip, state = optim.clip_by_ema_norm(1.5, 0.9), None
    state = clip.init({"a": jnp.zeros(3)})
    mean, count = 0.0, 0
    for size in sizes:
        g = size * np.array([0.6, 0.0, -0.8])
        limit = 1.5 * mean / (1 - 0.9**count) if count else np.inf
        clipped, state = clip.update({"a": jnp.asarray(g)}, state)
        expected = g * min(1.0, limit / size) if size else g
        assert np.allclose(clipped["a"], expected, rtol=1e-13)
        if size:
            mean, count = 0.9 * mean + 0.1 * np.linalg.norm(expected), count + 1
    assert np.linalg.norm(expected) < 5


def descend(optimizer, gradient, x, steps, key=None):
    """Solution after some steps under `scan`; ``gradient(x, key)``."""

    def step(carry, t):
        x, state = carry
        g = gradient(x, None if key is None else jax.random.fold_in(key, t))
        updates, state = optimizer.update(g, state, x)
        return (optax.apply_updates(x, updates), state), None

    start = (x, optimizer.init(x))
    x, state = jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(steps))[0])(start)
    return eval_params(state, x)


def test_a_dog_accelerates(x64):
    """Noiseless least squares of condition 1e4: at 1e4 gradients 1e4 times closer than DoG."""
    scale = jnp.geomspace(1e-4, 1, 50)
    x = jnp.asarray(np.random.default_rng(0).normal(size=50))
    excess = lambda o: float(jnp.sum(scale * descend(o, lambda x, _: scale * x, x, 10_000) ** 2))
    slow = excess(polynomial_average(dog()))
    assert excess(a_dog()) < 1e-4 * slow
    assert excess(a_dog(normalize=True)) < 1e-4 * slow


@pytest.mark.parametrize("make", [dog, layerwise_dog, dowg, a_dog])
def test_steps_do_not_change_with_the_scale_of_the_loss(make):
    """From 1e-18 to 1e25, where squares of float32 overflow or vanish."""
    run = lambda c: descend(make(1e-2), lambda x, _: c * x, jnp.array([3.0, -2.0]), 20)
    for factor in (1e-25, 1e25):
        assert np.allclose(run(factor), run(1.0), rtol=1e-4)


def test_accumulators_do_not_stall_in_half_precision():
    """400 unit gradients add up to 400; in bfloat16 the sum would stop at 256."""
    x = {"w": jnp.zeros((), jnp.bfloat16)}
    optimizer, state = dog(1.0), dog(1.0).init(x)
    g = {"w": jnp.ones((), jnp.bfloat16)}
    update = jax.jit(optimizer.update)
    for _ in range(400):
        updates, state = update(g, state, x)
    assert np.isclose(state.root[0] ** 2, 400, rtol=1e-5)
    assert updates["w"].dtype == jnp.bfloat16
    assert updates["w"].shape == ()
    big = {"w": jnp.full(4, 100.0, jnp.bfloat16)}
    moved = descend(dog(), lambda x, _: x, big, 200)
    assert np.all(np.abs(moved["w"]) < 10)  # 1e-6 times the norm would round to nothing


def test_noise_averages_out(x64):
    """On a noisy quadratic the excess loss is a small part of what the noise of one step costs.

    Over keys it is 0.020 ± 0.012 for DoG and DoWG, the worst of 200 keys 0.071, and less than
    half of that for A-DoG; a false alarm is rarer than 1e-6 under a gamma tail.
    """
    scale, key = jnp.geomspace(0.1, 1, 10), jax.random.key(0)
    noisy = lambda x, key: scale * x + jax.random.normal(key, x.shape)
    x = jnp.full(10, 3.0)
    for optimizer in (dog(), dowg(), a_dog(), a_dog(normalize=True)):
        found = descend(polynomial_average(optimizer), noisy, x, 4000, key)
        assert 0.5 * jnp.sum(scale * found**2) < 0.2


def test_average_is_of_the_solutions_where_there_are_any(x64):
    """Not of the query points: A-DoG's own average is what is averaged on."""
    inner = ours(a_dog(0.1))[:, 1]
    expected = np.zeros(7)
    for t, solution in enumerate(inner, 1):
        expected += 9 / (8 + t) * (solution - expected)
    assert np.allclose(ours(polynomial_average(a_dog(0.1)))[-1, 1], expected)


def test_transport_makes_the_mean_exact_on_a_quadratic(x64):
    """NIGT's running mean is the gradient at its solution; plain momentum's lags behind."""
    scale = jnp.array([1.0, 3.0, 0.2])
    x = jnp.array([1.0, -1.0, 2.0])
    optimizer = optim.nigt(0.1, 0.9)
    state = optimizer.init(x)
    for _ in range(10):
        before = state.solution
        updates, state = optimizer.update(scale * x, state, x)
        assert np.allclose(state.momentum, scale * before, rtol=1e-12)
        x = optax.apply_updates(x, updates)


def test_norm_power_converges_where_descent_diverges(x64):
    """On Σ x⁴ from 10, whose curvature grows as ‖∇f‖^(2/3)."""
    gradient = lambda x, _: 4 * x**3
    x = jnp.full(3, 10.0)
    power = optax.chain(optim.scale_by_norm_power(2 / 3), optax.scale(-0.1))
    assert not np.all(np.isfinite(descend(optax.sgd(0.1), gradient, x, 100)))
    assert np.all(np.abs(descend(power, gradient, x, 400)) < 1e-6)


def test_norm_power_is_optaxs_normalisation_at_one(x64):
    g = {"a": jnp.array([3.0, 4.0]), "b": jnp.array(12.0)}
    power = optim.scale_by_norm_power(1.0)
    ours, _ = power.update(g, power.init(g))
    theirs, _ = optax.normalize_by_update_norm(eps=0.0).update(g, optax.EmptyState())
    assert all(map(np.allclose, jax.tree.leaves(ours), jax.tree.leaves(theirs)))


@pytest.mark.slow
def test_clipping_survives_heavy_tails(x64):
    """Student-t(1.5) noise, ends of 100 runs: the tenth farthest, with clipping and without.

    Over keys the ratio is 0.36 ± 0.05: 0.7 is seven standard deviations away.
    """
    heavy = lambda x, key: x + jax.random.t(key, 1.5, x.shape)
    plain = optax.sgd(0.05)
    clipped = optax.chain(optim.clip_by_ema_norm(2.0), plain)
    keys = jax.random.split(jax.random.key(0), 100)

    def tenth_farthest(optimizer):
        end = lambda key: descend(optimizer, heavy, jnp.full(5, 3.0), 300, key)
        return np.sort(jnp.linalg.norm(jax.vmap(end)(keys), axis=1))[-10]

    assert tenth_farthest(clipped) < 0.7 * tenth_farthest(plain)


def test_wrong_use_is_refused():
    x = jnp.zeros(2)
    for optimizer in (dog(), layerwise_dog(), dowg(), a_dog(), optim.nigt(0.1)):
        with pytest.raises(ValueError, match="expected params"):
            optimizer.update(x, optimizer.init(x))
    with pytest.raises(TypeError, match="state of polynomial_average"):
        average_params(dog().init(x), x)
    assert eval_params(dog().init(x), x) is x
