"""Kernels: against their formulas in NumPy, and the contracts all keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gp
from tests.contracts import KERNELS
from tests.gp_kernels import Rbf
from tests.test_contracts import finite_differences, precision
from vi.compile import quick_jit

RNG = np.random.default_rng(0)
A = RNG.normal(size=(2, 4, 2))
B = np.concatenate([A[:, :1], RNG.normal(size=(2, 2, 2))], 1)  # one point is common


SPREAD = RNG.normal(size=(30, 2))
WEIGHTS = np.cos(np.arange(24.0)).reshape(2, 4, 3)


def _loss(kernel, a, b):
    return jnp.sum(WEIGHTS.astype(a.dtype) * kernel(a, b))


@quick_jit
def _describe(kernel, a, b, spread):
    """All that a kernel says of its inputs, and its gradients."""
    gradients = jax.grad(_loss, argnums=(0, 1))(kernel, a, b)
    blocks = kernel(a, b), kernel(a, b[:1]), kernel(a, a), kernel(spread, spread)
    return blocks, kernel.diagonal(a), kernel.metric(spread), gradients


SINGLE = ("matern_0.5", "matern_1.5", "rational_quadratic", "periodic", "arc_cosine_0", "mixed")


@pytest.mark.parametrize("name", KERNELS)
def test_kernel(name):
    entry = KERNELS[name]
    pairs = zip(A, B, strict=True)
    expected = np.array([[[entry.formula(x, y) for y in b] for x in a] for a, b in pairs])
    for dtype in ("float32", "float64") if name in SINGLE else ("float64",):
        with precision(dtype):
            kernel = jax.tree.map(lambda x, t=dtype: jnp.asarray(x, t), entry.make(dtype))
            a, b, spread = (jnp.asarray(x, dtype) for x in (A, B, SPREAD))
            found = _describe(kernel, a, b, spread)
            assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
            assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
            (block, broadcast, own, matrix), variances, metric, (slopes, _) = found
            tol = max(entry.tolerance, 1e-5 if dtype == "float32" else 0.0)
            np.testing.assert_allclose(block, expected, rtol=tol, atol=tol)
            np.testing.assert_allclose(broadcast[0], block[0], rtol=tol)
            np.testing.assert_allclose(variances, np.diagonal(own, axis1=1, axis2=2), rtol=tol)
            np.testing.assert_allclose(matrix, matrix.T, atol=tol)
            floor = 1e-5 if dtype == "float32" else 1e-12
            assert np.linalg.eigvalsh(matrix).min() > -floor * np.trace(matrix)
            assert metric.shape[0] == len(SPREAD)
            if dtype == "float64" and jax.tree.leaves(kernel):
                finite_differences(lambda k, a=a, b=b: _loss(k, a, b), kernel, slopes)


def test_gradients_at_coincident_points_are_exact(x64):
    """Curvature at r = 0 of Matérn-3/2 is -3 σ²/ℓ², of Matérn-5/2 -5/3 σ²/ℓ²."""
    for nu, expected in ((1.5, -3.0), (2.5, -5 / 3)):
        kernel = gp.Matern(lengthscale=2.0, variance=1.5, nu=nu)
        along = lambda t, k=kernel: k(jnp.zeros((1, 1)), t * jnp.ones((1, 1)))[0, 0]
        assert float(jax.grad(along)(0.0)) == 0.0
        np.testing.assert_allclose(jax.hessian(along)(0.0), expected * 1.5 / 4, rtol=1e-12)


def test_many_coordinates_are_reduced_as_few_are(x64):
    a, b = RNG.normal(size=(3, 20)), RNG.normal(size=(4, 20))
    found = gp.SquaredExponential(lengthscale=4.0)(a, b)
    expected = np.exp(-0.5 * ((a[:, None] - b) ** 2).sum(-1) / 16)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_neighbours_in_the_metric_are_the_most_correlated(x64):
    x = jnp.asarray(RNG.normal(size=(40, 2)))
    for name in ("matern_1.5", "periodic", "deep"):
        kernel = KERNELS[name].make("float64")
        z = np.asarray(kernel.metric(x))
        order = np.argsort(((z - z[0]) ** 2).sum(-1))
        assert np.all(np.diff(np.asarray(kernel(x[:1], x))[0, order]) <= 1e-12)


def test_a_sums_metric_forgets_terms_without_variance(x64):
    x = jnp.asarray(RNG.normal(size=(40, 2)))
    rough = gp.Matern(lengthscale=1e-3, variance=1e-12)
    z = np.asarray((gp.Matern() + rough).metric(x))
    np.testing.assert_allclose(
        ((z[0] - z) ** 2).sum(-1), ((x[0] - x) ** 2).sum(-1), rtol=1e-4, atol=1e-6
    )


def test_a_kernel_made_anew_is_not_compiled_anew():
    traces = 0

    @jax.jit
    def block(kernel, x):
        nonlocal traces
        traces += 1
        return kernel(x, x)

    make = lambda scale: gp.pointwise(lambda x, y: jnp.exp(-jnp.sum(jnp.abs(x - y))))
    for scale in (1.0, 2.0):
        block(make(scale), jnp.ones((3, 2)))
        block(gp.from_gpjax(Rbf(jnp.asarray(scale))), jnp.ones((3, 2)))
        block(gp.Matern(scale) * gp.Linear(scale) + scale * gp.Periodic(), jnp.ones((3, 2)))
    assert traces == 3


def test_what_cannot_be_evaluated_is_refused():
    x = jnp.ones((3, 2))
    for kernel, message in (
        (gp.Matern(nu=2.0), "expected nu in 0.5, 1.5"),
        (gp.Matern(lengthscale=jnp.ones(3)), r"D = 2 coordinates; got shape \(3,\)"),
        (gp.ActiveDimensions(gp.Matern(), (2,)), "dimensions from 0 to 1"),
        (gp.ArcCosine(order=3), "order in 0, 1, 2"),
    ):
        with pytest.raises(ValueError, match=message):
            kernel(x, x)
    with pytest.raises(TypeError, match="expected a callable"):
        gp.deep(gp.Matern(), 3)
    with pytest.raises(TypeError, match=r"use gp\.pointwise"):
        gp.from_tinygp(lambda x, y: x @ y)
