"""The optimizers over a Gaussian: exact fixed points, guards, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

import vi
from tests import models
from vi.families.scale import DenseScale, DiagonalScale
from vi.gaussian import (
    Expectation,
    MeanCovariance,
    Natural,
    ScoreSample,
    SphericalRadial,
    SquareRoot,
    batch_and_match,
    bures_wasserstein,
    coordinates,
    forward_backward,
    natural_gradient,
)


def descend(optimizer, estimator, q, target, steps, key=0):
    state = optimizer.init(q)

    @jax.jit
    def step(t, q, state):
        _, grads = estimator(jax.random.fold_in(jax.random.key(key), t), q, target)
        updates, state = optimizer.update(grads, state, q)
        return optax.apply_updates(q, updates), state

    for t in range(steps):
        q, state = step(t, q, state)
    return q


OPTIMIZERS = {
    "natural_gradient": (natural_gradient(0.5, max_change=5.0), SphericalRadial(), 80),
    "forward_backward": (forward_backward(1.0), SphericalRadial(), 400),
    "bures_wasserstein": (bures_wasserstein(0.05), SphericalRadial(), 700),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("structure", ["full_rank", "mean_field", "block"])
def test_fixed_point_on_a_gaussian_is_its_best_approximation(name, structure, x64):
    """KL is least where precisions agree on the structure's own entries."""
    target = vi.target(*models.gaussian_target())
    precision, mean = map(np.asarray, target.data)
    groups = ((0, 2), (1, 3))
    families = (vi.full_rank(4), vi.mean_field(4), vi.block(groups))
    starts = dict(zip(("full_rank", "mean_field", "block"), families, strict=True))
    optimizer, estimator, steps = OPTIMIZERS[name]
    q = descend(optimizer, estimator, starts[structure], target, steps)
    assert np.allclose(q.loc, mean, atol=1e-5)
    covariance = np.asarray(q.covariance())
    if structure == "full_rank":
        assert np.allclose(covariance @ precision, np.eye(4), atol=1e-8)
    elif structure == "mean_field":
        assert np.allclose(np.diag(covariance) * np.diag(precision), 1, atol=1e-8)
    else:
        for group in groups:
            ix = np.ix_(group, group)
            assert np.allclose(covariance[ix] @ precision[ix], np.eye(2), atol=1e-8)


def test_batch_and_match_finds_a_gaussian(x64):
    target = vi.target(*models.gaussian_target())
    precision, mean = map(np.asarray, target.data)
    q = descend(batch_and_match(10.0), ScoreSample(32), vi.full_rank(4), target, 60)
    assert np.allclose(q.loc, mean, atol=1e-8)
    assert np.allclose(q.covariance() @ precision, np.eye(4), atol=1e-8)


def test_diagonal_batch_and_match_has_the_score_divergences_fixed_point(x64):
    """σᵢ² Σⱼ Λᵢⱼ² σⱼ² = 1: where E‖∇log q - ∇log p‖² weighted by Cov(q) is stationary."""
    target = vi.target(*models.gaussian_target())
    precision, _ = map(np.asarray, target.data)
    schedule = lambda t: 100.0 / (1 + t)
    q = descend(batch_and_match(schedule), ScoreSample(256), vi.mean_field(4), target, 400)
    variance = np.asarray(q.variance())
    assert np.allclose(variance * (precision**2 @ variance), 1, atol=0.05)


def test_forward_backward_prox_solves_its_equation(x64):
    """Σ - 2ηI + η²Σ⁻¹ = Σ½, the stationarity of the entropy's JKO step."""
    from vi.gaussian.bures_wasserstein import _forward_backward

    rng = np.random.default_rng(0)
    root = np.tril(rng.normal(size=(3, 3))) + 2 * np.eye(3)
    hessian, eta = np.diag([0.3, 1.0, 2.0]), 0.4
    new = np.asarray(_forward_backward(jnp.asarray(root), jnp.asarray(hessian), eta))
    sigma, m = new @ new.T, np.eye(3) - eta * hessian
    left = sigma - 2 * eta * np.eye(3) + eta**2 * np.linalg.inv(sigma)
    assert np.allclose(left, m @ root @ root.T @ m)
    flat = _forward_backward(jnp.array([1.5]), jnp.array([0.3]), eta)
    dense = _forward_backward(jnp.array([[1.5]]), jnp.array([[0.3]]), eta)
    assert np.allclose(flat, dense[0])


@pytest.mark.parametrize("rate", [0.5, 1.9])
def test_forward_backward_guards_its_step(rate, x64):
    """At λ = 1, η = 1.9 the unguarded prox goes to the spurious fixed point η/(2 - ηλ) = 19."""
    target = vi.target(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(1))
    q = descend(forward_backward(rate), SphericalRadial(), vi.full_rank(1, scale=5.0), target, 200)
    assert np.isclose(q.variance()[0], 1.0, atol=1e-6)


@pytest.mark.parametrize("rule", [forward_backward, bures_wasserstein])
@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_wasserstein_steps_forget_the_curvature_of_the_start(rule, rate, x64):
    """-x⁴/4 has curvature 2700 at 30 and 3/√3 at its best Gaussian: s = 1/(3s), m = 0."""
    target = vi.target(lambda x: -0.25 * jnp.sum(x**4), jnp.zeros(1))
    start = vi.full_rank(1, loc=jnp.full(1, 30.0))
    q = descend(rule(rate), SphericalRadial(), start, target, 500)
    assert np.allclose(q.loc, 0, atol=1e-6)
    assert np.allclose(q.variance(), 3**-0.5, rtol=1e-6)


def test_the_guard_forgets_in_a_few_dozen_steps(x64):
    """Curvature 4 seen once, then 0.5: η stays at 1/(4 · 0.95ᵏ) until that is less than 0.5."""
    q, optimizer = vi.full_rank(1, loc=jnp.ones(1)), forward_backward(10.0)
    state = optimizer.init(q)
    for k in range(50):
        curvature = 0.5 if k else -4.0  # the other sign counts as well
        target = vi.target(lambda x, c: -0.5 * c * jnp.sum(x**2), jnp.zeros(1), curvature)
        _, grads = SphericalRadial()(jax.random.key(k), q, target)
        updates, state = optimizer.update(grads, state, q)
        kept = max(4 * 0.95**k, 0.5)
        assert np.isclose(state.smoothness, kept)
        assert np.allclose(updates.loc, -grads.loc / kept)


@pytest.mark.parametrize("rule", [forward_backward, bures_wasserstein])
def test_wasserstein_steps_move_where_curvature_is_negative(rule, x64):
    """From the flank of a Cauchy density, where log p is convex, to its best Gaussian."""
    target = vi.target(lambda x: -jnp.sum(jnp.log1p(x**2)), jnp.zeros(1))
    start = vi.full_rank(1, loc=jnp.full(1, 10.0), scale=0.5)
    q = descend(rule(1.0), vi.gaussian.Stein(256), start, target, 300)
    x, w = np.polynomial.hermite_e.hermegauss(200)
    curvature = lambda s: w @ (2 * (1 - s * x**2) / (1 + s * x**2) ** 2) / w.sum()
    best = optimize.brentq(lambda s: s * curvature(s) - 1, 1.0, 10.0)
    assert abs(q.loc[0]) < 0.1
    assert np.isclose(q.variance()[0], best, rtol=0.1)


def test_natural_gradient_on_a_gaussian_goes_as_stated(x64):
    """a to 2a/(1 + a²) and 1 - the same share of the distance; cut to one standard deviation."""
    a, offset = np.array([0.2, 1.0, 3.0]), np.array([0.1, -0.1, 0.05])
    target = vi.target(lambda x: -0.5 * jnp.sum(a * (x - offset) ** 2), jnp.zeros(3))
    q = descend(
        natural_gradient(1.0, max_change=1e9), SphericalRadial(), vi.full_rank(3), target, 1
    )
    share = 2 * a / (1 + a**2)
    assert np.allclose(a * np.diag(q.covariance()), share)
    assert np.allclose(q.loc, share * offset)
    far = vi.target(lambda x: -2 * jnp.sum((x - 3) ** 2), jnp.zeros(1))
    q = descend(natural_gradient(1.0, max_change=1e9), SphericalRadial(), vi.full_rank(1), far, 1)
    assert np.isclose(q.variance()[0], 2 / 17)
    assert np.isclose(q.loc[0], 0.343, atol=5e-4)


@pytest.mark.parametrize("count", [1, 5, 6])
def test_score_samples_are_as_many_as_asked_for(count):
    """What is billed is what is drawn; an odd antithetic draw has no partner."""
    target = vi.target(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    q = vi.full_rank(2)
    for antithetic in (True, False):
        loss, found = ScoreSample(count, antithetic)(jax.random.key(0), q, target)
        assert found.draws.shape == found.scores.shape == (count, 2)
        assert np.isfinite(loss)
        assert np.array_equal(found.scores, -found.draws)
    q = descend(batch_and_match(0.1), ScoreSample(count), q, target, 3)
    assert np.all(np.isfinite(q.covariance()))


def test_no_score_samples_are_refused():
    target = vi.target(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    with pytest.raises(ValueError, match="num_samples >= 1"):
        ScoreSample(0)(jax.random.key(0), vi.full_rank(2), target)


def test_natural_gradient_keeps_the_covariance_positive_on_a_saddle(x64):
    """log p has curvature of both signs; P ⪰ I/2 bounds each step whatever the excess."""
    target = vi.target(lambda x: -(x[0] ** 2) + 4 * x[1] ** 2 - 0.1 * x[1] ** 4, jnp.zeros(2))
    optimizer, q = natural_gradient(1.0, max_change=100.0), vi.full_rank(2, loc=jnp.ones(2))
    state = optimizer.init(q)
    for t in range(40):
        before = q.covariance()
        _, grads = SphericalRadial()(jax.random.key(t), q, target)
        updates, state = optimizer.update(grads, state, q)
        q = optax.apply_updates(q, updates)
        assert np.all(np.linalg.eigvalsh(q.covariance()) > 0)
        growth = np.linalg.eigvalsh(np.linalg.solve(before, q.covariance())).max()
        assert growth <= 2 + 1e-9


def test_optimizers_chain_in_an_ordinary_optax_loop(x64):
    """A pathwise gradient of a program, with a schedule and averaging: nothing of ours needed."""
    from optim import average_params, polynomial_average

    target = vi.target(*models.gaussian_target())
    precision, mean = map(np.asarray, target.data)
    optimizer = polynomial_average(natural_gradient(optax.linear_schedule(0.3, 0.02, 300)))
    objective = vi.elbo(num_particles=16, estimator=vi.StickingTheLanding())
    q, state = vi.full_rank(4), optimizer.init(vi.full_rank(4))

    @jax.jit
    def step(t, q, state):
        loss, grads = objective(jax.random.fold_in(jax.random.key(0), t), q, target)
        updates, state = optimizer.update(grads, state, q, value=loss)
        return optax.apply_updates(q, updates), state

    for t in range(300):
        q, state = step(t, q, state)
    q = average_params(state, q)
    assert np.allclose(q.loc, mean, atol=0.02)
    assert np.allclose(q.covariance() @ precision, np.eye(4), atol=0.05)


def test_wrong_parameters_are_refused():
    grads = vi.low_rank(3, 1)
    for optimizer in (natural_gradient(0.1), forward_backward(0.1), batch_and_match(1.0)):
        sample = vi.gaussian.Scores(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
        updates = sample if optimizer.update.__qualname__.startswith("batch") else grads
        with pytest.raises(TypeError, match="diagonal, dense or block"):
            optimizer.update(updates, optimizer.init(grads), grads)
        with pytest.raises(ValueError, match="expected params"):
            optimizer.update(updates, optimizer.init(grads))
    soft = vi.Gaussian(jnp.zeros(2), DiagonalScale.of(jnp.ones(2), "softplus"))
    with pytest.raises(TypeError, match="positive='linear'"):
        natural_gradient(0.1).update(soft, natural_gradient(0.1).init(soft), soft)
    q = vi.full_rank(2)
    with pytest.raises(TypeError, match="expected Scores"):
        batch_and_match(1.0).update(q, batch_and_match(1.0).init(q), q)


@pytest.mark.parametrize("dense", [True, False])
def test_coordinates_are_inverse_to_each_other(dense, x64):
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, 3))
    covariance = jnp.asarray(w @ w.T + np.eye(3)) if dense else jnp.array([0.5, 2.0, 3.0])
    q = MeanCovariance(jnp.asarray(rng.normal(size=3)), covariance)
    for there, back, kind in (
        (coordinates.to_natural, coordinates.from_natural, Natural),
        (coordinates.to_expectation, coordinates.from_expectation, Expectation),
        (coordinates.to_square_root, coordinates.from_square_root, SquareRoot),
    ):
        moved = there(q)
        assert isinstance(moved, kind)
        again = back(moved)
        assert np.allclose(again.loc, q.loc)
        assert np.allclose(again.covariance, q.covariance)


def test_natural_gradient_is_the_gradient_in_expectation_coordinates(x64):
    """To first order in the rate (Khan and Rue 2023): Δη = ρ ∇_μ ELBO."""
    target = vi.target(*models.gaussian_target(2))
    precision, mean = target.data
    root = jnp.array([[0.8, 0.0], [0.3, 0.5]])
    q = vi.Gaussian(jnp.array([0.2, -0.1]), DenseScale(root))

    def elbo(mu):
        m, s = coordinates.from_expectation(mu)
        offset = m - mean
        energy = -0.5 * offset @ precision @ offset - 0.5 * jnp.sum(precision * s)
        return energy + 0.5 * jnp.linalg.slogdet(s)[1]

    expectation = coordinates.to_expectation(MeanCovariance(q.loc, q.covariance()))
    gradient = jax.grad(elbo)(expectation)
    rate = 1e-5
    _, grads = SphericalRadial()(jax.random.key(0), q, target)
    optimizer = natural_gradient(rate)
    updates, _ = optimizer.update(grads, optimizer.init(q), q)
    new = optax.apply_updates(q, updates)
    natural = lambda q: coordinates.to_natural(MeanCovariance(q.loc, q.covariance()))
    change = jax.tree.map(lambda a, b: (a - b) / rate, natural(new), natural(q))
    assert np.allclose(change.shift, gradient.mean, rtol=1e-3, atol=1e-3)
    assert np.allclose(-0.5 * change.precision, gradient.second_moment, rtol=1e-3, atol=1e-3)
