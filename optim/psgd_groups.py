r"""The groups of matrices that PSGD's preconditioners P = QᵀQ are fitted in.

A group says how Q starts, how P acts, and how Q moves down the gradient of the criterion
``c = hᵀ P h + vᵀ P⁻¹ v`` on the group: with a = Qh and b = Q⁻ᵀv, and Q changed to (I + E) Q,
``dc = 2 ⟨E, a aᵀ - b bᵀ⟩``. The step is divided by a bound on the norm of a aᵀ + b bᵀ, so that
a rate of at most 1 keeps Q in the group.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from optim.tree import divide


class Group(Protocol):
    """A group of matrices Q, and how a preconditioner P = Qᵀ Q of one is applied and fitted.

    Q is moved multiplicatively, so that it keeps its structure; it may be any pytree. To add a
    group write these four methods, and a name for it in `optim.psgd`.
    """

    def init(self, key: Array, x: Array, unravel: Callable) -> Any:
        """Q at the start, near the identity."""
        ...

    def scale(self, q: Any, factor: Array) -> Any:
        """A multiple of Q."""
        ...

    def apply(self, q: Any, g: Array) -> Array:
        """P g."""
        ...

    def fit(self, key: Array, q: Any, v: Array, h: Array, rate: Array) -> Any:
        """Q after a step on the criterion of one pair (v, h)."""
        ...


class Dense(NamedTuple):
    """Upper triangular matrices: O(D²) for each operation."""

    def init(self, key: Array, x: Array, unravel: Callable) -> Float[Array, "D D"]:
        """The identity."""
        del key, unravel
        return jnp.eye(len(x), dtype=x.dtype)

    def scale(self, q: Array, factor: Array) -> Array:
        """A multiple of Q."""
        return factor * q

    def apply(self, q: Array, g: Array) -> Array:
        """P g."""
        return q.T @ (q @ g)

    def fit(self, key: Array, q: Array, v: Array, h: Array, rate: Array) -> Array:
        """A step in the triangular part of a aᵀ - b bᵀ."""
        del key
        a, b = q @ h, solve_triangular(q, v, trans=1)
        share = divide(rate, a @ a + b @ b)
        return q - share * jnp.triu(jnp.outer(a, a) - jnp.outer(b, b)) @ q


class Diagonal(NamedTuple):
    """Positive diagonal matrices: O(D) for each operation."""

    def init(self, key: Array, x: Array, unravel: Callable) -> Float[Array, " D"]:
        """The identity."""
        del key, unravel
        return jnp.ones_like(x)

    def scale(self, q: Array, factor: Array) -> Array:
        """A multiple of Q."""
        return factor * q

    def apply(self, q: Array, g: Array) -> Array:
        """P g."""
        return q**2 * g

    def fit(self, key: Array, q: Array, v: Array, h: Array, rate: Array) -> Array:
        """A step in the diagonal of a aᵀ - b bᵀ."""
        del key
        a, b = (q * h) ** 2, (v / q) ** 2
        return q - q * (a - b) * divide(rate, jnp.max(a + b))


class LowRankFactors(NamedTuple):
    """Q = (I + U Vᵀ) diag(d), an element of the group `LowRank`.

    Attributes:
      u: U, directions that are stretched.
      v: V, what they are stretched by.
      d: diagonal, one factor for each coordinate.
    """

    u: Float[Array, "D R"]
    v: Float[Array, "D R"]
    d: Float[Array, " D"]


class LowRank(NamedTuple):
    """Low rank plus identity, times a diagonal: O(RD) for each operation."""

    rank: int

    def init(self, key: Array, x: Array, unravel: Callable) -> LowRankFactors:
        """Close to the identity, with random directions for the low-rank part."""
        del unravel
        rank = min(self.rank, len(x))
        u, v = 0.1 * jax.random.normal(key, (2, len(x), rank), x.dtype) / len(x) ** 0.5
        return LowRankFactors(u, v, jnp.ones_like(x))

    def scale(self, q: LowRankFactors, factor: Array) -> LowRankFactors:
        """A multiple of Q."""
        return q._replace(d=factor * q.d)

    def apply(self, q: LowRankFactors, g: Array) -> Array:
        """P g."""
        a = q.d * g
        a = a + q.u @ (q.v.T @ a)
        return q.d * (a + q.v @ (q.u.T @ a))

    def fit(self, key: Array, q: LowRankFactors, v: Array, h: Array, rate: Array) -> LowRankFactors:
        """A step of d, and of U or V, at random."""
        U, V, d = q
        small = jnp.eye(U.shape[1], dtype=U.dtype) + V.T @ U
        a = d * h
        a = a + U @ (V.T @ a)
        b = v / d
        b = b - V @ jnp.linalg.solve(small.T, U.T @ b)
        ph = d * (a + V @ (U.T @ a))
        pv = (b - U @ jnp.linalg.solve(small, V.T @ b)) / d
        slope = h * ph - v * pv
        d_new = d - d * slope * divide(rate, jnp.max(jnp.abs(slope)))

        def share(w: Array) -> Array:
            sizes = [jnp.linalg.norm(s) * jnp.linalg.norm(w @ (w.T @ s)) for s in (a, b)]
            return divide(rate, sizes[0] + sizes[1])

        def move_u() -> tuple[Array, Array]:
            change = jnp.outer(a, a @ V) - jnp.outer(b, b @ V)
            return U - share(V) * change @ small, V

        def move_v() -> tuple[Array, Array]:
            change = jnp.outer(a, a @ U) - jnp.outer(b, b @ U)
            return U, V - share(U) * (change + V @ (U.T @ change))

        U, V = jax.lax.cond(jax.random.bernoulli(key), move_u, move_v)
        balance = jnp.sqrt(_ratio(jnp.linalg.norm(V), jnp.linalg.norm(U)))
        return LowRankFactors(U * balance, V / balance, d_new)


class Kronecker(NamedTuple):
    """For each matrix a product of two triangular factors; a diagonal for vectors and scalars.

    An array with more axes is a matrix of its first axis by the others. A side longer than
    ``max_side`` has a diagonal factor. Each m x n matrix costs O(m³ + n³) at a fit.
    """

    max_side: int

    def _matrices(self, x: Array, unravel: Callable) -> list[Array]:
        return [_matrix(leaf, x.dtype) for leaf in jax.tree.leaves(unravel(x))]

    def init(self, key: Array, x: Array, unravel: Callable) -> "KroneckerFactors":
        """The identity."""
        del key
        factors = []
        for leaf in self._matrices(x, unravel):
            sides = [
                jnp.eye(n, dtype=x.dtype) if 1 < n <= self.max_side else jnp.ones(n, x.dtype)
                for n in leaf.shape
            ]
            if leaf.shape[1] == 1:
                sides[0] = jnp.ones(leaf.shape[0], x.dtype)
            factors.append(tuple(sides))
        return tuple(factors)

    def scale(self, q: "KroneckerFactors", factor: Array) -> "KroneckerFactors":
        """A multiple of Q."""
        return tuple((factor * left, right) for left, right in q)

    def _split(self, q: "KroneckerFactors", flat: Array) -> list[Array]:
        shapes = [(left.shape[0], right.shape[0]) for left, right in q]
        parts, at = [], 0
        for m, n in shapes:
            parts.append(flat[at : at + m * n].reshape(m, n))
            at += m * n
        return parts

    def apply(self, q: "KroneckerFactors", g: Array) -> Array:
        """P g: Q₁ᵀQ₁ G Q₂ᵀQ₂ for each matrix."""
        found = []
        for (left, right), part in zip(q, self._split(q, g), strict=True):
            half = _times(left, _times(left, part), transpose=True)
            full = _times(right, _times(right, half.T), transpose=True).T
            found.append(full.reshape(-1))
        return jnp.concatenate(found)

    def fit(
        self, key: Array, q: "KroneckerFactors", v: Array, h: Array, rate: Array
    ) -> "KroneckerFactors":
        """A step of each factor of each matrix."""
        del key
        found = []
        parts = zip(q, self._split(q, h), self._split(q, v), strict=True)
        for (left, right), part_h, part_v in parts:
            if part_h.size == 0:
                found.append((left, right))
                continue
            a = _times(right, _times(left, part_h).T).T
            b = _divide(right, _divide(left, part_v).T).T
            left = _move(left, a, b, rate)
            right = _move(right, a.T, b.T, rate)
            balance = jnp.sqrt(_ratio(jnp.max(jnp.abs(right)), jnp.max(jnp.abs(left))))
            found.append((left * balance, right / balance))
        return tuple(found)


KroneckerFactors = tuple[tuple[Array, Array], ...]


def _ratio(a: Array, b: Array) -> Array:
    return jnp.where((a > 0) & (b > 0), divide(a, b), 1.0)


def _matrix(x: Array, dtype: Any) -> Float[Array, "M N"]:
    columns = x.shape[1:]
    size = 1
    for n in columns:
        size *= n
    return jnp.reshape(x, (x.shape[0] if x.ndim else 1, size)).astype(dtype)


def _times(factor: Array, x: Array, *, transpose: bool = False) -> Array:
    if factor.ndim == 1:
        return factor[:, None] * x
    return (factor.T if transpose else factor) @ x


def _divide(factor: Array, x: Array) -> Array:
    """Q⁻ᵀ X."""
    return x / factor[:, None] if factor.ndim == 1 else solve_triangular(factor, x, trans=1)


def _move(factor: Array, a: Array, b: Array, rate: Array) -> Array:
    if factor.ndim == 1:
        left, right = jnp.sum(a**2, 1), jnp.sum(b**2, 1)
        return factor - factor * (left - right) * divide(rate, jnp.max(left + right))
    left, right = a @ a.T, b @ b.T
    share = divide(rate, jnp.linalg.norm(left + right))
    return factor - share * jnp.triu(left - right) @ factor
