"""Groups of nearby points, and the ancestors that the members of a group share."""

import numpy as np
from jaxtyping import Array, Int

from gp.sic.neighbors import MultiscaleSearch
from gp.sic.pattern import rounded
from vi.module import module

SIZE = 16  # points that share their ancestors
_AT_ONCE = 4096  # groups whose ancestors are looked for in one call


@module
class Groups:
    r"""Groups of nearby points and, for each, what they depend on.

    The variance of a point is :math:`\|V^{-1} e\|^2`, and the solution of that triangular system
    lives on the point's ancestors: nearby points at its own scale, farther ones at coarser scales.
    Points next to one another have nearly the same ancestors, so the small triangular matrix is
    made for a group of them at once.

    Attributes:
      members: rows of the query points, shape ``(g, s)``; the number of queries in free places.
      ancestors: sorted positions, shape ``(g, P)``; n in free places.
    """

    members: Int[Array, "g s"]
    ancestors: Int[Array, "g P"]


def make_groups(
    search: MultiscaleSearch,
    rank: np.ndarray,
    queries: np.ndarray,
    limits: np.ndarray,
    own: np.ndarray,
    size: int = SIZE,
) -> Groups:
    """Group query points and find their ancestors.

    Args:
      search: of the training points, in coarse-to-fine order.
      rank: position of each rank of that order, shape ``(n + 1,)``, the last one n.
      queries: shape ``(q, d)``.
      limits: shape ``(q,)``; only ranks below a query's limit are its ancestors.
      own: positions that are ancestors in any case, shape ``(q, w)``; n in free places.
      size: largest group; where the queries are sparse among the points, small groups share more.

    Returns:
      The groups.

    Complexity:
      O(q r log² n) time, O(q P / s) memory, for r from each of log n index blocks.
    """
    members = nearby_groups(queries, size)
    unions = []
    for start in range(0, len(members), _AT_ONCE):
        some = members[start : start + _AT_ONCE]
        rows = np.minimum(some, len(queries) - 1).reshape(-1)
        sets = np.concatenate([rank[search.query(queries[rows], limits[rows])], own[rows]], axis=1)
        unions += [np.unique(row) for row in sets.reshape(len(some), -1)]
    n = len(rank) - 1
    sizes = [int(np.searchsorted(union, n)) for union in unions]
    ancestors = np.full((len(unions), rounded(max(sizes))), n, np.int32)
    for row, union, size in zip(ancestors, unions, sizes, strict=True):
        row[:size] = union[:size]
    return Groups(members, ancestors)


def nearby_groups(points: np.ndarray, size: int) -> np.ndarray:
    """Split points into equal groups of near ones, by halving along the widest coordinate.

    Args:
      points: shape ``(n, d)``.
      size: largest group.

    Returns:
      Shape ``(g, s)``, int32, g a power of two and s at most ``size``; n in free places.

    Complexity:
      O(n log² n) time, O(n) memory.
    """
    n = len(points)
    halvings = max(0, int(np.ceil(np.log2(n / size))))
    width = -(-n // 2**halvings)
    places = np.arange(width * 2**halvings)[None]
    groups, spare = np.minimum(places, n - 1), places >= n  # free places stay near the last point
    for _ in range(halvings):
        inside = points[groups]
        axis = np.argmax(np.ptp(inside, axis=1), axis=1)
        along = np.take_along_axis(inside, axis[:, None, None], 2)[..., 0]
        order = np.argsort(along, axis=1, kind="stable")
        groups = np.take_along_axis(groups, order, 1).reshape(2 * len(groups), -1)
        spare = np.take_along_axis(spare, order, 1).reshape(groups.shape)
    return np.where(spare, n, groups).astype(np.int32)
