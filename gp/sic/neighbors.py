"""Nearest neighbours among the points that come before, in arrays of fixed width."""

import numpy as np

_GROWTH = 1.3  # from one tree to the next
_FIRST = 256  # points in the first of them


def preceding_neighbors(points: np.ndarray, num_neighbors: int) -> np.ndarray:
    """For each point its nearest neighbours among those before it.

    Points are taken by blocks of the index, a tree on all points up to the end of each.

    Args:
      points: shape ``(n, d)``, in order.
      num_neighbors: m.

    Returns:
      Shape ``(n, m)``, int32: sorted indices below the row's own, then n where there are none.

    Complexity:
      O(n m log n) time for points in few dimensions, O(n m) memory: about 10 CPU seconds for a
      million points in the plane and m = 20.
    """
    n, start = len(points), 0
    out = np.empty((n, num_neighbors), np.int32)
    while start < n:
        end = min(n, max(_FIRST, int(_GROWTH * start)))
        some, limits = points[start:end], np.arange(start, end)
        near = nearest_before(points[:end], some, limits, num_neighbors)
        out[start:end] = np.where(near < end, near, n)
        start = end
    out.sort(axis=1)
    return out


def nearest_before(
    points: np.ndarray, queries: np.ndarray, limits: np.ndarray, num_neighbors: int
) -> np.ndarray:
    """The nearest of the points whose index is below each query's limit.

    A tree gives some more neighbours than are wanted; where too few of them are below the limit it
    is asked again, for twice as many.

    Args:
      points: shape ``(n, d)``.
      queries: shape ``(q, d)``.
      limits: shape ``(q,)``.
      num_neighbors: m.

    Returns:
      Indices, shape ``(q, m)``, int32, nearest first, then n where there are none.

    Complexity:
      O(q m log n) where most points are below the limits.
    """
    from scipy.spatial import KDTree

    n = len(points)
    tree = KDTree(points, balanced_tree=False, compact_nodes=False)
    out = np.full((len(queries), num_neighbors), n, np.int32)
    asked, todo = int(1.25 * num_neighbors) + 4, np.arange(len(queries))
    wanted = np.minimum(limits, num_neighbors)
    while len(todo):
        asked = min(asked, n)
        near = np.asarray(tree.query(queries[todo], k=np.arange(1, asked + 1))[1])
        before = near < limits[todo, None]
        found = before.sum(axis=1) >= wanted[todo]
        near, before, rows = near[found], before[found], todo[found]
        place = np.cumsum(before, axis=1) - 1
        row, column = np.nonzero(before & (place < num_neighbors))
        out[rows[row], place[row, column]] = near[row, column]
        todo, asked = todo[~found], 2 * asked
    return out


class MultiscaleSearch:
    """Neighbours at all scales: the nearest few of each index block [2ᵇ, 2ᵇ⁺¹) of ordered points.

    Args:
      points: shape ``(n, d)``, in order, coarsest first.
      per_block: r, the number of neighbours from each block.
    """

    def __init__(self, points: np.ndarray, per_block: int):
        from scipy.spatial import KDTree

        self.size, self.per_block, self.trees = len(points), per_block, []
        start = 0
        while start < self.size:
            end = min(self.size, max(2 * start, per_block))
            tree = KDTree(points[start:end], balanced_tree=False, compact_nodes=False)
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
