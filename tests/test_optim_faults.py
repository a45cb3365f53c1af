"""What goes wrong between an optimizer and its loop: keys, skips, units, rounding, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim
from optim import Oracle, eval_params
from optim.steps import step_key
from optim.tree import limit_norm, norm
from tests.losses import CONVEX, START, Loss, iterates

KEY = jax.random.key(4)
LOSS = Loss(CONVEX)
X0 = jnp.asarray(START, jnp.float32)


# ---- keys --------------------------------------------------------------------------------------


def tilted(key):
    """A loss whose Hessian tells its key."""
    return Oracle(
        lambda x: jnp.sum(jnp.cosh(x)) + jax.random.uniform(key) * jnp.sum(x**2), fresh=tilted
    )


@pytest.mark.parametrize(
    "optimizer",
    [
        optim.lazy_newton(adaptive=False, curvature="fresh", key=KEY),
        optim.saddle_free_newton(curvature="fresh", key=KEY, max_change=1e3),
    ],
    ids=["lazy_newton", "saddle_free_newton"],
)
def test_fresh_curvature_is_fresh_under_the_loops_own_key(optimizer):
    """A loop and its optimizer have one key; the step must not be that of the gradient's sample."""
    loss = tilted(jax.random.fold_in(KEY, 0))
    same = Oracle(loss, fresh=lambda key: loss)
    steps = []
    for oracle in (loss, same):
        g = oracle.grad(X0)
        steps.append(optimizer.update(g, optimizer.init(X0), X0, value_fn=oracle)[0])
    assert not np.allclose(*steps, rtol=1e-3)


def test_keys_of_purposes_and_of_the_loop_differ():
    keys = [jax.random.fold_in(KEY, t) for t in range(3)]
    keys += [step_key(KEY, purpose, t) for purpose in ("probes", "curvature") for t in range(3)]
    assert len({tuple(np.asarray(jax.random.key_data(key))) for key in keys}) == 9


# ---- skipped steps -----------------------------------------------------------------------------


def test_norms_of_what_is_not_finite():
    assert norm(jnp.array([jnp.inf, 1.0])) == jnp.inf
    assert jnp.isnan(norm(jnp.array([jnp.nan, jnp.inf])))
    assert norm({"a": jnp.zeros(0)}) == 0


def test_probes_are_new_after_a_skipped_step():
    """A probe that met something not finite is not met again."""
    optimizer = optim.oasis(KEY, 0.1)
    bad = Oracle(lambda x: jnp.sum(x) * jnp.nan)
    state = optimizer.init(X0)
    assert state.count + state.skipped == 0
    _, state = optimizer.update(jnp.full(4, jnp.nan), state, X0, value_fn=bad)
    assert (int(state.count), int(state.skipped)) == (0, 1)
    _, state = optimizer.update(jax.grad(LOSS)(X0), state, X0, value_fn=Oracle(LOSS))
    z = jax.random.rademacher(step_key(KEY, "probes", 1), (8, 4), jnp.float32)
    measured = np.mean(z * (z @ LOSS.hessian(START)), axis=0)
    assert np.allclose(state.inner.diagonal, measured, rtol=1e-5)


def test_an_average_outlives_steps_that_are_not_finite():
    optimizer = optim.polynomial_average(optax.adam(0.1))
    state = optimizer.init(X0)
    updates, state = optimizer.update(X0 * jnp.inf, state, X0)
    assert not np.any(updates)
    assert (int(state.count), int(state.skipped)) == (0, 1)
    x = X0
    for _ in range(100):
        updates, state = optimizer.update(x, state, x)
        x = optax.apply_updates(x, updates)
    assert np.all(np.abs(eval_params(state, x)) < 0.2)


# ---- units and rounding ------------------------------------------------------------------------


def test_norms_are_limited_at_any_scale():
    for scale in (1e-30, 1e-20, 1.0, 1e20, 1e30):
        v = scale * jnp.array([3.0, 4.0])
        assert np.allclose(limit_norm(v, 2.0 * scale), 0.4 * v, rtol=1e-6)
        assert np.array_equal(limit_norm(v, 6.0 * scale), v)
    assert not np.any(limit_norm(jnp.zeros(2), 1.0))


@pytest.mark.parametrize(
    "make",
    [
        lambda c: optim.lazy_newton(),
        lambda c: optim.saddle_free_newton(),
        lambda c: optim.damped_newton(smoothness=1.0 / c**0.5),
        lambda c: optim.oasis(KEY),
        lambda c: optim.psgd(KEY, 0.1, group="dense"),
        lambda c: optim.mfac(0.1 * c, num_rows=3, damping=0.0, max_change=1e38),
        lambda c: optim.gauss_newton(damping=0.1 * c, adaptive=True),
    ],
    ids=["lazy_newton", "saddle_free", "damped_newton", "oasis", "psgd", "mfac", "gauss_newton"],
)
def test_units_of_the_loss_do_not_matter(make):
    """Losses of 1e20 and 1e-30 take the steps of a loss of 1: powers of two change no digit.

    What has units is given in them: the damping of Gauss-Newton; σ, since θ = σ ĝ, and ĝ has the
    units of the root of the loss; and the rate of M-FAC, whose F⁻¹ g has the inverse units.
    """
    t = jnp.linspace(-1.0, 1.0, 6)[:, None] ** jnp.arange(4)

    @jax.jit
    def end(c):
        oracle = Oracle.composite(
            lambda w: t @ w, lambda h: c * (h - 1) ** 2, lambda w: 0.1 * c * jnp.sum(jnp.cosh(w))
        )
        optimizer = make(c)

        def body(carry, _):
            x, state = carry
            value, g = oracle.value_and_grad(x)
            updates, state = optimizer.update(g, state, x, value=value, value_fn=oracle)
            return (x + updates, state), None

        return jax.lax.scan(body, (X0, optimizer.init(X0)), None, 5)[0]

    usual, _ = end(1.0)
    assert not np.allclose(usual, X0, rtol=1e-2)
    for power in (-100, 66):
        x, state = end(2.0**power)
        assert int(state.skipped) == 0
        assert np.allclose(x, usual, rtol=1e-4, atol=1e-5)


def regression():
    """Sums of hundreds of terms: a gradient that rounds to 1e-5 at the optimum, not at 0."""
    rng = np.random.default_rng(0)
    A = jnp.asarray(rng.normal(size=(400, 4)), jnp.float32)
    y = jnp.asarray(rng.integers(0, 2, 400), jnp.float32)
    return lambda x: jnp.sum(jnp.logaddexp(0, A @ x) - y * (A @ x)) + jnp.sum((x - 3) ** 2)


@pytest.mark.parametrize(
    "optimizer",
    [
        optim.lazy_newton(curvature="same", decay=0.0),
        optim.lazy_newton(regularization="gradient"),
        optim.lazy_newton(regularization="cubic"),
        optim.damped_newton(),
    ],
    ids=["radius", "gradient", "cubic", "universal"],
)
def test_rounding_is_not_read_as_roughness(optimizer):
    """Long after convergence the smoothness is not where chance doubled it to, 1e7 and more."""
    f = regression()
    found = iterates(optimizer, lambda t: Oracle(f), X0, 150)
    M = np.array([float(state.inner.smoothness) for _, state in found])
    assert 1e-9 < M[-1] < 1e4
    assert np.linalg.norm(jax.grad(f)(jnp.asarray(found[-1][0]))) < 1e-3


def test_mfac_in_many_dimensions():
    """In single precision, against the same formula in double precision."""
    rng = np.random.default_rng(1)
    D, grads = 100_000, []
    optimizer = optim.mfac(1.0, num_rows=3, momentum=0.0, damping=0.0, max_change=1e9)
    x = jnp.zeros(D)
    state, update = optimizer.init(x), jax.jit(optimizer.update)
    for _ in range(3):
        grads.append((rng.normal(size=D) * 1e-2 + 1).astype(np.float32))
        updates, state = update(jnp.asarray(grads[-1]), state, x)
    G = np.array(grads, np.float64)
    gram = G @ G.T
    lam = 1e-2 * np.trace(gram) / (3 * D)
    weights = 3 * np.linalg.solve(gram + 3 * lam * np.eye(3), np.eye(3)[2])
    expected = -weights @ G
    assert np.linalg.norm(updates - expected) < 1e-2 * np.linalg.norm(expected)


def test_mfac_of_examples_in_many_dimensions():
    """The gradient is the mean of the rows: what rounding leaves of it is not divided by λ."""
    rng = np.random.default_rng(1)
    D, M = 100_000, 3
    X = (rng.normal(size=(M, D)) * 1e-2 + 1).astype(np.float32)
    losses = lambda w: 0.5 * (X @ w) ** 2 + 3 * (X @ w)
    oracle = Oracle(lambda w: jnp.mean(losses(w)), per_example=losses)
    optimizer = optim.mfac(
        1.0, rows="per_example", num_rows=M, momentum=0.0, damping=0.0, max_change=1e9
    )
    w = jnp.zeros(D)
    move = lambda w: optimizer.update(oracle.grad(w), optimizer.init(w), w, value_fn=oracle)[0]
    G = 3 * X.astype(np.float64)
    gram = G @ G.T
    lam = 1e-2 * np.trace(gram) / (M * D)
    expected = -np.linalg.solve(gram + M * lam * np.eye(M), np.ones(M)) @ G
    assert np.linalg.norm(jax.jit(move)(w) - expected) < 1e-2 * np.linalg.norm(expected)


def test_psgd_recovers_from_a_start_without_curvature():
    """Q is scaled where there is nothing to scale it by; then curvature of 1e20 comes."""
    optimizer = optim.psgd(KEY, 0.1, group="diagonal")

    @jax.jit
    def end(x):
        def body(carry, factor):
            x, state = carry
            f = Oracle(lambda x: factor * LOSS(x))
            updates, state = optimizer.update(f.grad(x), state, x, value_fn=f)
            return (x + updates, state), None

        factors = jnp.full(200, 1e20).at[0].set(0.0)
        return jax.lax.scan(body, (x, optimizer.init(x)), factors)[0]

    x, state = end(X0)
    assert int(state.skipped) == 0
    assert np.linalg.norm(x) < 0.8 * np.linalg.norm(X0)


# ---- what a base, or a loop, gets to see -------------------------------------------------------


def test_a_base_of_fosi_sees_one_deflated_loss(x64):
    """Value, gradient and differences along any direction fit; a line search converges."""
    seen = {}

    def update(updates, state, params=None, *, value=None, value_fn=None, **extra):
        way = jnp.array([0.3, -0.2, 0.5, 0.1])
        numeric = (value_fn(params + 1e-3 * way) - value_fn(params - 1e-3 * way)) / 2e-3
        seen.update(gap=value_fn(params) - value, slope=numeric - way @ updates)
        seen.update(grads=value_fn.grad(params) - updates)
        return -0.1 * updates, state

    probe = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    x = jnp.asarray(START)
    optimizer = optim.fosi(KEY, probe, num_largest=2, warmup=0)
    state = optimizer.init(x)
    for _ in range(2):
        value, g = jax.value_and_grad(LOSS)(x)
        _, state = optimizer.update(g, state, x, value=value, value_fn=Oracle(LOSS))
    assert np.linalg.norm(state.inner.vectors) > 1
    assert abs(seen["gap"]) < 1e-12
    assert abs(seen["slope"]) < 1e-6
    assert np.allclose(seen["grads"], 0, atol=1e-12)


@pytest.mark.slow
def test_lbfgs_in_the_rest_of_fosis_space():
    scale = jnp.array([1.0, 3.0, 9.0, 1e4])
    f = Oracle(lambda x: jnp.sum(scale * x**2) / 2)
    options = {"num_largest": 1, "warmup": 0, "momentum": 0.0, "max_change": 1e3}
    optimizer = optim.fosi(KEY, optax.lbfgs(), 1.0, **options)
    x, state = iterates(optimizer, lambda t: f, X0, 15)[-1]
    assert int(state.skipped) == 0
    assert f(jnp.asarray(x)) < 1e-8 * f(X0)


def test_declared_parts_are_of_the_minibatch():
    oracles = optim.stochastic_oracle(
        lambda key, w, x, y: jnp.mean((x * w + jax.random.normal(key) - y) ** 2),
        outputs=lambda key, w, x, y: x * w + jax.random.normal(key),
        row_loss=lambda key, h, x, y: (h - y) ** 2,
        remainder=lambda key, w, x, y: jnp.zeros(()),
        per_example=lambda key, w, x, y: (x * w + jax.random.normal(key) - y) ** 2,
        lower_bound=0.0,
    )
    x, y, w = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 0.0, 2.0]), jnp.array(0.5)
    for key in (KEY, jax.random.key(8)):
        oracle = oracles(KEY, x, y).fresh(key)
        rows = (0.5 * np.asarray(x) + float(jax.random.normal(key)) - y) ** 2
        assert np.allclose(oracle.row_loss(oracle.outputs(w)), rows)
        assert np.allclose(oracle.per_example(w), rows)
        assert np.isclose(oracle(w), rows.mean())
        assert oracle.remainder(w) == 0
        assert oracle.lower_bound == 0


def test_schedule_free_is_read_like_ours():
    """By itself, in a chain, in a partition, and averaged by ours."""
    free = optax.contrib.schedule_free_sgd(0.3)
    found = iterates(free, lambda t: Oracle(LOSS), X0, 10)
    x, state = found[-1]
    solutions = [optax.contrib.schedule_free_eval_params(s, jnp.asarray(x)) for x, s in found]
    expected = solutions[-1]
    assert np.array_equal(eval_params(state, jnp.asarray(x)), expected)
    assert not np.allclose(expected, x, rtol=1e-3)
    averaged = optim.polynomial_average(free, 0.0)  # as `vi.fit` wraps it
    y, wrapped = iterates(averaged, lambda t: Oracle(LOSS), X0, 10)[-1]
    assert np.allclose(y, x, rtol=1e-5)
    assert np.allclose(eval_params(wrapped, y), np.mean(solutions, axis=0), rtol=1e-4)
    chained = optax.chain(optax.identity(), free)
    x, state = iterates(chained, lambda t: Oracle(LOSS), X0, 10)[-1]
    assert np.allclose(eval_params(state, jnp.asarray(x)), expected, rtol=1e-5)
    labels = {"a": "free", "b": "still"}
    split = optax.partition({"free": free, "still": optax.set_to_zero()}, labels)
    params = {"a": X0, "b": jnp.ones(2)}
    state = split.init(params)
    for _ in range(3):
        updates, state = split.update({"a": params["a"], "b": jnp.ones(2)}, state, params)
        params = optax.apply_updates(params, updates)
    found = eval_params(state, params)
    assert not np.allclose(found["a"], params["a"], rtol=1e-3)
    assert np.array_equal(found["b"], params["b"])


def test_complex_leaves_are_read_as_they_were_split():
    """A solution of real and imaginary parts is that of complex parameters."""
    z, target = {"z": jnp.array([3.0 + 4.0j, -1.0j]), "x": jnp.ones(2)}, 1.0 + 2.0j
    inner = optim.polynomial_average(optim.a_dog(0.1))
    optimizer = optax.contrib.split_real_and_imaginary(inner)
    state = optimizer.init(z)
    for _ in range(60):
        grads = {"z": 2 * (z["z"] - target), "x": 2 * z["x"]}
        updates, state = optimizer.update(grads, state, z)
        z = optax.apply_updates(z, updates)
    found = eval_params(state, z)
    assert found["z"].dtype == z["z"].dtype
    assert np.allclose(found["z"], target, atol=0.1)
    assert np.allclose(found["x"], 0, atol=0.1)
    assert not np.array_equal(found["z"], z["z"])


def test_extra_arguments_reach_whoever_can_use_them():
    """`MultiSteps` passes the oracle on, though its type does not say so; SAM takes no value."""

    def update(updates, state, params=None, *, value_fn=None, **extra):
        return -0.1 * value_fn.grad(params), state

    asking = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    sharpness_aware = optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.01))
    for optimizer in (optax.MultiSteps(asking, 1), sharpness_aware):
        step = jax.jit(optim.make_step(lambda key: Oracle(LOSS), optimizer))
        x, _, value = step(KEY, X0, optimizer.init(X0))
        assert np.isclose(value, LOSS(X0))
        assert not np.array_equal(x, X0)


def test_accumulation_is_refused_also_through_wrappers():
    for optimizer in (
        optim.polynomial_average(optim.lazy_newton()),
        optax.chain(optax.clip(1.0), optim.gauss_newton(adaptive=True)),
        optim.fosi(KEY, optim.oasis(KEY)),
    ):
        with pytest.raises(ValueError, match=r"optax.MultiSteps"):
            optax.MultiSteps(optimizer, 2).init(X0)
