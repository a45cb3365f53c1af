"""Which inputs a process is known through: greedy by variance, or centres of clusters; on data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi.compile import quick_jit
from vi.targets.mesh import on_host

MOST = 20_000  # inputs among which are chosen; more are sampled
_LEAST = 1e-6  # of the variance, below which another input tells nothing


def greedy_inputs(kernel: Any, x: Float[Array, "N D"], count: int) -> np.ndarray:
    r"""Inputs each of which was the least known given those before it: a pivoted Cholesky.

    .. math:: z_{m+1} = \arg\max_x\; k(x, x) - k_{xz} K_{zz}^{-1} k_{zx}

    It lowers the trace of what is left unexplained, by which the bound is off, and never takes two
    inputs that coincide. It stops where the largest variance left is below 1e-6 of the first.

    Args:
      kernel: the kernel.
      x: the inputs; beyond 20,000 a sample of them is looked at.
      count: M, at most.

    Returns:
      Shape ``(M, D)``, or less where fewer explain all.

    Complexity:
      O(N M²) time, O(N M) memory.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> from gp.inducing import greedy_inputs
      >>> x = jnp.linspace(0.0, 1.0, 101)[:, None]
      >>> greedy_inputs(gp.Matern(0.3), x, 3)[:, 0].tolist()
      [0.0, 1.0, 0.5]

    Reference: Burt, Rasmussen and van der Wilk (2020), "Convergence of sparse variational inference
    in Gaussian processes regression", section 4.2.2; Fine and Scheinberg (2001) for the algorithm.
    """
    some = _sample(x)
    pivots, left = _pivots(kernel, some, count=min(count, len(some)))
    enough = np.asarray(left) > _LEAST * float(left[0])
    return np.asarray(some)[np.asarray(pivots)[enough]]


@quick_jit(static_argnames="count")
def _pivots(kernel: Any, x: Array, *, count: int) -> tuple[Array, Array]:
    """Rows chosen, and the variance that each had left."""

    def step(m: Array, state: tuple) -> tuple:
        rows, left, pivots, seen = state
        place = jnp.argmax(left)
        most = left[place]
        row = kernel(x[place][None], x)[0] - rows[:, place] @ rows
        row = jnp.where(most > 0, row / jnp.sqrt(jnp.where(most > 0, most, 1.0)), 0.0)
        left = jnp.maximum(left - row**2, 0.0).at[place].set(0.0)
        return rows.at[m].set(row), left, pivots.at[m].set(place), seen.at[m].set(most)

    left = kernel.diagonal(x)
    start = jnp.zeros((count, len(x)), x.dtype), left, jnp.zeros(count, int), jnp.zeros_like(left)
    _, _, pivots, seen = jax.lax.fori_loop(0, count, step, start)
    return pivots, seen[:count]


def spread_inputs(kernel: Any, x: Float[Array, "N D"], count: int) -> np.ndarray:
    """Inputs spread as the data are: nearest to the centres of k-means++, in the kernel's metric.

    Args:
      kernel: the kernel.
      x: the inputs; beyond 20,000 a sample of them is looked at.
      count: M, at most.

    Returns:
      Shape ``(M, D)``, or less where two centres have the same input nearest.

    Complexity:
      O(N M) time a sweep, 20 sweeps.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> from gp.inducing import spread_inputs
      >>> spread_inputs(gp.Matern(), jnp.asarray([[0.0], [0.1], [5.0], [5.1], [5.2]]), 2).shape
      (2, 1)

    Reference: Arthur and Vassilvitskii (2007), "k-means++: the advantages of careful seeding".
    """
    from scipy.cluster.vq import kmeans2
    from scipy.spatial import KDTree

    some = _sample(x)
    points = np.asarray(kernel.metric(some), float)
    if count >= len(points):
        return np.asarray(some)
    seeds = _seeds(points, count, np.random.default_rng(0))
    centres, _ = kmeans2(points, points[seeds], iter=20, minit="matrix", missing="warn")
    centres = np.where(np.isfinite(centres), centres, points[seeds])
    _, nearest = KDTree(points).query(centres)
    return np.asarray(some)[np.unique(np.asarray(nearest))]


def _seeds(points: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Rows, each drawn with the squared distance to those before as its weight."""
    rows = [int(generator.integers(len(points)))]
    square = np.sum((points - points[rows[0]]) ** 2, 1)
    while len(rows) < count and square.max() > 0:
        rows.append(int(generator.choice(len(points), p=square / square.sum())))
        square = np.minimum(square, np.sum((points - points[rows[-1]]) ** 2, 1))
    return np.asarray(rows)


def _sample(x: Array) -> Array:
    """The inputs, or a sample of so many."""
    x = jnp.asarray(on_host(x))  # one choice, however many devices share the rows
    if len(x) <= MOST:
        return x
    return x[np.sort(np.random.default_rng(0).permutation(len(x))[:MOST])]
