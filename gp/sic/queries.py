"""Where new points stand among the data: their neighbours and ancestors, found on the host."""

import numpy as np

from gp.sic.graph import SICGraph
from gp.sic.groups import SIZE, Groups, make_groups
from gp.sic.neighbors import MultiscaleSearch, nearest_before
from gp.sic.order import coarse_to_fine_order
from gp.sic.pattern import Pattern, dependency_levels, level_blocks


def marginal_queries(
    graph: SICGraph, points: np.ndarray, queries: np.ndarray, per_block: int
) -> tuple[np.ndarray, Groups]:
    """Neighbours and ancestors of new points, each looked at alone.

    Args:
      graph: of the data.
      points: shape ``(n, d)``, by position, in the metric in which neighbours are near.
      queries: shape ``(q, d)``, in the same metric.
      per_block: ancestors of each query from each index block.

    Returns:
      Positions of the nearest m data, or of all where the graph is exact, sorted, and groups of
      queries.

    Complexity:
      O((n + q) log² n) time, O(n + q m) memory.
    """
    coarse = np.asarray(graph.coarse)
    everywhere = np.full(len(queries), len(points))
    near = nearest_before(points[coarse], queries, everywhere, _width(graph, len(points)))
    near = np.sort(graph.rank[near], axis=1)
    search = MultiscaleSearch(points[coarse], per_block)
    size = int(np.clip(SIZE * len(queries) / len(points), 1, SIZE))
    return near, make_groups(search, graph.rank, queries, everywhere, near, size)


def joint_queries(
    graph: SICGraph, points: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, Pattern]:
    """The pattern of the data's columns and, behind them, those of new points.

    New points come last and coarse to fine; each has its nearest neighbours among the data and the
    new points before it.

    Args:
      graph: of the data.
      points: shape ``(n, d)``, by position, in the metric in which neighbours are near.
      queries: shape ``(q, d)``, in the same metric.

    Returns:
      Query at each new position, shape ``(q,)``, and the pattern of n + q columns.

    Complexity:
      O((n + q) m log(n + q)) time, O((n + q) m) memory.
    """
    n, total = len(points), len(points) + len(queries)
    order = coarse_to_fine_order(queries)
    together = np.concatenate([points[np.asarray(graph.coarse)], queries[order]])
    limits = np.arange(n, total)
    pattern = graph.pattern
    width = _width(graph, total - 1)
    near = nearest_before(together, queries[order], limits, width)
    levels = dependency_levels(
        np.where((near < n) | (near == total), len(queries), near - n).astype(np.int32)
    )
    by_level = np.argsort(levels, kind="stable")
    place = np.empty(total + 1, np.int32)
    place[total] = total
    place[:n] = graph.coarse
    place[n + by_level] = np.arange(n, total)
    near = np.sort(place[near[by_level]], axis=1)
    starts, sizes, _ = level_blocks(levels[by_level], pattern.width)
    old = np.full((n, width), n)
    old[:, : pattern.num_neighbors] = pattern.neighbors
    joint = Pattern(
        neighbors=np.concatenate([np.where(old < n, old, total).astype(np.int32), near]),
        starts=np.concatenate([pattern.starts, starts + np.int32(n)]),
        sizes=np.concatenate([pattern.sizes, sizes]),
        width=pattern.width,
    )
    return order[by_level], joint


def _width(graph: SICGraph, all_there_are: int) -> int:
    """Neighbours of a new point: m, or all where the graph is that of the exact process."""
    m = graph.pattern.num_neighbors
    return all_there_are if m >= graph.pattern.size - 1 else m
