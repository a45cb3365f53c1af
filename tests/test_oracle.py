"""The oracle: its derivatives against closed forms, its errors, and who passes it on."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta, AutoNormal

import vi
from optim import (
    MissingOracleError,
    Oracle,
    apply_nnx_oracle,
    apply_oracle,
    as_oracle,
    lazy_newton,
    make_step,
    stochastic_oracle,
)
from vi.oracle_optimizer import OracleOptimizer
from vi.stochastic import StochasticRun

KEY = jax.random.key(0)
A = np.random.default_rng(0).normal(size=(4, 4))
A = A @ A.T + np.diag([1.0, 2.0, 3.0, 4.0])
TREE = {"a": jnp.array([0.3, -0.2]), "b": jnp.array(0.5), "c": jnp.array([1.0]), "e": jnp.ones(0)}


def flat(tree):
    return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(tree)])


def loss(tree):
    x = flat(tree)
    return 0.5 * x @ jnp.asarray(A, x.dtype) @ x + jnp.sum(jnp.cosh(x))


def hessian(x):
    return A + np.diag(np.cosh(x))


def like(tree, vector):
    parts = np.split(np.asarray(vector, np.float32), [2, 3])
    return {
        "a": jnp.asarray(parts[0]),
        "b": jnp.asarray(parts[1][0]),
        "c": jnp.asarray(parts[2]),
        "e": jnp.ones(0),
    }


V = np.array([0.4, -1.0, 0.2, 0.9])


@pytest.mark.parametrize(
    "oracle", [Oracle(loss), as_oracle(loss, "test")], ids=["made", "upgraded"]
)
def test_derivatives_are_those_of_the_closed_form(oracle):
    x = np.asarray(flat(TREE), np.float64)
    H, g = hessian(x), A @ x + np.sinh(x)
    value, grad = oracle.value_and_grad(TREE)
    assert np.isclose(value, 0.5 * x @ A @ x + np.cosh(x).sum(), rtol=1e-5)
    assert np.allclose(flat(grad), g, rtol=1e-4)
    assert np.allclose(flat(oracle.grad(TREE)), g, rtol=1e-4)
    v = like(TREE, V)
    assert np.allclose(flat(oracle.hvp(TREE, v)), H @ V, rtol=1e-4)
    grad, product = oracle.linearize(TREE)
    assert np.allclose(flat(grad), g, rtol=1e-4)
    assert np.allclose(flat(product(v)), H @ V, rtol=1e-4)
    assert np.isclose(oracle.quad(TREE, v), V @ H @ V, rtol=1e-4)
    assert np.allclose(oracle.dense_hessian(TREE), H, rtol=1e-4)


def test_quad_goes_where_taylor_mode_does_not():
    """Powers with float exponents and lgamma, which jet turns into NaN or refuses."""
    f = lambda x: jnp.sum((-x) ** 2.0 + jax.lax.lgamma(x))
    trigamma = jax.vmap(jax.grad(jax.scipy.special.digamma))
    x, v = jnp.array([1.5, 2.5]), jnp.array([1.0, -2.0])
    assert np.isclose(Oracle(f).quad(x, v), jnp.sum(v**2 * (2 + trigamma(x))), rtol=1e-4)


def test_dense_hessians_of_many_rows_and_their_bound():
    scale = jnp.linspace(1.0, 2.0, 300)
    oracle = Oracle(lambda x: 0.5 * jnp.sum(scale * x**2), max_dense_dim=300)
    assert np.allclose(oracle.dense_hessian(jnp.ones(300)), np.diag(scale))
    with pytest.raises(ValueError, match="at most max_dense_dim=300 parameters; got 301"):
        oracle.dense_hessian(jnp.ones(301))


def test_half_precision_parameters_have_wide_curvature():
    H = Oracle(lambda x: jnp.sum(x**2)).dense_hessian(jnp.ones(3, jnp.bfloat16))
    assert H.dtype == jnp.float32
    assert np.allclose(H, 2 * np.eye(3))


def test_composite_losses():
    X, y = np.random.default_rng(1).normal(size=(2, 5, 3))
    X, y = jnp.asarray(X, jnp.float32), jnp.asarray(y[:, 0], jnp.float32)
    oracle = Oracle.composite(
        lambda w: X @ w, lambda h: 0.5 * (h - y) ** 2, lambda w: 0.1 * jnp.sum(w**2)
    )
    w = jnp.array([0.1, -0.4, 0.7])
    residual = X @ w - y
    assert np.isclose(oracle(w), np.mean(residual**2) / 2 + 0.1 * np.sum(w**2), rtol=1e-5)
    assert np.allclose(oracle.outputs(w), X @ w)
    assert np.allclose(oracle.row_loss(oracle.outputs(w)), residual**2 / 2)
    assert np.isclose(oracle.remainder(w), 0.1 * np.sum(w**2), rtol=1e-5)
    assert np.allclose(oracle.per_example(w), residual**2 / 2)
    assert np.allclose(oracle.per_example_grads(w), residual[:, None] * X, rtol=1e-4, atol=1e-5)
    assert oracle.has == {"outputs", "row_loss", "remainder", "per_example"}


def test_what_is_missing_is_named_when_tracing():
    plain = Oracle(loss)
    for name in ("outputs", "row_loss", "remainder", "per_example", "fresh", "constraints"):
        with pytest.raises(MissingOracleError, match=f"Oracle.{name}: expected"):
            getattr(plain, name)(TREE)
    with pytest.raises(MissingOracleError, match="A negative ELBO has none"):
        _ = plain.lower_bound
    with pytest.raises(MissingOracleError, match="psgd: expected value_fn"):
        as_oracle(None, "psgd")
    with pytest.raises(MissingOracleError, match=r"Oracle\.composite"):
        jax.eval_shape(lambda x: as_oracle(loss, "gauss_newton", ("outputs",))(x), TREE)
    with pytest.raises(ValueError, match=r"Oracle.per_example: .*; got shape \(\)"):
        Oracle(loss, per_example=loss).per_example_grads(TREE)
    full = Oracle(loss, constraints=lambda t: t["a"] - 1, lower_bound=-3)
    assert float(full.lower_bound) == -3
    assert np.allclose(full.constraints(TREE), TREE["a"] - 1)


def test_fresh_randomness_is_other_randomness_and_the_same_key_is_the_same():
    oracles = stochastic_oracle(lambda key, x, n: jnp.sum(x * jax.random.normal(key, (n,))))
    oracle, x = oracles(KEY, 3), jnp.ones(3)
    other = oracle.fresh(jax.random.key(1))
    assert oracle(x) == oracles(KEY, 3)(x)
    assert other(x) == oracles(jax.random.key(1), 3)(x)
    assert other(x) != oracle(x)
    assert other.fresh(KEY)(x) == oracle(x)


# ---- parts of the parameters -------------------------------------------------------------------


def recorder(seen):
    """A transformation that looks at the oracle it gets, and steps against the gradient."""

    def update(updates, state, params=None, *, value=None, grad=None, value_fn=None, **extra):
        oracle = as_oracle(value_fn, "recorder")
        seen["value"] = oracle(params) - value
        seen["grad"] = jax.tree.map(jnp.subtract, oracle.grad(params), updates)
        seen["hessian"] = oracle.dense_hessian(params)
        return jax.tree.map(lambda g: -0.1 * g, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


@pytest.mark.parametrize("override", [False, True])
@pytest.mark.parametrize("wrapper", ["masked", "partition"])
def test_masked_and_partition_see_their_part(wrapper, override):
    given = {"value_and_grad": jax.value_and_grad(loss)} if override else {}
    mask = {"a": True, "b": False, "c": True, "e": True}
    seen = {}
    if wrapper == "masked":
        optimizer = optax.chain(
            optax.masked(recorder(seen), mask),
            optax.masked(optax.sgd(0.2), {k: not m for k, m in mask.items()}),
        )
    else:
        labels = {k: str(m) for k, m in mask.items()}
        optimizer = optax.partition({"True": recorder(seen), "False": optax.sgd(0.2)}, labels)
    step = make_step(lambda key: Oracle(loss, **given), optimizer)
    params, _, value = step(KEY, TREE, optimizer.init(TREE))
    grads = jax.grad(loss)(TREE)
    for name, rate in (("a", 0.1), ("b", 0.2), ("c", 0.1)):
        assert np.allclose(params[name], TREE[name] - rate * grads[name], rtol=1e-5)
    assert seen["value"] == 0
    assert all(np.allclose(x, 0) for x in jax.tree.leaves(seen["grad"]))
    keep = [0, 1, 3]
    assert np.allclose(seen["hessian"], hessian(np.asarray(flat(TREE)))[np.ix_(keep, keep)], 1e-4)
    assert np.isclose(value, loss(TREE))


def test_restriction_reaches_every_declared_part():
    X = jnp.arange(6.0).reshape(3, 2)
    oracle = Oracle.composite(
        lambda t: X @ t["w"] + t["b"],
        lambda h: h**2,
        lambda t: t["b"] ** 2,
        fresh=lambda key: Oracle(lambda t: t["b"] * jax.random.normal(key)),
        constraints=lambda t: t["w"],
    )
    full = {"w": jnp.array([1.0, -1.0]), "b": jnp.array(2.0)}
    part = {"w": full["w"], "b": optax.MaskedNode()}
    restricted = oracle.restrict(full)
    for name in ("outputs", "remainder", "per_example", "constraints"):
        whole = getattr(oracle, name)(full)
        assert np.array_equal(getattr(restricted, name)(part), whole)
        assert np.array_equal(getattr(restricted, name)(full), whole)
    assert restricted.fresh(KEY)(part) == oracle.fresh(KEY)(full)
    assert restricted.dense_hessian(part).shape == (2, 2)


# ---- loops -------------------------------------------------------------------------------------


def test_make_step_is_scanned_and_drives_line_searches():
    oracles = stochastic_oracle(lambda key, tree: loss(tree) + 0 * jax.random.normal(key))
    optimizer = optax.lbfgs()
    step = make_step(oracles, optimizer)

    @jax.jit
    def run(params):
        keys = jax.random.split(KEY, 12)
        body = lambda carry, key: (lambda p, s, v: ((p, s), v))(*step(key, *carry))
        return jax.lax.scan(body, (params, optimizer.init(params)), keys)

    (params, _), values = run(TREE)
    assert values[0] > values[-1]
    assert np.allclose(flat(params), 0, atol=1e-3)  # the gradient A x + sinh x vanishes at 0
    with pytest.raises(MissingOracleError, match="make_step"):
        make_step(lambda key: None, optimizer)(KEY, TREE, optimizer.init(TREE))


def test_numpyro_svi_passes_an_oracle():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(mu, 0.5).to_event(1), obs=y)

    y, seen = jnp.array([1.0, -2.0]), {}
    svi = SVI(model, AutoDelta(model), OracleOptimizer(recorder(seen)), Trace_ELBO())
    state = svi.init(KEY, y)
    for options in ({}, {"forward_mode_differentiation": True}):
        for update in (svi.update, svi.stable_update):
            seen.clear()
            with jax.disable_jit():
                update(state, y, **options)
            assert seen["value"] == 0
            assert np.allclose(seen["grad"]["mu_auto_loc"], 0, atol=1e-5)
            assert np.allclose(seen["hessian"], 5 * np.eye(2), atol=1e-4)  # 1 + 1 / 0.5²
    result = vi.SVI(model, AutoDelta(model), optax.lbfgs(), Trace_ELBO()).run(
        KEY, 5, y, progress_bar=False
    )
    assert np.allclose(result.params["mu_auto_loc"], 0.8 * y, atol=1e-4)


def test_the_stochastic_path_evaluates_at_the_same_key_and_minibatch():
    """Zero difference between the step's loss and the oracle's at the same point, at every step;
    the twin: at a fresh key they differ."""
    differences = []

    def probe():
        def update(updates, state, params=None, *, value=None, value_fn=None, **extra):
            again, grad = value_fn.value_and_grad(params)
            gap = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), grad, updates)
            other = value_fn.fresh(jax.random.fold_in(KEY, 17))(params)
            found = jnp.stack([value_fn(params) - value, again - value, *jax.tree.leaves(gap)])
            jax.debug.callback(lambda x, y: differences.append((x, y)), found, other - value)
            return jax.tree.map(lambda g: -0.01 * g, updates), state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        with numpyro.plate("rows", len(y), subsample_size=5) as rows:
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y[rows])

    target = vi.target(model, np.random.default_rng(0).normal(size=40).astype(np.float32))
    estimator = vi.elbo(num_particles=2, estimator=vi.StickingTheLanding())
    run = StochasticRun(target, vi.mean_field(1), KEY, estimator, probe(), 6, 2)
    run.advance(run.initial())
    jax.effects_barrier()
    same, fresh = map(np.array, zip(*differences, strict=True))
    assert same.shape == (6, 4)
    assert np.abs(same).max() < 1e-3
    assert np.abs(fresh).min() > 0.1


# ---- flax --------------------------------------------------------------------------------------


class TrainState(types.SimpleNamespace):
    """The five names of Flax's that are used."""

    def replace(self, **changes):
        return TrainState(**{**vars(self), **changes})


@pytest.mark.slow
def test_train_states():
    optimizer = optax.lbfgs()
    state = TrainState(step=0, params=TREE, tx=optimizer, opt_state=optimizer.init(TREE), apply=1)
    for _ in range(12):
        state, value = apply_oracle(state, Oracle(loss))
    assert (state.step, state.apply) == (12, 1)
    assert np.isclose(value, 4, atol=1e-4)  # the minimum, sum cosh 0


@pytest.mark.slow
def test_nnx():
    """A line search through a module with dropout: the masks are frozen in a step only."""
    nnx = pytest.importorskip("flax.nnx")

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.linear, self.dropout = nnx.Linear(2, 3, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.dropout(self.linear(x))

    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.lbfgs(), wrt=nnx.Param)
    loss = lambda model: jnp.mean((model(jnp.ones((4, 2))) - 1) ** 2)
    values = [float(apply_nnx_oracle(optimizer, model, loss)) for _ in range(4)]
    assert len(set(values)) == 4
    assert values[-1] < values[0]
    assert int(model.dropout.rngs.count[...]) == 4


def test_curvature_in_numpyros_svi():
    """A second-order optimizer under NumPyro's own SVI; fresh curvature is refused by name."""

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        numpyro.sample("y", dist.Normal(mu, 1.0).expand(y.shape).to_event(1), obs=y)

    y = jnp.linspace(2.0, 4.0, 20)
    svi = SVI(model, AutoNormal(model), OracleOptimizer(lazy_newton(0.3)), Trace_ELBO(8))
    params = svi.run(KEY, 300, y, progress_bar=False).params
    assert np.isclose(params["mu_auto_loc"], 20 * 3 / (20 + 0.01), atol=0.15)
    assert np.isclose(params["mu_auto_scale"] ** 2 * 20.01, 1, atol=0.4)
    fresh = lazy_newton(curvature="fresh", key=KEY)
    svi = SVI(model, AutoNormal(model), OracleOptimizer(fresh), Trace_ELBO())
    with pytest.raises(
        MissingOracleError, match="lazy_newton: expected a loss that declares fresh"
    ):
        svi.run(KEY, 1, y, progress_bar=False)
