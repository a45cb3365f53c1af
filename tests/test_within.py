"""Sparse within sparse: the sparse variational process where all are near, and fits where not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gp
from gp.inducing.algebra import Whitened, features
from gp.model import Model
from gp.parameters import as_arrays
from gp.within import Neighbours, Within
from gp.within.family import elbo
from gp.within.neighbours import nearest
from vi.compile import quick_jit

slow = pytest.mark.slow
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
N, M = 30, 7
X = RNG.uniform(0, 4, size=(N, 2))
Y = (np.sin(X[:, 0]) + RNG.logistic(size=N) > 0) * 1.0
MODEL = as_arrays(Model(gp.Matern(1.3, 1.5), gp.ConstantMean(0.3), gp.Bernoulli()), float)


def a_family():
    """A q(u) with a full covariance, at inducing inputs in a random order."""
    z = RNG.uniform(0, 4, size=(M, 2))
    columns = Neighbours.of(z, M - 1).before[:, :-1]
    lower = np.where(columns < M, 0.1 * RNG.normal(size=columns.shape), 0.0)
    q = RNG.normal(size=M), RNG.uniform(0.2, 0.6, size=M), lower
    z, centre, scale, lower = map(jnp.asarray, (z, *q))
    return Within(MODEL, z, centre, scale, lower, jnp.asarray(columns))


def dense_bound(q):
    """The bound of the sparse variational process at the same q(u), by whitening."""
    tril = np.diag(np.asarray(q.scale))
    for j, (row, columns) in enumerate(zip(q.lower, q.columns, strict=True)):
        for value, i in zip(row, columns, strict=True):
            if i < M:
                tril[j, i] = value
    jittered = q.model.kernel(q.z, q.z) + 1e-7 * 1.5 * jnp.eye(M)
    lower = jnp.linalg.cholesky(jittered)
    half = jnp.linalg.solve(lower, jnp.asarray(tril))
    inverse = jnp.linalg.cholesky(jnp.linalg.inv(half @ half.T))  # S⁻¹ = C Cᵀ
    white = Whitened(jnp.linalg.solve(lower, q.centre), jnp.linalg.inv(inverse))
    mean, variance = white.marginals(
        features(q.model.kernel, q.z, lower, X), q.model.kernel.diagonal(X)
    )
    fit = q.model.likelihood.expect(0.3 + mean, variance, Y)
    return float(jnp.sum(fit.value) - white.kl)


@quick_jit(static_argnames="average")
def bound(q, near, before, *, average):
    parts = q.parts(X, Y, near, None if average else before)
    return elbo(parts, N, M, average=average)


@pytest.mark.parametrize("average", [False, True])
def test_all_near_is_the_sparse_variational_process(average, x64):
    q = a_family()
    points = np.asarray(q.z)
    expected = dense_bound(q)
    near, before = nearest(points, X, M), Neighbours.of(points, M).before
    np.testing.assert_allclose(bound(q, near, before, average=average), expected, rtol=1e-6)
    fewer = bound(q, nearest(points, X, 3), Neighbours.of(points, 3).before, average=average)
    assert abs(fewer - expected) > 0.1  # with fewer neighbours it is another bound


def test_the_chain_bounds_the_evidence_of_its_own_process(x64):
    """Against the joint Gaussian that nearest neighbours define, in NumPy; Gaussian noise."""
    q, noise = a_family(), 0.3
    size = 3
    points, kernel = np.asarray(q.z), q.model.kernel
    before, near = Neighbours.of(points, size).before, nearest(points, X, size)
    jitter = 1e-7 * 1.5
    joint = np.zeros((M, M))  # prior covariance of u, by its conditionals
    for j, row in enumerate(before):
        known = [i for i in row[:-1] if i < M]
        cov = np.asarray(kernel(points, points)) + jitter * np.eye(M)
        b = np.linalg.solve(cov[np.ix_(known, known)], cov[known, j]) if known else np.zeros(0)
        rest = cov[j, j] - (b @ cov[known, j] if known else 0.0)
        joint[j, :j] = joint[:j, j] = b @ joint[known][:, :j] if known else 0.0
        joint[j, j] = rest + (b @ joint[np.ix_(known, known)] @ b if known else 0.0)
    through, rest = np.zeros((N, M)), np.zeros(N)
    for i, row in enumerate(near):
        block = np.asarray(kernel(points[row], points[row])) + jitter * np.eye(size)
        cross = np.asarray(kernel(points[row], X[i : i + 1]))[:, 0]
        through[i, row] = np.linalg.solve(block, cross)
        rest[i] = 1.5 - cross @ through[i, row]
    target = np.sin(X[:, 0])
    off, log_det = target - 0.3, lambda a: np.linalg.slogdet(a)[1]
    total = through @ joint @ through.T + noise * np.eye(N)
    collapsed = -0.5 * (off @ np.linalg.solve(total, off) + log_det(total))
    collapsed -= 0.5 * (N * np.log(2 * np.pi) + rest.sum() / noise)
    precision = np.linalg.inv(joint) + through.T @ through / noise
    moved = np.asarray(q.centre) - np.linalg.solve(precision, through.T @ off / noise)
    spread = np.diag(np.asarray(q.scale) ** 2)
    away = np.trace(precision @ spread) + moved @ precision @ moved - M
    away = 0.5 * (away - log_det(spread) - log_det(precision))
    likelihood = as_arrays(gp.Gaussian(noise), float)
    nothing = q.lower[:, :0], q.columns[:, :0]
    model = Model(MODEL.kernel, MODEL.mean, likelihood)
    q = Within(model, q.z, q.centre, q.scale, *nothing)
    parts = quick_jit(Within.parts)(q, X, target, near, before)
    found = float(elbo(parts, N, M, average=False))
    np.testing.assert_allclose(found, collapsed - away, rtol=1e-7)
    wrong = float(elbo(parts, N, M, average=True))
    assert abs(wrong - found) > 1


def wave(count):
    x = RNG.uniform(0, 30, size=(count, 1))
    return x, np.sin(2 * x[:, 0]) + 0.2 * RNG.normal(size=count)


def fit(x, y, **options):
    given = {"num_inducing": 150, "num_neighbors": 8, "batch_size": 64, "num_steps": 100}
    model = {"kernel": gp.Matern(1.0), "likelihood": gp.Gaussian(0.1)}
    return gp.sparse_within_sparse(x, y, key=KEY, **{**model, **given, **options})


def test_fit(x64, tmp_path):
    """Near the exact process's prediction; the same bits from a checkpoint."""
    x, y = wave(500)
    whole = fit(x, y)
    new, y_new = wave(200)
    exact = gp.fit(
        x,
        y,
        key=KEY,
        method="dense",
        train=False,
        likelihood=gp.Gaussian(0.04),
        kernel=gp.Matern(1.0),
    )
    scores = [-found.log_predictive_density(new, y_new).mean() for found in (whole, exact)]
    assert scores[0] < scores[1] + 0.15
    assert whole.history["elbo"][-1] > whole.history["elbo"][0]
    path = tmp_path / "half.npz"
    fit(x, y, checkpoint=path, callback=lambda step, state, info: True)
    again = fit(x, y, checkpoint=path)
    np.testing.assert_array_equal(again.family.centre, whole.family.centre)
    assert "M = 150, H = 8" in repr(whole)


@slow
@pytest.mark.parametrize("options", [{"width": 4}, {"divergence": "average"}, {"move": True}])
def test_fits_of_other_kinds(options, x64):
    x, y = wave(500)
    found = fit(x, y, **options)
    assert found.history["elbo"][-1] > found.history["elbo"][0]
    new, y_new = wave(200)
    assert -found.log_predictive_density(new, y_new).mean() < 0.3
    moved = not np.array_equal(found.family.z, fit(x, y, num_steps=1).family.z)
    assert moved == ("move" in options)


@slow
def test_labels(x64):
    x, y = wave(500)
    found = fit(x, (y > 0) * 1.0, likelihood=gp.Bernoulli())
    new, y_new = wave(200)
    assert np.mean((found.predict_y(new)[0] > 0.5) == (y_new > 0)) > 0.85


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": gp.HeteroscedasticGaussian()}, "one latent function; got"),
        ({"num_neighbors": 0}, "num_neighbors to be an integer >= 1; got 0"),
        ({"divergence": "mean"}, "'chain' or 'average'; got 'mean'"),
        ({"inducing": np.ones((3, 3))}, "inputs of 2 coordinates"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gp.sparse_within_sparse(X, Y, key=KEY, **options)
