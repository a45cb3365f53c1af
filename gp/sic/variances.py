r"""Squared norms of sparse triangular solutions, group by group of nearby points.

Variances and the trace in the Kullback-Leibler divergence are norms :math:`\|V^{-1} b\|^2` of
sparse b. The solution lives on the ancestors of the points on which b does, up to what has died
out; there it is the solution of a small dense triangular system, one for each group.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from gp.sic.columns import gather
from gp.sic.pattern import Pattern
from vi.targets.mesh import mesh_of_rows, whole
from vi.targets.points import over_points


def half_norms(
    pattern: Pattern,
    columns: Callable[[Array], Array],
    ancestors: Int[Array, "g P"],
    sets: Int[Array, "g S M"],
    values: Float[Array, "g S M"],
) -> Float[Array, "g S"]:
    r"""The norms :math:`\|V^{-1} b\|^2` of S sparse vectors b for each group.

    Args:
      pattern: that of the factors.
      columns: those of V at an index, zeros for indices past the end: only the rows that are
        asked for need to exist. A pytree, as of `jax.tree_util.Partial`, if devices share groups.
      ancestors: of each group, sorted; n in free places.
      sets: positions at which b is not zero, among the group's ancestors; n in free places.
      values: of b there, 0 in free places.

    Returns:
      The norms: exact where the ancestors are complete.

    Complexity:
      O(g (P m log P + P² S)) time, O(P²) memory, also for derivatives in columns and values.
    """
    n, width = pattern.size, ancestors.shape[1]
    ranks = jnp.arange(width)

    def one(columns: Callable, neighbors: Array, group: tuple) -> Array:
        here, where, b = group

        def find(index: Array) -> Array:
            rank = jnp.searchsorted(here, index, method="scan_unrolled")
            found = (here.at[rank].get(mode="clip") == index) & (index < n)
            return jnp.where(found, rank, width)

        v = columns(here)
        diagonal = jnp.where(here < n, v[:, -1], 1)
        rows = find(neighbors.at[here].get(mode="fill", fill_value=n))
        block = jnp.zeros((width, width), v.dtype).at[ranks, ranks].set(diagonal)
        block = block.at[rows, ranks[:, None]].set(v[:, :-1], mode="drop")
        rhs = jnp.zeros((width, len(b)), v.dtype)
        rhs = rhs.at[find(where), jnp.arange(len(b))[:, None]].add(b, mode="drop")
        half = lax.linalg.triangular_solve(block, rhs, left_side=True, lower=False)
        return jnp.sum(half**2, axis=0)

    def local(shared: tuple, groups: tuple) -> Array:
        return lax.map(jax.checkpoint(Partial(one, *shared)), groups)

    shared = columns, jnp.asarray(pattern.neighbors)
    groups = whole((jnp.asarray(ancestors), jnp.asarray(sets), values))
    return whole(over_points(local, shared, groups, mesh_of_rows(), fills=(n, n, 0)))


def column_norms(
    pattern: Pattern,
    columns: Float[Array, "n m1"],
    prior: Float[Array, "n m1"],
    members: Int[Array, "g s"],
    ancestors: Int[Array, "g P"],
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    r"""Marginal variances :math:`\|V^{-1} e_k\|^2` and traces :math:`\|V^{-1} U_{:,k}\|^2`.

    Args:
      pattern: that of the factors.
      columns: those of V.
      prior: those of U.
      members: positions in each group.
      ancestors: of each group.

    Returns:
      Both, by position.

    Complexity:
      As of `half_norms`, for S = 2 s.
    """
    sets, u = _columns_of(pattern, prior, members)
    unit = jnp.zeros_like(u).at[..., -1].set(1)
    both = jnp.concatenate([sets, sets], 1), jnp.concatenate([unit, u], 1)
    norms = half_norms(pattern, Partial(gather, columns), ancestors, *both)
    variances, traces = jnp.split(norms, 2, axis=1)
    return _placed(pattern, members, variances), _placed(pattern, members, traces)


def traces_of(
    pattern: Pattern,
    columns: Float[Array, "n m1"],
    prior: Float[Array, "n m1"],
    members: Int[Array, "g s"],
    ancestors: Int[Array, "g P"],
) -> Float[Array, " n"]:
    """The traces alone, at half the cost; see `column_norms`."""
    sets, u = _columns_of(pattern, prior, members)
    norms = half_norms(pattern, Partial(gather, columns), ancestors, sets, u)
    return _placed(pattern, members, norms)


def _columns_of(pattern: Pattern, prior: Array, members: Array) -> tuple[Array, Array]:
    """Positions of the entries of the members' columns of U, and the entries."""
    near = jnp.asarray(pattern.neighbors).at[members].get(mode="fill", fill_value=pattern.size)
    return jnp.concatenate([near, members[..., None]], axis=-1), gather(prior, members)


def _placed(pattern: Pattern, members: Array, values: Array) -> Array:
    return jnp.zeros(pattern.size, values.dtype).at[members].set(values, mode="drop")
