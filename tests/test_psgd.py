"""PSGD against its formulas in NumPy, and against the matrices its preconditioners converge to."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim import Oracle, psgd
from optim.psgd_groups import Dense, Diagonal, Kronecker, LowRank
from optim.steps import step_key
from tests.losses import CONVEX, INDEFINITE, START, Loss, iterates

KEY = jax.random.key(9)


def as_matrix(group, q, dim):
    return np.asarray(jax.vmap(lambda e: group.apply(q, e))(jnp.eye(dim))).T


def dense_fit(Q, v, h, rate):
    a, b = Q @ h, np.linalg.solve(Q.T, v)
    return Q - rate * np.triu(np.outer(a, a) - np.outer(b, b)) @ Q / (a @ a + b @ b)


def diagonal_fit(Q, v, h, rate):
    q = np.diag(Q)
    a, b = (q * h) ** 2, (v / q) ** 2
    return np.diag(q - rate * q * (a - b) / (a + b).max())


@pytest.mark.parametrize("criterion", ["newton", "whitening"])
@pytest.mark.parametrize(("group", "fit"), [("dense", dense_fit), ("diagonal", diagonal_fit)])
def test_is_its_formula(group, fit, criterion, x64):
    loss, x, Q, m = Loss(CONVEX), START, np.eye(4), 0.0
    optimizer = psgd(KEY, 0.3, group=group, criterion=criterion, fit_rate=0.2, momentum=0.6)
    found = iterates(optimizer, lambda t: Oracle(loss), jnp.asarray(START), 5)
    for t in range(5):
        v = jax.random.normal(jax.random.split(step_key(KEY, "probes", t))[0], (4,), float)
        v, g = np.asarray(v), loss.grad(x)
        h = loss.hessian(x) @ v if criterion == "newton" else g
        if t == 0:
            Q = Q * ((v @ v) / (h @ h)) ** 0.25
        m = 0.6 * m + 0.4 * g
        s = Q.T @ Q @ m / (1 - 0.6 ** (t + 1))
        x = x - 0.3 * s * min(1, 2 / np.linalg.norm(s))
        Q = fit(Q, v, h, 0.2)
        assert np.allclose(found[t][0], x, rtol=1e-9)


@pytest.mark.slow
def test_low_rank_fit_is_its_formula(x64):
    """Written with full matrices; the coin decides whether U or V moves."""
    rng = np.random.default_rng(0)
    group, moved = LowRank(2), set()
    for seed in range(6):
        q = group.init(jax.random.key(seed), jnp.zeros(4), None)
        q = q._replace(u=5 * q.u, v=5 * q.v, d=jnp.asarray(rng.uniform(0.5, 2, 4)))
        U, V, d = map(np.asarray, q)
        v, h = rng.normal(size=(2, 4))
        inner = np.eye(4) + U @ V.T
        Q = inner @ np.diag(d)
        P = Q.T @ Q
        assert np.allclose(as_matrix(group, q, 4), P)
        a, b = Q @ h, np.linalg.solve(Q.T, v)
        slope = h * (P @ h) - v * np.linalg.solve(P, v)
        E = np.outer(a, a) - np.outer(b, b)
        size = lambda W, a=a, b=b: sum(
            np.linalg.norm(s) * np.linalg.norm(W @ W.T @ s) for s in (a, b)
        )
        key = jax.random.key(seed)
        if jax.random.bernoulli(key):
            U = U - 0.2 / size(V) * E @ V @ (np.eye(2) + V.T @ U)
        else:
            V = V - 0.2 / size(U) * (np.eye(4) + V @ U.T) @ E @ U
        moved.add(bool(jax.random.bernoulli(key)))
        d = d - 0.2 * d * slope / np.abs(slope).max()
        new = group.fit(key, q, jnp.asarray(v), jnp.asarray(h), 0.2)
        assert np.allclose(new.u @ new.v.T, U @ V.T)
        assert np.allclose(new.d, d)
        assert np.isclose(np.linalg.norm(new.u), np.linalg.norm(new.v))
    assert moved == {True, False}


@pytest.mark.slow
def test_kronecker_fit_is_its_formula(x64):
    """A matrix, a vector, a scalar, an empty leaf, and a matrix with one long side."""
    rng = np.random.default_rng(1)
    shapes = {"m": (3, 2), "v": (2,), "s": (), "e": (0,), "w": (2, 5)}
    tree = {k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()}
    x, unravel = jax.flatten_util.ravel_pytree(tree)
    group = Kronecker(max_side=3)
    q = group.init(KEY, x, unravel)
    v, h = rng.normal(size=(2, len(x)))
    q = group.fit(KEY, q, jnp.asarray(v), jnp.asarray(h), 0.3)
    q2 = group.fit(KEY, q, jnp.asarray(h), jnp.asarray(v), 0.3)
    names = sorted(shapes)

    def blocks(q):
        dense = lambda f: np.diag(f) if np.ndim(f) == 1 else np.asarray(f)
        return {n: (dense(left), dense(right)) for n, (left, right) in zip(names, q, strict=True)}

    parts = {n: (np.asarray(unravel(h)[n]), np.asarray(unravel(v)[n])) for n in names}
    for name in ("m", "v", "s", "w"):
        L, R = blocks(q)[name]
        to = lambda z, L=L, R=R: z.reshape(len(L), len(R))
        H, V = (to(z) for z in parts[name][::-1])  # of the second fit: exchanged
        A, B = L @ H @ R.T, np.linalg.inv(L).T @ V @ np.linalg.inv(R)
        full = np.kron(R, L)  # on columns stacked
        P = full.T @ full
        got = group.apply(q, jnp.asarray(v))
        piece = np.asarray(unravel(got)[name]).reshape(len(L), len(R))
        assert np.allclose(piece.T.reshape(-1), P @ to(parts[name][1]).T.reshape(-1))

        def move(F, plus, minus, diagonal=name in ("v", "s")):
            if diagonal or len(F) > 3:
                p, m = np.diag(plus), np.diag(minus)
                return F - 0.3 * np.diag((p - m) / (p + m).max()) @ F
            return F - 0.3 * np.triu(plus - minus) @ F / np.linalg.norm(plus + minus)

        expected = np.kron(move(R, A.T @ A, B.T @ B), move(L, A @ A.T, B @ B.T))
        L2, R2 = blocks(q2)[name]
        assert np.allclose(np.kron(R2, L2), expected)
        assert np.isclose(np.abs(L2).max(), np.abs(R2).max())


def fitted(group, pairs, dim, steps, rate, seed=0):
    """Q after fits to ``pairs(key) -> (v, h)``, at a rate that falls as 1 / t."""

    def body(q, t):
        key = jax.random.fold_in(jax.random.key(seed), t)
        now = rate / (1 + t / (steps / 20))
        return group.fit(key, q, *pairs(key), now), None

    q = group.init(KEY, jnp.zeros(dim), lambda x: x)
    return jax.jit(lambda q: jax.lax.scan(body, q, jnp.arange(steps))[0])(q)


@pytest.mark.parametrize(
    ("group", "H"),
    [
        (Dense(), CONVEX + 0.3 * np.eye(4)),
        (Dense(), INDEFINITE),
        (LowRank(4), CONVEX + 0.3 * np.eye(4)),
        (Diagonal(), np.diag([5.0, -0.2, 1.0, 3.0])),
    ],
    ids=["dense", "dense_indefinite", "low_rank", "diagonal"],
)
def test_newton_criterion_fits_the_inverse_of_the_absolute_hessian(group, H, x64):
    def pairs(key):
        v = jax.random.normal(key, (4,))
        return v, jnp.asarray(H) @ v

    P = as_matrix(group, fitted(group, pairs, 4, 6000, 0.5), 4)
    values, V = np.linalg.eigh(H)
    expected = V @ np.diag(1 / np.abs(values)) @ V.T
    assert np.linalg.norm(P - expected) < 0.05 * np.linalg.norm(expected)


def test_whitening_criterion_fits_the_inverse_root_of_the_second_moment(x64):
    S = CONVEX + 0.3 * np.eye(4)
    L = jnp.asarray(np.linalg.cholesky(S))

    def pairs(key):
        v, e = jax.random.normal(key, (2, 4))
        return v, L @ e

    P = as_matrix(Dense(), fitted(Dense(), pairs, 4, 20000, 0.5), 4)
    values, V = np.linalg.eigh(S)
    expected = V @ np.diag(values**-0.5) @ V.T
    assert np.linalg.norm(P - expected) < 0.15 * np.linalg.norm(expected)


@pytest.mark.slow
def test_fits_skip_products_between_periods():
    """Without an oracle, whitening; with a period, the factors change at its multiples only."""
    optimizer = psgd(KEY, 0.1, group="dense", criterion="whitening", period=3)
    x = jnp.asarray(START, jnp.float32)
    state, seen = optimizer.init(x), []
    for _ in range(6):
        _, state = optimizer.update(x, state, x)
        seen.append(np.asarray(state.inner.factors))
    changed = [not np.array_equal(a, b) for a, b in itertools.pairwise(seen)]
    assert changed == [False, False, True, False, False]


def test_refusals():
    with pytest.raises(ValueError, match="psgd: expected group in"):
        psgd(KEY, 0.1, group="full")
    with pytest.raises(ValueError, match="psgd: expected criterion"):
        psgd(KEY, 0.1, criterion="fisher")
    optimizer = psgd(KEY, 0.1)
    with pytest.raises(ValueError, match="psgd: expected value_fn"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)), jnp.ones(2))
