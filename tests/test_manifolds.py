"""Manifolds, and Adam, AMSGrad and AdaGrad on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg

import optim
import vi
from optim import (
    AffineInvariant,
    BuresWasserstein,
    BuresWassersteinRoot,
    Euclidean,
    Sphere,
    Stiefel,
)
from vi.families.scale import DenseScale

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 4))
COVARIANCE = W @ W.T / 2 + 0.5 * np.eye(4)
TARGET = np.diag([1.0, 2.0, 0.5, 3.0]) + 0.2
TILT = RNG.normal(size=(4, 4))
symmetric = lambda x: 0.5 * (x + np.swapaxes(x, -1, -2))


def kl(sigma):
    """KL(N(0, Σ) ‖ N(0, Λ⁻¹)), Λ = TARGET, up to a constant."""
    return 0.5 * jnp.sum(TARGET * sigma) - 0.5 * jnp.linalg.slogdet(sigma)[1]


POINTS = {  # a manifold, a point on it, a loss
    "euclidean": (Euclidean(), RNG.normal(size=(4,)), lambda x: jnp.sum(jnp.cosh(x))),
    "sphere": (Sphere(), W[0] / np.linalg.norm(W[0]), lambda x: x @ TARGET @ x + jnp.sum(x**3)),
    "stiefel": (
        Stiefel(),
        np.linalg.qr(W[:, :2])[0],
        lambda x: jnp.sum(TARGET @ x * TILT[:, :2]) + jnp.sum(x**3),
    ),
    "affine_invariant": (AffineInvariant(), COVARIANCE, kl),
    "bures_wasserstein": (BuresWasserstein(), COVARIANCE, kl),
    "bures_wasserstein_root": (
        BuresWassersteinRoot(),
        np.linalg.cholesky(COVARIANCE),
        lambda root: kl(jnp.tril(root) @ jnp.tril(root).T),
    ),
}


@pytest.mark.parametrize("name", POINTS)
def test_gradient_belongs_to_metric_and_moves(name, x64):
    """d/dε f(move(x, ε u)) = ⟨grad, u⟩, and moves stay on the manifold."""
    manifold, x, f = POINTS[name]
    x = jnp.asarray(x)
    gradient = manifold.gradient(x, jax.grad(f)(x))
    other = manifold.gradient(x, jnp.asarray(RNG.normal(size=x.shape)))
    for u in (gradient, other):
        h = 1e-5
        ends = [f(manifold.move(x, s * u, u)[0]) for s in (h, -h)]
        slope = (ends[0] - ends[1]) / (2 * h)
        assert np.isclose(slope, jnp.sum(manifold.inner(x, gradient, u)), rtol=1e-6, atol=1e-8)
        new, carried = manifold.move(x, 0.1 * u, gradient)
        assert manifold.deviation(new) < 1e-13
        assert np.allclose(manifold.project(new), new, atol=1e-12)
        assert carried.shape == x.shape
    assert np.all(manifold.inner(x, gradient, gradient) >= 0)
    assert np.allclose(manifold.inner(x, gradient, other), manifold.inner(x, other, gradient))


@pytest.mark.parametrize("name", POINTS)
def test_leading_axes_are_many_points(name, x64):
    manifold, x, _ = POINTS[name]
    x = jnp.asarray(x)
    pair = jnp.stack([x, manifold.move(x, 0.3 * manifold.gradient(x, x), x)[0]])
    g = jnp.asarray(RNG.normal(size=pair.shape))
    tangents = manifold.gradient(pair, g)
    moved, carried = manifold.move(pair, 0.1 * tangents, tangents)
    for i in range(2):
        t = manifold.gradient(pair[i], g[i])
        assert np.allclose(tangents[i], t)
        assert np.allclose(
            manifold.inner(pair, tangents, tangents)[i], manifold.inner(pair[i], t, t)
        )
        alone = manifold.move(pair[i], 0.1 * t, t)
        assert np.allclose(moved[i], alone[0])
        assert np.allclose(carried[i], alone[1])
    off = manifold.project(g)
    assert manifold.deviation(off) < 1e-12
    if name != "euclidean":
        assert manifold.deviation(g) > 1e-3


def test_affine_invariant_geometry_is_the_books(x64):
    """Exponential map Σ^½ exp(Σ^-½ U Σ^-½) Σ^½; parallel transport by (Σ⁺ Σ⁻¹)^½; an isometry."""
    manifold, root = AffineInvariant(), np.linalg.cholesky(COVARIANCE)
    u, v = symmetric(TILT), symmetric(W)
    inverse = np.linalg.inv(root)
    into = lambda inv, t: jnp.asarray(inv @ t @ inv.T)
    new, carried = manifold.move(jnp.asarray(COVARIANCE), into(inverse, u), into(inverse, v))
    half = scipy.linalg.sqrtm(COVARIANCE)
    minus = np.linalg.inv(half)
    expected = half @ scipy.linalg.expm(minus @ u @ minus) @ half
    assert np.allclose(new, expected)
    transport = scipy.linalg.sqrtm(expected @ np.linalg.inv(COVARIANCE))
    new_root = np.linalg.cholesky(expected)
    assert np.allclose(new_root @ carried @ new_root.T, transport @ v @ transport.T)
    before = np.trace(np.linalg.solve(COVARIANCE, v) @ np.linalg.solve(COVARIANCE, v))
    assert np.isclose(jnp.sum(manifold.inner(new, carried, carried)), before)


def test_both_forms_of_bures_wasserstein_are_one(x64):
    """A root and its covariance make the same steps, whose length is the transport distance."""
    root = np.linalg.cholesky(COVARIANCE)
    of_root = jax.grad(lambda r: kl(r @ r.T))(jnp.asarray(root))
    of_covariance = jax.grad(kl)(jnp.asarray(COVARIANCE))
    a = BuresWassersteinRoot().gradient(jnp.asarray(root), of_root)
    b = BuresWasserstein().gradient(jnp.asarray(COVARIANCE), of_covariance)
    assert np.allclose(a, b)
    step = -0.05 * a
    new_root, _ = BuresWassersteinRoot().move(jnp.asarray(root), step, a)
    new, _ = BuresWasserstein().move(jnp.asarray(COVARIANCE), step, b)
    assert np.allclose(new_root @ new_root.T, new)
    half = scipy.linalg.sqrtm(COVARIANCE)
    cross = scipy.linalg.sqrtm(half @ new @ half)
    distance = np.trace(COVARIANCE + new - 2 * cross)
    assert np.isclose(distance, BuresWasserstein().inner(COVARIANCE, step, step).item())


def numpy_adam(x, f, gradient, inner, move, *, rate, kind, steps=6, b1=0.8, b2=0.9, eps=1e-8):
    """Riemannian Adam, AMSGrad or AdaGrad, read off the formulas."""
    m, v, top, path = 0.0, 0.0, 0.0, []
    for t in range(1, steps + 1):
        g = gradient(x, np.asarray(jax.grad(f)(jnp.asarray(x))))
        square = inner(x, g, g)
        if kind == "adagrad":
            m, v = g, v + square
            x, m = move(x, -rate * g / (np.sqrt(v) + eps), m)
        else:
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * square
            scale = v / (1 - b2**t)
            if kind == "amsgrad":
                top = scale = np.maximum(top, scale)
            x, m = move(x, -rate * m / (1 - b1**t) / (np.sqrt(scale) + eps), m)
        path.append(x)
    return np.array(path)


def sphere_move(x, u, m):
    y = (x + u) / np.linalg.norm(x + u)
    return y, m - (y @ m) * y


def stiefel_tangent(x, g):
    return g - x @ symmetric(x.T @ g)


def stiefel_move(x, u, m):
    q, r = np.linalg.qr(x + u)
    q = q * np.sign(np.diag(r))
    return q, stiefel_tangent(q, m)


def affine_move(x, u, m):
    """In the ordinary coordinates of the tangent space, by matrix functions of SciPy."""
    new = x @ scipy.linalg.expm(np.linalg.solve(x, u))
    carry = scipy.linalg.sqrtm(new @ np.linalg.inv(x))
    return symmetric(new), symmetric(carry @ m @ carry.T)


def transport_move(x, u, m):
    u = u * min(1, 0.5 / np.linalg.norm(u, 2))
    return (np.eye(4) + u) @ x @ (np.eye(4) + u), m


def root_gradient(x, g):
    """M = 2 ∂f/∂Σ from its definition on the covariance, not from g."""
    del g
    return np.asarray(2 * jax.grad(kl)(jnp.asarray(x @ x.T)))


def root_move(x, u, m):
    return np.linalg.cholesky(transport_move(x @ x.T, u, m)[0]), m


FORMULAS = {
    "euclidean": (lambda x, g: g, lambda x, u, v: u * v, lambda x, u, m: (x + u, m)),
    "sphere": (lambda x, g: g - (x @ g) * x, lambda x, u, v: u @ v, sphere_move),
    "stiefel": (stiefel_tangent, lambda x, u, v: np.sum(u * v), stiefel_move),
    "affine_invariant": (
        lambda x, g: x @ symmetric(g) @ x,
        lambda x, u, v: np.trace(np.linalg.solve(x, u) @ np.linalg.solve(x, v)),
        affine_move,
    ),
    "bures_wasserstein": (
        lambda x, g: 2 * symmetric(g),
        lambda x, u, v: np.trace(u @ x @ v),
        transport_move,
    ),
    "bures_wasserstein_root": (root_gradient, lambda x, u, v: np.trace(u @ x @ x.T @ v), root_move),
}


@pytest.mark.parametrize("kind", ["adam", "amsgrad", "adagrad"])
@pytest.mark.parametrize("name", POINTS)
def test_steps_are_the_formula(name, kind, x64):
    manifold, x, f = POINTS[name]
    rates = {} if kind == "adagrad" else {"b1": 0.8, "b2": 0.9}
    optimizer = getattr(optim, f"riemannian_{kind}")(0.2, manifold, **rates)
    point, state, path = jnp.asarray(x), optimizer.init(jnp.asarray(x)), []
    for _ in range(6):
        updates, state = optimizer.update(jax.grad(f)(point), state, point)
        point = optax.apply_updates(point, updates)
        path.append(point)
    assert state.status == 0
    expected = numpy_adam(x, f, *FORMULAS[name], rate=0.2, kind=kind)
    assert np.allclose(np.array(path), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["adam", "amsgrad", "adagrad"])
def test_on_numbers_it_is_optaxs(kind, x64):
    ours = getattr(optim, f"riemannian_{kind}")(0.1, Euclidean(), eps=1e-12)
    theirs = {
        "adam": optax.adam(0.1, eps=1e-12),
        "amsgrad": optax.amsgrad(0.1, eps=1e-12),
        "adagrad": optax.adagrad(0.1, initial_accumulator_value=0.0, eps=1e-20),
    }[kind]
    x = y = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
    s, t = ours.init(x), theirs.init(y)
    for k in range(10):
        g = jax.tree.map(lambda v, k=k: jnp.sinh(v) + jnp.cos(5.0 * k), x)
        u, s = ours.update(g, s, x)
        w, t = theirs.update(g, t, y)
        x, y = optax.apply_updates(x, u), optax.apply_updates(y, w)
        assert all(map(np.allclose, jax.tree.leaves(x), jax.tree.leaves(y)))


def minimise(optimizer, f, x, steps):
    def step(carry, _):
        x, state = carry
        updates, state = optimizer.update(jax.grad(f)(x), state, x)
        return (optax.apply_updates(x, updates), state), None

    start = (x, optimizer.init(x))
    return jax.jit(lambda c: jax.lax.scan(step, c, None, steps)[0])(start)


decaying = optax.exponential_decay(0.3, 100, 0.5)


def test_rayleigh_quotients_to_rounding(x64):
    """One eigenvector on the sphere, three on the Stiefel manifold."""
    matrix = jnp.asarray(TARGET)
    values = np.linalg.eigvalsh(TARGET)
    f = lambda x: jnp.sum(x * (matrix @ x))
    x, _ = minimise(optim.riemannian_adam(decaying, Sphere()), f, jnp.full(4, 0.5), 4000)
    assert f(x) - values[0] < 1e-12
    assert abs(jnp.linalg.norm(x) - 1) < 1e-14
    frame = jnp.eye(4)[:, :3]
    x, state = minimise(optim.riemannian_adam(decaying, Stiefel()), f, frame, 4000)
    assert abs(f(x) - values[:3].sum()) < 1e-10
    assert state.status == 0


def test_bures_wasserstein_adam_finds_a_gaussian(x64):
    """A covariance of condition 100, from the identity; KL to rounding, without any tuning."""
    basis, _ = np.linalg.qr(W)
    precision = jnp.asarray(basis @ np.diag(np.geomspace(0.1, 10, 4)) @ basis.T)

    def excess(sigma):
        product = precision @ sigma
        return 0.5 * (jnp.trace(product) - 4 - jnp.linalg.slogdet(product)[1])

    for manifold in (BuresWasserstein(), AffineInvariant()):
        optimizer = optim.riemannian_adam(decaying, manifold)
        sigma, state = minimise(optimizer, excess, jnp.eye(4), 3000)
        assert excess(sigma) < 1e-6
        assert state.status == 0


def test_affine_invariant_steps_do_not_see_a_change_of_variables(x64):
    """Σ -> A Σ Aᵀ of the problem is Σ -> A Σ Aᵀ of every iterate."""
    a = jnp.asarray(TILT)
    turned = lambda s: kl(jnp.linalg.solve(a, jnp.linalg.solve(a, s).T))
    optimizer = optim.riemannian_adam(0.1, AffineInvariant())
    plain, _ = minimise(optimizer, kl, jnp.asarray(COVARIANCE), 20)
    other, _ = minimise(optimizer, turned, a @ COVARIANCE @ a.T, 20)
    assert np.allclose(other, a @ plain @ a.T)


def test_a_gaussian_family_is_a_tree_of_manifolds(x64):
    """Location flat, root of the covariance in the geometry of transport."""
    precision, mean = jnp.asarray(TARGET), jnp.array([1.0, -1.0, 0.5, 2.0])
    target = vi.target(lambda x: -0.5 * (x - mean) @ precision @ (x - mean), jnp.zeros(4))
    manifolds = vi.Gaussian(Euclidean(), DenseScale(BuresWassersteinRoot()))
    objective = vi.gaussian.SphericalRadial()
    q = vi.full_rank(4)
    optimizer = optim.riemannian_adam(decaying, manifolds)
    state = optimizer.init(q)

    @jax.jit
    def step(t, q, state):
        _, grads = objective(jax.random.fold_in(jax.random.key(0), t), q, target)
        updates, state = optimizer.update(grads, state, q)
        return optax.apply_updates(q, updates), state

    for t in range(1200):
        q, state = step(t, q, state)
    assert np.allclose(q.loc, mean, atol=1e-3)
    assert np.allclose(q.covariance() @ precision, np.eye(4), atol=1e-3)


def test_off_the_manifold_is_projected_once_then_an_error(x64):
    f = lambda x: jnp.sum(jnp.asarray(TARGET) @ x)
    x = jnp.array([3.0, 0.0, 4.0, 0.0])
    optimizer = optim.riemannian_adam(0.1, Sphere())
    state = optimizer.init(x)
    updates, state = optimizer.update(jax.grad(f)(x), state, x)
    x = optax.apply_updates(x, updates)
    assert np.isclose(jnp.linalg.norm(x), 1)
    assert state.status == 1
    updates, state = optimizer.update(jax.grad(f)(x), state, x)
    assert state.status == 1
    off = 1.1 * x
    with pytest.raises(optim.ManifoldError, match="left them again"):
        optimizer.update(jax.grad(f)(off), state, off)
    updates, state = jax.jit(optimizer.update)(jax.grad(f)(off), state, off)
    assert state.status == 2
    assert np.all(np.isnan(updates))
    spoilt = optax.chain(optim.riemannian_adam(0.1, Sphere()), optax.scale(3.0))
    x, state = minimise(spoilt, f, jnp.array([1.0, 0.0, 0.0, 0.0]), 5)
    assert state[0].status == 2


def test_wrong_shapes_are_refused():
    wrong = ((Sphere(), ()), (Sphere(), (0,)), (Stiefel(), (2, 3)), (AffineInvariant(), (2, 3)))
    for manifold, shape in wrong:
        with pytest.raises(ValueError, match=r"expected .*; got a leaf with shape"):
            optim.riemannian_adam(0.1, manifold).init(jnp.ones(shape))
    x = jnp.ones(3)
    with pytest.raises(ValueError, match="expected params"):
        optim.riemannian_adam(0.1, Sphere()).update(x, optim.riemannian_adam(0.1, Sphere()).init(x))


def test_half_precision_stays_on_the_manifold():
    x = jnp.array([0.6, 0.0, 0.8], jnp.bfloat16)
    f = lambda x: -(x.astype(jnp.float32)[0])
    x, state = minimise(optim.riemannian_adam(0.05, Sphere()), f, x, 100)
    assert x.dtype == jnp.bfloat16
    assert x[0] > 0.98
    assert state.status == 0
