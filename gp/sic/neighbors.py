"""Nearest neighbours among the points that come before, in arrays of fixed width."""

import numpy as np

_GROWTH = 1.3  # from one tree to the next
_DENSE = 256  # points whose neighbours are found without a tree


def preceding_neighbors(points: np.ndarray, num_neighbors: int) -> np.ndarray:
    """For each point its nearest neighbours among those before it.

    Points are taken by blocks of the index, a tree on all points up to the end of each; a block's
    points ask it for some more neighbours than are wanted, keep those that come before, and ask
    again, for twice as many, where these are too few.

    Args:
      points: shape ``(n, d)``, in order.
      num_neighbors: m.

    Returns:
      Shape ``(n, m)``, int32: sorted indices below the row's own, then n where there are none.

    Complexity:
      O(n m log n) time for points in few dimensions, O(n m) memory: about 10 CPU seconds for a
      million points in the plane and m = 20.
    """
    n = len(points)
    out = np.full((n, num_neighbors), n, np.int32)
    start = min(n, max(_DENSE, num_neighbors + 1))
    _fill_dense(points[:start], out)
    while start < n:
        end = min(n, int(_GROWTH * start) + 1)
        out[start:end] = _nearest_before(points[:end], np.arange(start, end), num_neighbors)
        start = end
    out.sort(axis=1)
    return out


def _fill_dense(points: np.ndarray, out: np.ndarray) -> None:
    m = out.shape[1]
    for k in range(1, len(points)):
        squared = np.sum((points[:k] - points[k]) ** 2, axis=1)
        if k <= m:
            out[k, :k] = np.arange(k)
        else:
            out[k] = np.argpartition(squared, m - 1)[:m]


def _nearest_before(points: np.ndarray, rows: np.ndarray, m: int) -> np.ndarray:
    from scipy.spatial import cKDTree

    tree = cKDTree(points, balanced_tree=False, compact_nodes=False)
    out = np.empty((len(rows), m), np.int32)
    asked, todo = int(1.25 * m) + 4, np.arange(len(rows))
    while len(todo):
        asked = min(asked, len(points))
        near = tree.query(points[rows[todo]], k=asked)[1]
        before = near < rows[todo, None]
        found = before.sum(axis=1) >= m
        near, before = near[found], before[found]
        first = before & (np.cumsum(before, axis=1) <= m)
        out[todo[found]] = near[first].reshape(-1, m)
        todo, asked = todo[~found], 2 * asked
    return out


class MultiscaleSearch:
    """Neighbours at all scales: the nearest few of each index block [2ᵇ, 2ᵇ⁺¹) of ordered points.

    Args:
      points: shape ``(n, d)``, in order, coarsest first.
      per_block: r, the number of neighbours from each block.
    """

    def __init__(self, points: np.ndarray, per_block: int):
        from scipy.spatial import cKDTree

        self.size, self.per_block, self.trees = len(points), per_block, []
        start = 0
        while start < self.size:
            end = min(self.size, max(2 * start, per_block))
            tree = cKDTree(points[start:end], balanced_tree=False, compact_nodes=False)
            self.trees.append((start, tree))
            start = end

    def query(self, queries: np.ndarray, limits: np.ndarray) -> np.ndarray:
        """The neighbours of each query among the indices below its limit.

        Args:
          queries: shape ``(q, d)``.
          limits: shape ``(q,)``.

        Returns:
          Shape ``(q, w)``, int32: indices, in no order, n where there is none.

        Complexity:
          O(q r log² n) time, O(q r log n) memory.
        """
        found = []
        for start, tree in self.trees:
            count = min(self.per_block, tree.n)
            rows = np.flatnonzero(limits > start)
            block = np.full((len(queries), count), self.size, np.int32)
            near = tree.query(queries[rows], k=np.arange(1, count + 1))[1] + start
            block[rows] = np.where(near < limits[rows, None], near, self.size)
            found.append(block)
        return np.concatenate(found, axis=1)
