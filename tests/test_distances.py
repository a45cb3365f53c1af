"""Distances between distributions, against SciPy, linear programs and closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import linalg, optimize, stats

from vi import distances
from vi.distances.kernels import kernel

RNG = np.random.default_rng(3)
pytestmark = pytest.mark.usefixtures("x64")


def spd(dim, rank=None):
    a = RNG.normal(size=(dim, rank or dim + 2))
    return a @ a.T / a.shape[1]


# ---- the line ----------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sizes", [(12, 12), (7, 11)])
def test_order_one_on_the_line_is_scipys(sizes, weighted):
    x, y = (RNG.normal(size=n) for n in sizes)
    weights = [RNG.uniform(0.1, 2, size=n) if weighted else None for n in sizes]
    found = distances.wasserstein_1d(x, y, x_weights=weights[0], y_weights=weights[1])
    np.testing.assert_allclose(found, stats.wasserstein_distance(x, y, *weights), rtol=1e-12)


def uniform(n):
    return np.full(n, 1 / n)


def exact(cost, a, b):
    """The optimal transport cost by a linear program."""
    n, m = cost.shape
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    found = optimize.linprog(
        cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a, b])
    )
    return found.fun


def test_order_two_with_weights_is_a_linear_program():
    x, y = RNG.normal(size=6), RNG.normal(size=9)
    a, b = RNG.dirichlet(np.ones(6)), RNG.dirichlet(np.ones(9))
    found = distances.wasserstein_1d(x, y, p=2, x_weights=a, y_weights=b)
    np.testing.assert_allclose(found**2, exact((x[:, None] - y) ** 2, a, b), rtol=1e-8)


def test_gradient_of_equal_samples_is_zero():
    x = jnp.asarray(RNG.normal(size=8))
    assert not jax.grad(lambda x: distances.wasserstein_1d(x, x[::-1], p=2))(x).any()


def test_sliced_distance_of_gaussians_has_a_closed_form():
    """SW_2² of a shift Δ is |Δ|²/D; the mean over directions is exact to a few percent."""
    x = RNG.normal(size=(40, 3))
    shift = np.array([1.0, -2.0, 0.5])
    sliced = jax.jit(partial(distances.sliced_wasserstein, num_projections=20_000))
    found = sliced(jax.random.key(0), x, x + shift)
    np.testing.assert_allclose(found**2, shift @ shift / 3, rtol=0.03)
    line = distances.sliced_wasserstein(jax.random.key(0), x[:, :1], x[:30, :1] + 1, p=1)
    np.testing.assert_allclose(line, stats.wasserstein_distance(x[:, 0], x[:30, 0] + 1), rtol=1e-12)


# ---- Sinkhorn ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problem():
    generator = np.random.default_rng(5)
    x, y = generator.normal(size=(9, 2)), generator.normal(size=(12, 2)) + 0.5
    cost = np.sum((x[:, None] - y) ** 2, -1)
    return cost, generator.dirichlet(np.ones(9)), generator.dirichlet(np.ones(12))


@pytest.mark.parametrize("solver", [distances.sinkhorn, distances.sinkhorn_newton])
def test_plans_have_their_marginals_and_solve_the_entropic_problem(problem, solver):
    cost, a, b = map(jnp.asarray, problem)
    plan = solver(cost, a, b, regularization=0.3, tolerance=1e-11)
    p = plan.matrix()
    np.testing.assert_allclose(p.sum(1), a, atol=1e-11)
    np.testing.assert_allclose(p.sum(0), b, atol=1e-11)
    primal = jnp.sum(p * cost) + 0.3 * jnp.sum(p * jnp.log(p / (a[:, None] * b)))
    np.testing.assert_allclose(plan.value(), primal, rtol=1e-10)  # no duality gap


def test_newton_comes_to_the_linear_program_in_tens_of_steps(problem):
    cost, a, b = problem
    plan = distances.sinkhorn_newton(cost, a, b, regularization=1e-3, tolerance=1e-9)
    assert plan.error < 1e-9
    assert plan.num_steps < 80
    np.testing.assert_allclose(plan.transport_cost(), exact(cost, a, b), rtol=1e-3)
    slow = distances.sinkhorn(cost, a, b, regularization=1e-3, tolerance=1e-9)
    assert slow.num_steps > 500


def test_newton_solves_an_assignment():
    cost = np.random.default_rng(0).uniform(size=(100, 100))
    plan = distances.sinkhorn_newton(cost, regularization=1 / 1200, tolerance=1e-8)
    i, j = optimize.linear_sum_assignment(cost)
    assert plan.error < 1e-8
    assert plan.num_steps < 80
    np.testing.assert_allclose(plan.transport_cost(), cost[i, j].mean(), rtol=1e-2)


def test_gradients_of_the_value_by_differences(problem):
    cost, a, b = map(jnp.asarray, problem)

    @jax.jit
    def value(given):
        cost, a, regularization = given
        plan = distances.sinkhorn(cost, a, b, regularization=regularization, tolerance=1e-13)
        return plan.value()

    check_grads(value, ((cost, a, jnp.array(0.5)),), 1, ["rev"], rtol=1e-6)


def test_plans_have_derivatives_by_the_implicit_function_theorem(problem):
    cost, a, b = map(jnp.asarray, problem)

    @jax.jit
    def entries(cost, a, regularization):
        plan = distances.sinkhorn(cost, a, b, regularization=regularization, tolerance=1e-13)
        return distances.implicit(plan).matrix()

    check_grads(entries, (cost, a, jnp.array(0.5)), 1, ["rev"], rtol=1e-5)


def test_divergence_is_zero_at_equality_and_between_its_limits():
    x = jnp.asarray(RNG.normal(size=(15, 2)))
    y = jnp.asarray(1.5 * RNG.normal(size=(15, 2)) + 1)
    solve = jax.jit(partial(distances.sinkhorn_divergence, max_steps=20_000, tolerance=1e-8))
    same = solve(x[:15], x[::-1], regularization=0.5)
    assert abs(same) < 1e-6
    near = solve(x, y, regularization=0.02)
    cost = np.sum((np.asarray(x)[:, None] - np.asarray(y)) ** 2, -1)
    np.testing.assert_allclose(near, exact(cost, uniform(15), uniform(15)), rtol=0.02)
    far = solve(x, y, regularization=1e4)
    np.testing.assert_allclose(far, jnp.sum((x.mean(0) - y.mean(0)) ** 2), rtol=1e-3)


def test_a_point_without_mass_changes_nothing(problem):
    cost, a, b = problem
    more = np.vstack([cost, np.ones(12)])
    plan = distances.sinkhorn(more, np.append(a, 0.0), b, regularization=0.3, tolerance=1e-10)
    value = distances.sinkhorn(cost, a, b, regularization=0.3, tolerance=1e-10).value()
    np.testing.assert_allclose(plan.matrix()[-1], 0, atol=1e-12)
    np.testing.assert_allclose(plan.value(), value, rtol=1e-8)


# ---- kernels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [None, kernel("rbf", 2)])
def test_stein_discrepancy_is_that_of_automatic_differentiation(k):
    x, scores = RNG.normal(size=(6, 2)), RNG.normal(size=(6, 2))
    phi = k or (lambda r: (1 + r) ** -0.5)
    both = lambda a, b: phi(jnp.sum((a - b) ** 2))

    def pair(a, s, b, t):
        mixed = jax.jacfwd(jax.grad(both, 0), 1)(a, b)
        slopes = s @ jax.grad(both, 1)(a, b) + t @ jax.grad(both, 0)(a, b)
        return s @ t * both(a, b) + slopes + jnp.trace(mixed)

    rows = list(zip(x, scores, strict=True))
    table = np.array([[pair(a, s, b, t) for b, t in rows] for a, s in rows])
    np.testing.assert_allclose(distances.kernel_stein(x, scores, k), table.mean(), rtol=1e-10)
    apart = (table.sum() - np.trace(table)) / 30
    np.testing.assert_allclose(
        distances.kernel_stein(x, scores, k, unbiased=True), apart, rtol=1e-9
    )


def test_stein_discrepancy_has_mean_zero_at_its_density_only():
    """The mean over 200 samples is within 5 standard errors of 0, false alarms 6e-7."""
    draws = np.random.default_rng(1).normal(size=(200, 30, 2))
    unbiased = jax.jit(jax.vmap(lambda x, s: distances.kernel_stein(x, s, unbiased=True)))
    for share, near in ((1.0, True), (0.5, False)):
        found = np.asarray(unbiased(draws, -share * draws))
        score = found.mean() / (found.std() / np.sqrt(200))
        assert (abs(score) < 5) == near


# ---- Gaussians ---------------------------------------------------------------------------------


def test_bures_is_its_formula_by_scipy():
    a, b = spd(4), spd(4)
    root = linalg.sqrtm(a)
    expected = np.trace(a + b - 2 * linalg.sqrtm(root @ b @ root).real)
    np.testing.assert_allclose(distances.bures(a, b), expected, rtol=1e-9)
    m = np.arange(4.0)
    found = distances.gaussian_wasserstein(m, a, 0 * m, b)
    np.testing.assert_allclose(found, expected + m @ m, rtol=1e-9)


def test_gradients_of_bures_by_differences():
    a, b = spd(3), np.diag([2.0, 2.0, 1.0])  # equal eigenvalues, where eigh has no derivative
    root = jnp.asarray(linalg.cholesky(a, lower=True))
    loss = jax.jit(lambda pair: distances.bures(pair[0] @ pair[0].T, pair[1] @ pair[1].T))
    check_grads(loss, ((root, jnp.sqrt(jnp.asarray(b))),), 1, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(distances.bures)(b, b), 0, atol=1e-12)


@pytest.mark.parametrize("perturbation", [0.0, 0.2])
def test_gradients_of_the_factor_loss(perturbation):
    target, w = jnp.asarray(spd(4)), jnp.asarray(RNG.normal(size=(4, 2)))
    loss = jax.jit(lambda w, s: distances.bures_factor(w, s, perturbation=perturbation))
    full = distances.bures(w @ w.T + perturbation * jnp.eye(4), target)
    np.testing.assert_allclose(loss(w, target), full, rtol=1e-9)
    symmetric = lambda w, s: loss(w, 0.5 * (s + s.T))
    check_grads(symmetric, (w, target), 1, rtol=1e-6)


def test_descent_of_the_factor_loss_finds_the_leading_eigenvectors():
    """Rank 2 of 5: the minimum is the sum of the other three eigenvalues."""
    vectors = linalg.qr(RNG.normal(size=(5, 5)))[0]
    values = np.array([5.0, 3.0, 1.0, 0.5, 0.2])
    target = jnp.asarray(vectors * values @ vectors.T)

    @jax.jit
    def descend(w):
        move = lambda w, _: (w - 0.1 * jax.grad(distances.bures_factor)(w, target), None)
        return jax.lax.scan(move, w, length=1000)[0]

    w = descend(jnp.asarray(RNG.normal(size=(5, 2))))
    np.testing.assert_allclose(distances.bures_factor(w, target), 1.7, rtol=1e-6)
    leading = vectors[:, :2] * values[:2] @ vectors[:, :2].T
    np.testing.assert_allclose(w @ w.T, leading, atol=1e-4)


def test_a_factor_that_lost_rank_has_a_finite_gradient():
    target = jnp.asarray(spd(3))
    w = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.5, 0.0]])
    gradient = jax.jit(jax.grad(distances.bures_factor))
    found, alone = gradient(w, target), gradient(w[:, :1], target)
    np.testing.assert_allclose(found[:, :1], alone, rtol=1e-9)
    np.testing.assert_allclose(found[:, 1], 0, atol=1e-12)


def test_barycentre_solves_its_equation():
    covariances, weights = np.stack([spd(3) for _ in range(4)]), np.array([0.1, 0.2, 0.3, 0.4])
    s = np.asarray(distances.bures_barycenter(covariances, 3 * weights, num_steps=60))
    root = linalg.sqrtm(s)
    mean = sum(w * linalg.sqrtm(root @ c @ root) for w, c in zip(weights, covariances, strict=True))
    np.testing.assert_allclose(mean, s, atol=1e-8)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: distances.wasserstein_1d(x, x), "two vectors"),
        (lambda x: distances.wasserstein_1d(x[0], x[0], x_weights=x[0, :1]), "point of x"),
        (lambda x: distances.sliced_wasserstein(jax.random.key(0), x, x[:, :1]), "(M, D)"),
        (lambda x: distances.sinkhorn(x, x[0], regularization=1.0), "a mass for each"),
        (lambda x: distances.sinkhorn_newton(x, regularization=1.0, num_entries=9), "from 1 to 6"),
        (lambda x: distances.kernel_stein(x, x[:, :1]), "one shape"),
        (lambda x: distances.bures_factor(x, x), "a covariance"),
        (lambda x: distances.bures_barycenter(x), "expected covariances"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, says):
    with pytest.raises(ValueError) as error:
        call(jnp.ones((2, 3)))
    assert says in str(error.value)


def test_single_precision_is_kept():
    @jax.jit
    def values(x):
        plan = distances.sinkhorn_newton(x @ x.T, regularization=0.5)
        return (
            distances.wasserstein_1d(x[:, 0], x[:3, 1], p=2),
            distances.sliced_wasserstein(jax.random.key(0), x, x[:3]),
            distances.sinkhorn_divergence(x, x[:3], regularization=0.5),
            distances.kernel_stein(x, -x),
            distances.bures(x.T @ x, jnp.eye(2, dtype=jnp.float32)),
            plan.value(),
            plan.error,
        )

    for value in values(jnp.asarray(RNG.normal(size=(5, 2)), jnp.float32)):
        assert value.dtype == jnp.float32
        assert jnp.isfinite(value)


def test_badly_scaled_gaussians_keep_their_digits():
    """Single precision, variances over four orders: distances of a covariance from itself."""
    for a in (jnp.diag(jnp.array([1.0, 1e-4])), jnp.diag(jnp.logspace(0, -3, 20))):
        assert distances.bures(a, a) < 1e-5 * jnp.trace(a)
        np.testing.assert_allclose(jax.grad(distances.bures)(a, a), 0, atol=1e-4)
        mean = distances.bures_barycenter(jnp.stack([a] * 3), num_steps=5)
        np.testing.assert_allclose(jnp.diag(mean), jnp.diag(a), rtol=1e-3)
    w = jnp.diag(jnp.array([1.0, 1e-2]))
    np.testing.assert_allclose(jax.grad(distances.bures_factor)(w, w @ w.T), 0, atol=1e-4)


def test_histograms_may_have_empty_cells():
    """Both masses zero at some pairs, a small regularisation: against the exact shift."""
    grid = jnp.linspace(0.0, 1.0, 50)
    a = jnp.where((grid > 0.45) & (grid < 0.55), 1.0, 0.0)
    b = jnp.roll(a, 3)
    plan = distances.sinkhorn((grid[:, None] - grid) ** 2, a, b, regularization=0.002)
    assert np.all(np.isfinite(plan.matrix()))
    assert abs(plan.transport_cost() / jnp.sum(plan.matrix()) - (3 / 49) ** 2) < 1e-3


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x, y: distances.mmd(x[:, :1], y, kernel("rbf", 3)), r"\(30, 1\) and \(40, 3\)"),
        (lambda x, y: distances.mmd(x[:, 0], y[:, 0], kernel("rbf", 1)), "as a column"),
        (lambda x, y: distances.sinkhorn_divergence(x[:, :1], y, regularization=1.0), "N, D"),
        (lambda x, y: distances.wasserstein_1d(x[:, 0], y[:, 0], p=jnp.inf), "finite p"),
        (lambda x, y: distances.bures(jnp.eye(2), jnp.eye(3)), "one shape"),
        (
            lambda x, y: distances.gaussian_wasserstein(x[0, :1], jnp.eye(3), y[0], jnp.eye(3)),
            "means",
        ),
    ],
)
def test_shapes_that_would_broadcast_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call(jnp.zeros((30, 3)), jnp.ones((40, 3)))
