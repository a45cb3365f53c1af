"""Targets: densities against NumPyro's own, structure, data as arguments, minibatches, errors."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import potential_energy

import vi
from tests import models
from tests.stats import assert_mean
from vi.errors import check_call
from vi.targets.cost import Cost, count_operations


def constrained(x):
    simplex = numpyro.sample("simplex", dist.Dirichlet(jnp.ones(3)))
    ordered = numpyro.sample(
        "ordered", dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,))
    )
    with numpyro.plate("rows", 4):
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    corr = numpyro.sample("corr", dist.LKJCholesky(3, 2.0))
    numpyro.deterministic("total", scale.sum())
    mean = ordered.sum() + simplex[0] + corr[2, 0]
    numpyro.sample("x", dist.Normal(mean, scale).to_event(1), obs=x)


def series(y):
    drift = numpyro.sample("drift", dist.Normal(0.0, 1.0))

    def step(carry, value):
        state = numpyro.sample("state", dist.Normal(carry + drift, 1.0))
        numpyro.sample("y", dist.Normal(state, 0.5), obs=value)
        return state, state

    scan(step, 0.0, y)


CASES = [
    (models.schools, (models.SCHOOLS_Y, models.SCHOOLS_SIGMA)),
    (models.regression, models.regression_data()),
    (constrained, (np.array([0.3, -0.2, 1.0, 2.0]),)),
    (series, (np.array([0.1, 0.5, 1.2]),)),
]


@pytest.mark.parametrize(("model", "args"), CASES)
def test_density_is_numpyros_and_maps_invert(model, args, x64):
    target = vi.target(model, *args)
    z = jnp.asarray(np.random.default_rng(0).normal(size=target.dim))
    expected = -potential_energy(model, args, {}, target.layout.unravel(z))
    assert np.isclose(target.log_density(z), expected, rtol=1e-12)
    values = jax.jit(vi.Target.constrain)(target, z)
    back = target.unconstrain({name: values[name] for name in target.layout.names})
    assert np.allclose(back, z, atol=1e-10)


def test_oracle_agrees_with_finite_differences(x64):
    target = vi.target(models.schools, models.SCHOOLS_Y, models.SCHOOLS_SIGMA)
    rng = np.random.default_rng(1)
    z, v = (jnp.asarray(rng.normal(size=target.dim)) for _ in range(2))
    value, gradient = target.value_and_grad(z)
    h = 1e-5
    slope = (target.log_density(z + h * v) - target.log_density(z - h * v)) / (2 * h)
    assert np.isclose(value, target.log_density(z))
    assert np.isclose(gradient @ v, slope, rtol=1e-7)
    bend = (target.value_and_grad(z + h * v)[1] - target.value_and_grad(z - h * v)[1]) / (2 * h)
    assert np.allclose(target.hvp(z, v), bend, rtol=1e-5, atol=1e-6)
    assert np.allclose(target.hessian(z) @ v, target.hvp(z, v), atol=1e-10)


def test_deterministic_sites_come_out():
    target = vi.target(models.regression, *models.regression_data())
    values = target.constrain(jnp.array([1.0, 2.0, 0.0]))
    assert set(values) == {"beta", "sigma", "first"}
    assert values["first"] == values["beta"][0]


def test_new_data_of_the_same_shape_is_not_traced_again():
    traces = 0

    def model(y):
        nonlocal traces
        traces += 1
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1).expand([3]).to_event(1), obs=y)

    density = jax.jit(vi.Target.log_density)
    z = jnp.zeros(1)
    first = density(vi.target(model, np.zeros(3)), z)
    before = traces
    second = density(vi.target(model, np.ones(3)), z)
    assert traces == before
    assert second < first
    density(vi.target(model, jnp.ones(3)), z)
    assert traces == before


def test_an_error_tells_of_bound_arrays_by_shape_only():
    model = functools.partial(models.regression, y=np.ones(30))
    with pytest.raises(TypeError, match=r"of regression\(X, \*, y=float64\[30\]\); "):
        check_call(model, (np.ones((30, 2)),), {"z": 1}, "vi.fit")


def test_partial_keeps_bound_data_as_data():
    X, y = models.regression_data()
    one = vi.target(functools.partial(models.regression, X), y)
    two = vi.target(functools.partial(models.regression, X + 1), y=y)
    assert [leaf.shape for leaf in one.data] == [(200, 2), (200,)]
    assert one.dim == two.dim == 3


def test_integers_are_structure_and_floats_are_data():
    def model(num, scale, y):
        x = numpyro.sample("x", dist.Normal(0, scale).expand([num]).to_event(1))
        numpyro.sample("y", dist.Normal(x.sum(), 1), obs=y)

    target = vi.target(model, 3, 2.0, 1.0)
    assert target.dim == 3
    assert len(target.data) == 2
    assert vi.target(model, 3, 5.0, 0.0).structure is target.structure
    assert vi.target(model, 4, 2.0, 1.0).dim == 4


def test_a_model_that_looks_at_its_data_is_compiled_for_them():
    def model(y):
        loc = numpyro.sample("loc", dist.Normal(0, 1))
        if y.max() > 1:  # a tracer would not know
            loc = 2 * loc
        numpyro.sample("y", dist.Normal(loc, 1).expand([2]).to_event(1), obs=y)

    small, large = vi.target(model, np.zeros(2)), vi.target(model, np.full(2, 4.0))
    assert small.data == large.data == []
    z = jnp.ones(1)
    assert np.isclose(large.log_density(z) - small.log_density(z), -0.5 * (2 * 4.0 - 2 * 1.0))


def test_plain_density_over_a_pytree(x64):
    point = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    target = vi.target(lambda p, s: -jnp.sum((p["a"] / s) ** 2) - p["b"] ** 4, point, 2.0)
    assert target.layout.names == ("a", "b")
    assert np.isclose(target.log_density(jnp.array([2.0, 0.0, 1.0])), -2.0)
    assert [target.layout.coordinate(i) for i in range(3)] == ["a[0]", "a[1]", "b"]


def test_dtype_follows_the_point_under_x64(x64):
    target = vi.target(lambda x: -jnp.sum(x**2), jnp.zeros(2, jnp.float32))
    assert target.layout.dtype == "float32"
    assert target.log_density(jnp.ones(2, jnp.float32)).dtype == jnp.float32


# ---- minibatches -----------------------------------------------------------------------------


def subsampled(x, y, batch):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(x), subsample_size=batch) as rows:
        local = numpyro.sample("local", dist.Normal(0.0, 1.0))
        mean = slope * x[rows] + local
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y[rows])


@pytest.fixture(scope="module")
def minibatch_gradients():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12))
    full = vi.target(subsampled, x, y, 12)
    target = vi.target(subsampled, x, y, 3)
    z = jnp.asarray(rng.normal(size=target.dim), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws = jax.jit(jax.vmap(lambda k: target.value_and_grad(z, k)))(keys)
    return target, full, z, draws


def test_subsampled_plate_has_all_its_rows(minibatch_gradients):
    target, full, z, _ = minibatch_gradients
    assert target.subsampled
    assert not full.subsampled
    assert target.dim == full.dim == 13  # local latents of rows outside the minibatch too
    assert np.isclose(target.log_density(z), full.log_density(z), rtol=1e-6)


def test_minibatch_density_and_gradient_are_unbiased(minibatch_gradients):
    """False alarms: 1e-6. Detects a bias of 0.05 standard deviations of one estimate."""
    _, full, z, (values, gradients) = minibatch_gradients
    expected_value, expected_gradient = full.value_and_grad(z)
    assert_mean(values, expected_value)
    assert_mean(gradients, expected_gradient)


def test_twin_without_the_scale_of_the_minibatch_fails(minibatch_gradients):
    _, full, z, (_, gradients) = minibatch_gradients
    expected = full.value_and_grad(z)[1]
    with pytest.raises(AssertionError):
        assert_mean(np.asarray(gradients) * 0.9, expected)


def test_data_that_are_already_a_minibatch_are_scaled(x64):
    def model(y, size):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("rows", size, subsample_size=len(y)):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    y = np.array([0.5, 1.5])
    target = vi.target(model, y, 10)
    assert not target.subsampled
    z = jnp.array([0.3])
    expected = dist.Normal(0, 1).log_prob(z[0]) + 5 * dist.Normal(z[0], 1).log_prob(y).sum()
    assert np.isclose(target.log_density(z), expected)


# ---- errors ----------------------------------------------------------------------------------


def discrete():
    numpyro.sample("kind", dist.Bernoulli(0.3))
    numpyro.sample("x", dist.Normal(0, 1))


def delta():
    numpyro.sample("point", dist.Delta(1.0))
    numpyro.sample("x", dist.Normal(0, 1))


def param():
    numpyro.sample("x", dist.Normal(numpyro.param("loc", 0.0), 1))


def column(y):
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(x * jnp.ones(5), 1), obs=y)


def all_observed(y):
    numpyro.sample("y", dist.Normal(0, 1), obs=y)


@pytest.mark.parametrize(
    ("model", "args", "says"),
    [
        (discrete, (), r"discrete site 'kind' \(Bernoulli.*pass it as obs=.*sum it out"),
        (column, (np.ones((5, 1)),), r"site 'y'.*\(5, 1\).*\(5,\).*broadcast to \(5, 5\)"),
        (delta, (), "Delta site 'point'.*numpyro.deterministic"),
        (param, (), "numpyro.param site 'loc'.*vi.SVI"),
        (all_observed, (1.0,), "no continuous|at least one continuous latent"),
        (models.regression, (np.ones((5, 2)), np.ones(4)), "shapes and dtypes.*|float64\\[4\\]"),
        (lambda x: x, (jnp.zeros(3),), "returns a scalar"),
        (lambda x: jnp.sum(x), (jnp.zeros(3, int),), "floating-point"),
        (lambda x: jnp.sum(x), (jnp.zeros(0),), "D = 0"),
    ],
)
def test_impossible_targets_name_the_site_and_the_way_out(model, args, says):
    with pytest.raises(vi.TargetError, match=says):
        vi.target(model, *args)


@pytest.mark.parametrize("y", [np.ones(5), np.ones(1), np.ones((3, 5)), 1.0])
def test_observations_that_broadcast_one_way_are_welcome(y):
    assert vi.target(column, y).structure.observes


def test_whether_anything_is_observed():
    def prior():
        numpyro.sample("x", dist.Normal(0, 1))

    def factor():
        numpyro.factor("f", -(numpyro.sample("x", dist.Normal(0, 1)) ** 2))

    assert not vi.target(prior).structure.observes
    assert vi.target(factor).structure.observes


def test_wrong_arguments_name_the_models_own():
    with pytest.raises(TypeError, match=r"expected arguments of regression\(X, y\).*banana"):
        vi.target(models.regression, np.ones((3, 2)), y=np.ones(3), banana=1)
    target = vi.target(models.regression, *models.regression_data())
    with pytest.raises(TypeError, match="no further arguments with a Target"):
        vi.target(target, 3)


def test_unconstrain_names_unknown_and_missing_sites():
    target = vi.target(models.regression, *models.regression_data())
    with pytest.raises(vi.TargetError, match=r"unknown \['gamma'\]"):
        target.unconstrain({"beta": jnp.zeros(2), "sigma": 1.0, "gamma": 0.0})
    with pytest.raises(vi.TargetError, match=r"no \['sigma'\]"):
        target.unconstrain({"beta": jnp.zeros(2)})


# ---- cost ------------------------------------------------------------------------------------


def test_operations_count_loops_and_products():
    def loop(x):
        return jax.lax.scan(lambda c, _: (c * x, None), x, None, length=50)[0]

    x = jnp.ones(8)
    assert count_operations(jax.make_jaxpr(loop)(x).jaxpr) == 50 * 8
    product = jax.make_jaxpr(lambda a, b: a @ b)(jnp.ones((4, 5)), jnp.ones((5, 6)))
    assert count_operations(product.jaxpr) == 2 * 4 * 5 * 6
    small, large = (vi.target(models.regression, *models.regression_data(n)) for n in (60, 600))
    assert 5 < large.operations / small.operations < 15


def _in_turns(density, *data):
    cost = Cost.of(jax.make_jaxpr(density)(jnp.ones(4), *data).jaxpr)
    points = jnp.arange(12.0).reshape(3, 4) / 10
    gradient = jax.grad(lambda z: density(z, *data))
    each = [gradient(z) for z in points]
    np.testing.assert_allclose(cost.map(gradient, points), each, rtol=1e-4)
    return cost.in_turns


def test_gradients_are_taken_in_turns_where_that_is_fast():
    group, x, y = jnp.arange(9000) % 4, jnp.ones((5000, 4)), jnp.zeros(9000)
    assert _in_turns(lambda z, group, y: -jnp.sum((z[group] - y) ** 2), group, y)
    assert not _in_turns(lambda z, group, y: -jnp.sum((z[group] - y) ** 2), group[:90], y[:90])
    assert not _in_turns(lambda z, x: jnp.mean((x @ jnp.outer(z, z)) ** 2), x)
    loop = lambda z, y: jax.lax.scan(lambda c, a: (c * 0.5 + a, None), z, y)[0].sum()
    assert not _in_turns(lambda z, y: jax.jit(loop)(z, y), y)


def _mean(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    numpyro.sample("y", dist.Normal(mu, 1).expand(y.shape).to_event(1), obs=y)


GLOBAL_Y = np.full(5, 1.0)


def _reads_a_global():
    _mean(GLOBAL_Y)


class _Reader:
    def __init__(self, y):
        self.y = y

    def model(self):
        _mean(self.y)


def slope(target):
    return float(target.value_and_grad(jnp.zeros(1))[1][0])


def test_a_model_that_reads_new_data_is_another_target(monkeypatch):
    """Data in globals, attributes, objects and frames; the twins have the same data again."""
    import pandas

    before = vi.target(_reads_a_global)
    assert vi.target(_reads_a_global).structure is before.structure
    monkeypatch.setitem(globals(), "GLOBAL_Y", np.full(5, 3.0))
    assert slope(vi.target(_reads_a_global)) == 15

    reader = _Reader(np.full(5, 1.0))
    assert slope(vi.target(reader.model)) == 5
    reader.y = np.full(5, 2.0)
    assert slope(vi.target(reader.model)) == 10
    assert slope(vi.target(lambda r: _mean(r.y), reader)) == 10

    frame = pandas.DataFrame({"y": np.full(5, 1.0)})
    of_frame = lambda frame: _mean(frame["y"].to_numpy())
    assert slope(vi.target(of_frame, frame)) == 5
    frame["y"] = 4.0
    assert slope(vi.target(of_frame, frame)) == 20

    def looks(y):
        _mean(y * int(np.asarray(y).max()))

    y = np.full(5, 1.0)
    assert slope(vi.target(looks, y)) == 5
    y[:] = 2.0
    assert slope(vi.target(looks, y)) == 20


def test_an_array_written_to_in_place_is_an_error():
    reader = _Reader(np.full(5, 1.0))
    vi.target(reader.model)
    reader.y[:] = 2.0
    with pytest.raises(ValueError, match="written to after a fit"):
        vi.target(reader.model)


def test_rows_that_are_not_taken_from_the_plate_are_an_error():
    """A model that is fixed to the size of the minibatch but indexes all rows."""

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        with numpyro.plate("rows", len(y), subsample_size=3) as i:
            numpyro.sample("y", dist.Normal(mu + jnp.zeros(3), 1), obs=y[i])

    with pytest.raises(vi.TargetError, match="any number of rows"):
        vi.target(model, np.arange(9.0))


def test_models_in_threads_do_not_mix():
    from concurrent.futures import ThreadPoolExecutor

    def one(k):
        def model(y):
            mu = numpyro.sample(f"mu{k}", dist.Normal(0, 10))
            numpyro.sample("y", dist.Normal(mu, 1).expand([3]).to_event(1), obs=y)

        target = vi.target(model, np.full(3, float(k)))
        return target.layout.names, slope(target)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(8))) == [((f"mu{k}",), 3.0 * k) for k in range(8)]


def test_what_partial_bound_is_not_forgotten():
    import functools

    model = functools.partial(lambda y, scale: _mean(y / scale), scale=2.0)
    target = vi.target(model, np.full(3, 4.0))
    assert slope(target) == 6
    assert target.with_bound(dict)()["scale"] == 2


def test_the_prior_point_of_a_chain_that_overflows_is_zero():
    """Steps whose prior mean is beyond the largest float start at zero; later ones go on."""

    def chain(y):
        def step(carry, value):
            x = numpyro.sample("x", dist.LogNormal(jnp.log(carry) + 2.0, 3.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=value)
            return x, None

        scan(step, 1.0, y)

    point = np.asarray(vi.target(chain, np.ones(16)).prior_point())
    growth = 2.0 + 3.0**2 / 2
    overflows = int(np.log(np.finfo(np.float32).max) / growth)
    expected = growth * np.arange(1, 17)
    expected[overflows:] = growth * np.arange(16 - overflows)
    assert np.allclose(point, expected, rtol=1e-5)


LAZY = """
import jax, numpy as np, sys, vi

def model(y):
    import numpyro, numpyro.distributions as dist
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0).to_event(0), obs=y)

assert "numpyro" not in sys.modules
print(vi.target(model, np.ones(3, np.float32)).layout.names)
"""


def test_a_model_may_be_the_first_to_import_numpyro():
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "('mu',)", done.stderr


def test_observations_that_a_minibatch_does_not_index_are_named():
    def model(y, indexed):
        loc = numpyro.sample("loc", dist.Normal(0, 1))
        with numpyro.plate("rows", 6, subsample_size=2) as rows:
            numpyro.sample("y", dist.Normal(loc, 1), obs=y[rows] if indexed else y)

    key, y = jax.random.key(0), np.ones(6)
    assert np.isfinite(vi.target(model, y, True).log_density(jnp.zeros(1), key))
    with pytest.raises(vi.TargetError, match=r"'y': \(2,\) vs \(6,\)\. Index them by the plate"):
        vi.target(model, y, False).log_density(jnp.zeros(1), key)


def test_tables_of_pandas_are_named():
    """A series is no array to JAX; arrays of the same numbers are the twin."""
    import pandas

    def model(x, y):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(slope * x, 1).to_event(1), obs=y)

    table = pandas.DataFrame({"x": [0.0, 1.0], "y": [1.0, 2.0]})
    with pytest.raises(
        vi.TargetError, match=r"pandas objects as argument 0, y\. Pass their values"
    ):
        vi.target(model, table.x, y=table.y)
    with pytest.raises(vi.TargetError, match="pandas objects as argument 0"):
        vi.target(lambda x: model(x[:, 0], x[:, 1]), table)
    assert vi.target(model, table.x.to_numpy(), y=table.y.to_numpy()).dim == 1
