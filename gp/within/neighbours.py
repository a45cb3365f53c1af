"""Which inducing inputs are nearest to a datum, and to each other; on the host."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gp.sic.neighbors import preceding_neighbors
from gp.sic.order import coarse_to_fine_order
from vi.compile import quick_jit

_MOVED = 0.02  # of the distances between neighbours, from which on they are looked for again


@quick_jit
def _metric(kernel: Any, x: Any) -> Any:
    return kernel.metric(x)


def points_of(kernel: Any, x: Any) -> np.ndarray:
    """Inputs divided by the kernel's length scales, so that distances are those of its metric."""
    return np.asarray(_metric(kernel, jnp.asarray(x)), float)


def cover(kernel: Any, x: np.ndarray, count: int) -> np.ndarray:
    """Inputs that cover the data evenly, coarse to fine, at most so many."""
    order = coarse_to_fine_order(points_of(kernel, x))
    return x[order[: min(count, len(x))]]


class Neighbours(NamedTuple):
    """The inducing inputs that each of them is given, and the metric they were looked for in.

    Attributes:
      points: in that metric.
      before: for each its nearest of those before it and, last, itself; M stands for none.
    """

    points: np.ndarray
    before: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, num_neighbors: int) -> "Neighbours":
        """Look for neighbours among points in order."""
        size = len(points)
        near = preceding_neighbors(points, min(num_neighbors, size - 1))
        own = np.arange(size, dtype=np.int32)[:, None]
        return cls(points, np.concatenate([near, own], 1))

    def refreshed(self, points: np.ndarray, num_neighbors: int) -> "Neighbours":
        """The same if points have hardly moved to each other, else looked for again."""
        here, then = (_gaps(p, self.before) for p in (points, self.points))
        if np.abs(here / here.mean() - then / then.mean()).max() < _MOVED:
            return self
        return self.of(points, num_neighbors)


def nearest(points: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """The nearest of some points to each query, in ascending order of their index, ``(Q, H)``."""
    from scipy.spatial import KDTree

    tree = KDTree(points, balanced_tree=False, compact_nodes=False)
    found = np.asarray(tree.query(queries, k=np.arange(1, min(count, len(points)) + 1))[1])
    return np.sort(found, 1).astype(np.int32)


def _gaps(points: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The distance from each point to the last of its neighbours that there is."""
    pick = np.minimum(before[:, :-1], len(points) - 1)
    square = np.sum((points[pick] - points[:, None]) ** 2, -1)
    there = before[:, :-1] < len(points)
    return np.sqrt(np.where(there, square, 0.0).max(1, initial=0.0)) + 1e-300
