"""A sparsity pattern and its schedule: which columns can be worked on together."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from vi.module import module, static

_WIDTH = 0.12  # of blocks over √n: in the plane the levels' own widths grow as n over some hundreds


@module
class Pattern:
    """Where a sparse upper triangular factor of n columns has entries.

    Attributes:
      neighbors: rows of the entries of each column above the diagonal, sorted, shape ``(n, m)``;
        all before the column, n where there is none.
      starts: first column of each block of the schedule, shape ``(b,)``; the columns of a block are
        not neighbours of one another, and come after all their neighbours' blocks.
      sizes: number of columns in each block, shape ``(b,)``.
      width: most columns in a block.
    """

    neighbors: Int[Array, "n m"]
    starts: Int[Array, " b"]
    sizes: Int[Array, " b"]
    width: int = static()

    @property
    def size(self) -> int:
        """Number n of columns."""
        return self.neighbors.shape[0]

    @property
    def num_neighbors(self) -> int:
        """Number m of neighbours."""
        return self.neighbors.shape[1]


def dependency_levels(neighbors: np.ndarray) -> np.ndarray:
    """The length of the longest chain of neighbours that leads up to each point.

    Points of one level are not neighbours of one another: a solve can take them together.

    Args:
      neighbors: shape ``(n, m)``, int32; indices below the row's own, n where there are none.

    Returns:
      Shape ``(n,)``, int32, from 0.

    Complexity:
      O(n m).
    """
    return np.asarray(_levels(neighbors))


@jax.jit
def _levels(neighbors: jax.Array) -> jax.Array:
    n = neighbors.shape[0]

    def one(k: jax.Array, levels: jax.Array) -> jax.Array:
        near = lax.dynamic_index_in_dim(neighbors, k, keepdims=False)
        return levels.at[k].set(1 + jnp.max(levels[near], initial=-1))

    return lax.fori_loop(0, n, one, jnp.full(n + 1, -1, jnp.int32))[:n]


def level_blocks(
    levels: np.ndarray, width: int | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Cut points that are sorted by level into blocks of one width, none across two levels.

    Blocks are short enough that little is padded and long enough that there are not too many; their
    width depends on n only and their number is a round one, so that graphs of as many points share
    compiled code.

    Args:
      levels: shape ``(n,)``, sorted.
      width: most points in a block; chosen if not given.

    Returns:
      Starts and sizes of the blocks, int32, the last ones empty, and the width.
    """
    n, counts = len(levels), np.bincount(levels)
    if width is None:
        width = 1 << max(0, round(math.log2(_WIDTH * math.sqrt(n))))
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    starts = [np.arange(s, s + c, width) for s, c in zip(first, counts, strict=True)]
    sizes = [np.minimum(width, s + c - b) for s, c, b in zip(first, counts, starts, strict=True)]
    spare = rounded(sum(map(len, starts))) - sum(map(len, starts))
    starts = np.concatenate([*starts, np.full(spare, n)])
    sizes = np.concatenate([*sizes, np.zeros(spare, int)])
    return starts.astype(np.int32), sizes.astype(np.int32), width


def rounded(count: int) -> int:
    """The next integer of at most three binary digits and zeros behind."""
    step = 2 ** max(0, int(count).bit_length() - 3)
    return -(-count // step) * step
