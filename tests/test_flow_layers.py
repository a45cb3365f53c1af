"""Layers: log-determinants against Jacobians, inverses, and the formulas behind them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

import flows
from flows.bumps import above_minus_one
from flows.contractive import _at_most
from flows.imports import load_distrax
from flows.networks import MaskedNetwork, initial_parameters
from flows.root import increasing_root
from flows.spline_bijector import SplineBijector
from flows.transport import EPSILON
from tests.contracts import DIM, LAYERS, precision
from vi.compile import quick_jit

# Largest error of a log-determinant and of a round trip, for coordinates of size one.
TOLERANCE = {"float32": 2e-4, "float64": 1e-10}


def moved(layer, size=0.3, seed=0):
    """The layer with its parameters at random."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + jnp.asarray(size * rng.normal(size=x.shape), x.dtype), layer)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "autoregressive_spline" else ())
        for name in LAYERS
    ],
)
def test_layer(name):
    entry, traces = LAYERS[name], 0

    def look(layer, x, context):
        nonlocal traces
        traces += 1
        forward = lambda x: layer.forward_and_log_det(x, context)
        y, log_det = forward(x)
        back, inverse_log_det = layer.inverse_and_log_det(y, context)
        pull = jax.jacfwd(lambda y: layer.inverse_and_log_det(y, context)[0])(y[0])
        score = layer.forward_with_score(x, jnp.cos(x), context)[2]
        bend = jax.grad(lambda x: forward(x)[1])(x[0])
        return (
            score,
            bend,
            y,
            log_det,
            back,
            inverse_log_det,
            jax.jacfwd(lambda x: forward(x)[0])(x[0]),
            pull,
        )

    jitted = quick_jit(look)
    for dtype in TOLERANCE:
        with precision(dtype):
            context = jnp.asarray([0.4, -0.7], dtype) if entry.conditional else None
            layer = moved(entry.make(np.random.default_rng(1), dtype))
            x = jnp.asarray(np.random.default_rng(2).normal(size=(3, DIM)), dtype)
            found = jitted(layer, x, context)
            assert {leaf.dtype for leaf in jax.tree.leaves((layer, found))} == {jnp.dtype(dtype)}
            score, bend, y, log_det, back, inverse_log_det, jacobian, pull = found
            tol = TOLERANCE[dtype]
            assert log_det.shape == inverse_log_det.shape == (3,)
            assert np.isclose(log_det[0], np.linalg.slogdet(np.asarray(jacobian))[1], atol=tol)
            assert np.allclose(log_det, -inverse_log_det, atol=tol)
            assert np.allclose(back, x, atol=tol)
            # Gradients through the inverse, also where it is a root or a loop.
            assert np.allclose(pull @ jacobian, np.eye(DIM), atol=10 * tol)
            # s_y = J^{-T} (s_x - ∇ log|det J|), by the dense Jacobian of the forward map.
            assert np.allclose(jacobian.T @ score[0], jnp.cos(x[0]) - bend, atol=10 * tol)
            if entry.conditional:
                other = jitted(layer, x, context + 1)
                assert not np.allclose(other[2], y, atol=1e-2)
            if entry.identity:
                first = jitted(entry.make(np.random.default_rng(1), dtype), x, context)
                assert np.allclose(first[2], x, atol=tol)
    assert traces == 2
    assert not np.allclose(y, x, atol=1e-2) or name == "reverse"


def test_a_stack_is_its_layers_one_after_another(x64):
    layers = [moved(flows.ActNorm.identity(DIM, float), seed=i) for i in range(4)]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, DIM)))
    for direction in ("forward_and_log_det", "inverse_and_log_det"):
        scanned = getattr(flows.stack(layers), direction)(x)
        looped = getattr(flows.Chain(tuple(layers)), direction)(x)
        assert np.allclose(scanned[0], looped[0])
        assert np.allclose(scanned[1], looped[1])
    with pytest.raises(ValueError, match="all of one structure"):
        flows.stack([layers[0], flows.Reverse()])


@pytest.mark.parametrize("hidden", [(5,), (7, 3)])
def test_masked_outputs_see_earlier_coordinates_alone(hidden, x64):
    outputs, rng = 2, np.random.default_rng(0)
    weights, biases = initial_parameters(rng, (DIM + 1, *hidden, DIM * outputs), np.dtype(float))
    network = moved(MaskedNetwork(weights, biases, DIM))
    seen = jax.jacobian(network)(jnp.ones(DIM), jnp.ones(1)).reshape(DIM, outputs, DIM)
    blocked = np.arange(DIM)[:, None] <= np.arange(DIM)
    assert np.all(np.asarray(seen)[blocked[:, None, :].repeat(outputs, 1)] == 0)
    assert np.any(np.asarray(seen)[1, :, 0] != 0)
    by_context = jax.jacobian(network, 1)(jnp.ones(DIM), jnp.ones(1))
    assert np.all(np.asarray(by_context) != 0)


def test_roots_and_their_gradients(x64):
    aims = np.array([-30.0, 0.0, 0.3, 2.0])
    slope = 0.9

    def root(aim, slope):
        f = lambda a: (a - slope * jnp.tanh(a) - aim, 1 - slope * (1 - jnp.tanh(a) ** 2))
        return increasing_root(f, aim - slope, aim + slope)

    found = root(jnp.asarray(aims), slope)
    exact = [
        brentq(lambda a, t=t: a - slope * np.tanh(a) - t, t - 1, t + 1, xtol=1e-14) for t in aims
    ]
    assert np.allclose(found, exact, atol=1e-12)
    by_aim, by_slope = jax.grad(root, (0, 1))(0.3, slope)
    at = exact[2]
    inner = 1 - slope * (1 - np.tanh(at) ** 2)
    assert np.isclose(by_aim, 1 / inner)
    assert np.isclose(by_slope, np.tanh(at) / inner)


def test_constraints_keep_layers_invertible(x64):
    """Far along the forbidden direction the log-determinant stays finite."""
    assert above_minus_one(jnp.zeros(())) == pytest.approx(0, abs=1e-15)
    assert above_minus_one(jnp.asarray(-1e3)) > -1
    planar = flows.Planar(jnp.array([-50.0, 0.0]), jnp.array([1.0, 0.5]), jnp.zeros(()))
    radial = flows.Radial(jnp.zeros(2), jnp.zeros(()), jnp.asarray(-50.0))
    for layer in (planar, radial):
        y, log_det = layer.forward_and_log_det(jnp.zeros(2))
        assert np.isfinite(log_det)
        assert np.allclose(layer.inverse_and_log_det(y)[0], 0, atol=1e-6)


def test_residual_layers_are_contractions_whatever_their_weights(x64):
    """The singular values of the Jacobian less the identity, against ``contraction``."""
    layer = moved(flows.Residual.initial(np.random.default_rng(0), DIM, 20, 0, float), 30.0)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(50, DIM)))
    forward = lambda x: layer.forward_and_log_det(x)[0]
    jacobian = jax.vmap(jax.jacfwd(forward))(x) - np.eye(DIM)
    largest = np.linalg.norm(np.asarray(jacobian), ord=2, axis=(1, 2)).max()
    assert 0.2 < largest < layer.contraction
    for weight in layer.weights:
        assert 0.75 < np.linalg.norm(_at_most(weight, 1.0), ord=2) <= 1
    small = layer.weights[0] * 1e-3
    assert np.array_equal(_at_most(small, 1.0), small)


def test_block_neural_layers_increase_whatever_their_weights(x64):
    layer = moved(flows.BlockNeural.initial(np.random.default_rng(0), DIM, (4,), 0, float), 3.0)
    layer = dataclasses.replace(layer, gain=jnp.array([-40.0, 0.0, 40.0]))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(20, DIM)))
    jacobian = jax.vmap(jax.jacfwd(lambda x: layer.forward_and_log_det(x)[0]))(x)
    assert np.all(np.asarray(jacobian)[:, *np.triu_indices(DIM, 1)] == 0)
    assert np.all(np.diagonal(jacobian, axis1=1, axis2=2) > 0)
    assert np.diagonal(jacobian, axis1=1, axis2=2).max() > 1.5


def test_splines_are_those_of_distrax(x64):
    """Inside, at the knots' ends and outside, both ways; and so are gradients."""
    distrax = load_distrax()
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(size=(40, 3 * 5 + 1)))
    x = jnp.asarray(np.append(np.linspace(-6, 6, 38), [-4.0, 4.0]))
    ours = lambda p: SplineBijector(p, 4.0, 0.01, 0.02)
    theirs = lambda p: distrax.RationalQuadraticSpline(
        p, -4.0, 4.0, min_bin_size=0.01, min_knot_slope=0.02
    )

    @quick_jit
    def look(params, x):
        out = []
        for make in (ours, theirs):
            for way in ("forward_and_log_det", "inverse_and_log_det"):
                run = lambda p, x: getattr(make(p), way)(x)  # noqa: B023
                total = lambda p, x: jnp.sum(jnp.stack(run(p, x)) * jnp.cos(x))  # noqa: B023
                out.append((run(params, x), jax.grad(total, (0, 1))(params, x)))
        return out

    forward, inverse, *expected = look(params, x)
    for found, known in zip((forward, inverse), expected, strict=True):
        assert np.allclose(found[0][0], known[0][0], atol=1e-12)
        assert np.allclose(found[0][1], known[0][1], atol=1e-10)
        inside = slice(0, 38)  # at the ends themselves derivatives are one-sided
        assert np.allclose(found[1][0][inside], known[1][0][inside], atol=1e-8)
        assert np.allclose(found[1][1][inside], known[1][1][inside], atol=1e-8)


def test_a_monotone_polynomial_is_the_integral_of_its_square(x64):
    """Against quadrature."""
    params = jnp.array([0.3, -0.5, 0.7, -0.4])
    map_ = flows.MonotonePolynomial(2).bijector(params)
    slope = lambda u: ((1 + 0.7 * u - 0.4 * u**2) ** 2 + EPSILON) / (1 + EPSILON)
    for x in (-2.0, 0.0, 1.3):
        expected = np.exp(2 * np.tanh(0.15)) * quad(slope, 0, x)[0] - 0.5
        assert np.isclose(map_.forward(jnp.asarray(x)), expected, rtol=1e-12)


def test_sylvester_with_one_column_is_planar(x64):
    layer = moved(flows.Sylvester.initial(np.random.default_rng(3), DIM, 1, float))
    q, outer, inner, products = layer._matrices()
    direction = q[:, 0] * outer[0, 0]
    x = jnp.asarray(np.random.default_rng(0).normal(size=DIM))
    bump = np.tanh(inner[0, 0] * (q[:, 0] @ x) + layer.offset[0])
    y, log_det = layer.forward_and_log_det(x)
    assert np.allclose(q.T @ q, np.eye(1))
    assert np.allclose(y, x + direction * bump)
    assert np.isclose(log_det, np.log1p(products[0] * (1 - bump**2)))


def test_actnorm_takes_the_moments_of_data(x64):
    data = jnp.asarray(np.random.default_rng(0).normal([3.0, -1.0], [0.1, 20.0], (50, 2)))
    back, _ = flows.ActNorm.onto(data).inverse_and_log_det(data)
    assert np.allclose(back.mean(0), 0, atol=1e-12)
    assert np.allclose(back.std(0), 1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda key: flows.realnvp(0, key=key), "positive sizes"),
        (lambda key: flows.block_neural(2, key=key, hidden=()), "at least one layer"),
        (lambda key: flows.planar(2, key=key, context_dim=1).sample(key), r"flow.given\(context\)"),
        (lambda key: flows.sylvester(2, key=key, num_columns=3), "num_columns <= dim"),
        (lambda key: flows.iaf(2, key=key, transformer="cubic"), "'affine', 'spline'"),
        (lambda key: flows.realnvp(2, key=key).given(jnp.zeros(1)), "context_dim="),
        (
            lambda key: flows.realnvp(2, key=key, context_dim=1).sample(key),
            r"flow.given\(context\)",
        ),
    ],
)
def test_wrong_flows_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make(jax.random.key(0))


def test_splines_have_their_slope_at_knots(x64):
    """Derivatives by JAX and the log-determinant agree where two bins meet, and at the ends."""
    params = np.random.default_rng(0).normal(size=13)
    for spline in (SplineBijector(jnp.zeros(13), 5.0, 1e-3, 1e-3),
                   SplineBijector(jnp.asarray(params), 5.0, 1e-3, 1e-3)):  # fmt: skip
        knots = jnp.cumsum(spline._sizes, axis=1)[:, :-1] - 5.0
        for forward, points in ((True, knots[0]), (False, knots[1])):
            both = spline.forward_and_log_det if forward else spline.inverse_and_log_det
            slopes = jax.vmap(jax.grad(lambda x, both=both: both(x)[0]))(points)
            np.testing.assert_allclose(slopes, jnp.exp(both(points)[1]), rtol=1e-9)


def test_few_units_have_the_determinant_of_the_whole_jacobian():
    """One hidden layer with fewer units than coordinates, by Sylvester's identity."""
    rng = np.random.default_rng(1)
    made = flows.ConvexGradient.initial(np.random.default_rng(0), DIM, (2,), np.dtype("float32"))
    layer, x = moved(made), rng.normal(size=(4, DIM)).astype(np.float32)
    look = lambda layer, x: (
        layer.forward_and_log_det(x)[1],
        jnp.linalg.slogdet(jax.vmap(jax.hessian(layer.potential))(x))[1],
    )
    look = quick_jit(look)
    found, exact = look(layer, x)
    np.testing.assert_allclose(found, exact, atol=1e-5)
    assert np.abs(found - look(moved(made, seed=2), x)[1]).max() > 1e-3
