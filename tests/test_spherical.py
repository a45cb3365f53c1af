"""Spherical features: their covariances by Monte Carlo on the sphere, and what they cannot see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import gp
from gp.inducing import InducingPrior
from gp.inducing.algebra import basis, features
from gp.inducing.harmonics import coefficients, multiplicity, quadrature, zonal_sum
from gp.inducing.interdomain import covariance_of, cross_of
from vi.compile import quick_jit

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, size=(40, 2))
Y = np.abs(X[:, 0]) - X[:, 1] + 0.1 * RNG.normal(size=40)
KERNELS = {
    "arc_cosine": gp.ArcCosine(jnp.asarray([0.7, 1.3]), 1.5),
    "matern": gp.ZonalMatern(jnp.asarray([0.7, 1.3]), 1.5, 0.8),
}


@pytest.mark.parametrize("dimension", [2, 3, 5])
def test_levels_are_those_of_gegenbauer(dimension, x64):
    """Of polynomials exactly; of a function, its sum comes back."""
    rule = quadrature(6, dimension)
    alpha = dimension / 2 - 1
    for level in (1, 4):
        if dimension > 2:
            one = special.gegenbauer(level, alpha)
            expected = one(0.3) / one(1.0)
            count = multiplicity(level, dimension)
            np.testing.assert_allclose((level + alpha) / alpha * one(1.0), count, rtol=1e-10)
        else:
            expected = np.cos(level * np.arccos(0.3))
        only = jnp.zeros(7).at[level].set(1 / multiplicity(level, dimension))
        found = zonal_sum(only, np.ones(7, bool), jnp.asarray(0.3), dimension)
        np.testing.assert_allclose(found, expected, rtol=1e-10)
    cubic = lambda t: 0.3 - t + 2 * t**3
    levels = coefficients(jnp.asarray(cubic(rule.cosines)), rule)
    back = zonal_sum(levels, np.ones(7, bool), jnp.linspace(-1, 1, 5), dimension)
    np.testing.assert_allclose(back, cubic(np.linspace(-1, 1, 5)), atol=1e-12)
    np.testing.assert_allclose(levels[4:], 0, atol=1e-12)


_joint = quick_jit(
    lambda kernel, some, x: (covariance_of(kernel, some), cross_of(kernel, some, x), kernel(x, x))
)


def joint(kernel, some):
    """The joint covariance of features, inducing inputs and the function at the data."""
    both = np.concatenate([X[:6], X])
    own, at, prior = map(np.asarray, _joint(kernel, some, both))
    return np.block([[own, at], [at.T, prior]])


@pytest.mark.parametrize("activation", ["relu", "softplus"])
@pytest.mark.parametrize("name", KERNELS)
def test_covariances_are_of_one_gaussian(name, activation, x64):
    """Positive definite with the function; a feature that is not truncated alike is not."""
    kernel = KERNELS[name]
    some = gp.SphericalFeatures.of(kernel, X, 12, degree=9, activation=activation)
    whole = joint(kernel, some)
    scale = np.sqrt(np.diag(whole))
    least = np.linalg.eigvalsh(whole / scale / scale[:, None])[0]
    assert least > -1e-10
    fewer = gp.SphericalFeatures(some.directions, 2, activation)
    whole[:12, :12] = joint(kernel, fewer)[:12, :12]
    assert np.linalg.eigvalsh(whole / scale / scale[:, None])[0] < -1e-3


@pytest.mark.parametrize("name", KERNELS)
def test_projections_add_up_to_that_onto_both(name, x64):
    """Onto features, and onto what they leave at inducing inputs; against inverses in NumPy."""
    kernel = KERNELS[name]
    some = gp.SphericalFeatures.of(kernel, X, 9, activation="softplus")
    both = gp.OrthogonalFeatures(some, jnp.asarray(X[:6]))
    (_, jitter), a = quick_jit(
        lambda kernel, z: (basis(kernel, z), features(kernel, z, basis(kernel, z).tril, X))
    )(kernel, both)
    assert jitter == 0
    whole = joint(kernel, some)
    count = len(some)
    solve = np.linalg.solve
    k_uu, k_uv, k_ux = whole[:count, :count], whole[:count, count : count + 6], whole[:count, -40:]
    k_vv, k_vx = whole[count : count + 6, count : count + 6], whole[count : count + 6, -40:]
    onto_u = k_ux.T @ solve(k_uu, k_ux)
    c, c_x = k_vv - k_uv.T @ solve(k_uu, k_uv), k_vx - k_uv.T @ solve(k_uu, k_ux)
    onto_v = c_x.T @ solve(c, c_x)
    np.testing.assert_allclose(a[:count].T @ a[:count], onto_u, atol=1e-6)
    np.testing.assert_allclose(a[count:].T @ a[count:], onto_v, atol=1e-6)
    known = whole[: count + 6, : count + 6], whole[: count + 6, -40:]
    nystrom = known[1].T @ solve(*known)
    np.testing.assert_allclose(onto_u + onto_v, nystrom, atol=1e-6)
    assert np.abs(onto_u - nystrom).max() > 1e-2


def test_what_they_cannot_see(x64):
    """A rectifier has no odd levels; a smooth kernel has all variance in the highest one."""
    rough, smooth = gp.ZonalMatern(nu=0.5), gp.ZonalMatern(nu=6.5, chord=1.5)
    relu = gp.SphericalFeatures.of(rough, X, 30, degree=10)
    found = relu.spectrum(rough)
    np.testing.assert_array_equal(np.flatnonzero(~found.seen), [3, 5, 7, 9])
    assert "no part in levels 3, 5, 7, 9" in relu.cautions(rough)[0]
    assert not relu.cautions(gp.ArcCosine())
    assert relu.spectrum(gp.ArcCosine()).share.sum() > 0.99
    assert "is in their highest level, 10" in relu.cautions(smooth)[-1]
    explained = quick_jit(
        lambda kernel, z: (
            jnp.sum(features(kernel, z, basis(kernel, z).tril, X) ** 2)
            / jnp.sum(kernel.diagonal(X))
        )
    )
    short = gp.SphericalFeatures(relu.directions, 2)
    assert short.spectrum(smooth).features.sum() < 0.1 * relu.spectrum(smooth).features.sum()
    assert not short.cautions(smooth)
    assert explained(smooth, relu) < explained(smooth, short) - 0.1
    low = gp.SphericalFeatures.of(rough, X, 30)
    assert low.degree == 4
    assert explained(gp.ArcCosine(), relu) < 0.6 < 0.98 < explained(gp.ArcCosine(), low)


def test_fit_by_features(x64, tmp_path):
    """Near the exact process, saved and loaded; more inputs of their own raise the bound."""
    kernel = KERNELS["arc_cosine"]
    some = gp.SphericalFeatures.of(kernel, X, 25)
    options = {"key": KEY, "kernel": kernel, "likelihood": gp.Gaussian(0.02), "train": False}
    inducing = {"method": "inducing", "method_options": {"inducing": some}}
    found, exact = gp.fit(X, Y, **options, **inducing), gp.fit(X, Y, **options)
    both = {"inducing": gp.OrthogonalFeatures(some, X[::4])}
    more = gp.fit(X, Y, method="inducing", method_options=both, **options)
    assert found.elbo < more.elbo < exact.elbo
    np.testing.assert_allclose(found.predict(X).mean, exact.predict(X).mean, atol=0.2)
    found.save(tmp_path / "features.npz")
    back = gp.load(
        tmp_path / "features.npz",
        X,
        Y,
        kernel=kernel,
        likelihood=gp.Gaussian(0.02),
        method_options={"inducing": some},
    )
    np.testing.assert_array_equal(back.predict(X).mean, found.predict(X).mean)
    with pytest.raises(ValueError, match="made of stationary ones"):
        found.sample_paths(KEY)
    with pytest.raises(ValueError, match="through inducing inputs; got SphericalFeatures"):
        gp.stream(found, key=KEY)


@pytest.mark.slow
def test_directions_are_trained(x64):
    kernel = KERNELS["matern"]
    both = gp.OrthogonalFeatures(gp.SphericalFeatures.of(kernel, X, 8, degree=4), X[::8])
    fit = lambda steps: gp.fit(
        X,
        Y,
        key=KEY,
        kernel=kernel,
        method="inducing",
        method_options={"inducing": both},
        minibatches=20,
        num_steps=steps,
    )
    first, last = fit(1), fit(150)
    assert last.elbo > first.elbo + 5
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), first.prior.z, last.prior.z)
    assert min(jax.tree.leaves(moved)) > 1e-3


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"got 'gelu', None"):
        gp.SphericalFeatures.of(gp.ArcCosine(), X, 5, activation="gelu")
    with pytest.raises(ValueError, match=r"gp.ArcCosine or gp.ZonalMatern; got Matern"):
        gp.SphericalFeatures.of(gp.Matern(), X, 5)
    some = gp.SphericalFeatures.of(gp.ArcCosine(), X, 5)
    with pytest.raises(ValueError, match=r"gp.ArcCosine or gp.ZonalMatern; got"):
        InducingPrior.of(gp.Matern(), gp.Zero(), X, inducing=some).condition(
            gp.Sites(jnp.ones(40), jnp.ones(40))
        )
