"""Moments and draws of the function at new points, which come last in the order."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gp.sic.columns import conditional_columns, gather
from gp.sic.conditional import SICFactor
from gp.sic.groups import Groups
from gp.sic.pattern import Pattern
from gp.sic.solve import solve, solve_transposed, transposed_product
from gp.sic.variances import half_norms
from vi.compile import quick_jit


class Known(NamedTuple):
    """What predictions are made from; all by position."""

    kernel: Any
    mean: Any
    inputs: Float[Array, "n D"]
    pattern: Pattern
    factor: SICFactor


@quick_jit
def marginal_moments(
    known: Known, x_new: Float[Array, "q D"], near: Int[Array, "q w"], groups: Groups
) -> tuple[Float[Array, " q"], Float[Array, " q"]]:
    r"""Means and variances of new points, each given the data alone.

    With c the kriging weights :math:`-U_{J*}/U_{**}` of the neighbours J, and the nugget δ, if one
    was needed, taken out again,

    .. math::

       m_* = μ_* + c^T (ν_J - μ_J), \qquad v_* = U_{**}^{-2} - δ + \|V^{-1} c\|^2 .

    Args:
      known: the posterior.
      x_new: the new points.
      near: positions of their neighbours.
      groups: groups of new points.

    Returns:
      Means and variances.

    Complexity:
      O(q w³ + q P²) time, O(q w) memory.
    """
    nugget = known.factor.nugget
    columns, _ = conditional_columns(known.kernel, known.inputs, x_new, near, nugget)
    weights = -columns[:, :-1] / columns[:, -1:]
    mean = known.mean(x_new) + jnp.sum(weights * gather(known.factor.shift, near), axis=1)
    sets = near.at[groups.members].get(mode="fill", fill_value=known.pattern.size)
    values = gather(weights, groups.members)
    posterior = functools.partial(gather, known.factor.posterior)
    norms = half_norms(known.pattern, posterior, groups.ancestors, sets, values)
    spread = jnp.zeros_like(mean).at[groups.members].set(norms, mode="drop")
    return mean, jnp.maximum(columns[:, -1] ** -2 - nugget, 0) + spread


def _joint(known: Known, x_new: Array, pattern: Pattern) -> tuple[Array, Array, Array]:
    """Columns of the factor of data and new points, V^T (ν - μ), and the mean at new points."""
    n, old = len(known.inputs), known.factor.posterior
    inputs = jnp.concatenate([known.inputs, x_new])
    near, nugget = pattern.neighbors[n:], known.factor.nugget
    new, _ = conditional_columns(known.kernel, inputs, x_new, near, nugget)
    gap = new.shape[1] - old.shape[1]  # more neighbours, where the graph is that of the process
    old = jnp.concatenate([old[:, :-1], jnp.zeros((n, gap), old.dtype), old[:, -1:]], axis=1)
    white = transposed_product(known.pattern, known.factor.posterior, known.factor.shift)
    return jnp.concatenate([old, new]), jnp.pad(white, (0, len(x_new))), known.mean(x_new)


@quick_jit
def joint_moments(
    known: Known, x_new: Float[Array, "q D"], place: Int[Array, " q"], pattern: Pattern
) -> tuple[Float[Array, " q"], Float[Array, "q q"]]:
    r"""Means and covariance of new points, each given the data and the new points before it.

    The precision of data and new points together has the factor

    .. math:: \begin{pmatrix} V & U_{J*} \\ 0 & U_{**} \end{pmatrix},

    since new points have no data of their own.

    Args:
      known: the posterior.
      x_new: the new points, in the pattern's order.
      place: where each point of the result is in that order.
      pattern: of data and new points.

    Returns:
      Means and the covariance.

    Complexity:
      O(n m q) time, O(n q) memory.
    """
    n, count = len(known.inputs), len(x_new)
    columns, white, mu = _joint(known, x_new, pattern)
    shift = solve_transposed(pattern, columns, white)[n:]
    ends = jnp.concatenate([jnp.zeros((n, count), mu.dtype), jnp.eye(count, dtype=mu.dtype)])
    half = solve(pattern, columns, ends[:, place])
    own = known.factor.nugget * jnp.eye(count, dtype=mu.dtype)
    return (mu + shift)[place], half.T @ half - own


@quick_jit
def joint_draws(
    known: Known,
    noise: Float[Array, "S n_and_q"],
    x_new: Float[Array, "q D"],
    place: Int[Array, " q"],
    pattern: Pattern,
) -> Float[Array, "S q"]:
    """Draws of the function at new points, together with the data.

    Args:
      known: the posterior.
      noise: standard normal.
      x_new: the new points, in the pattern's order.
      place: where each point of the result is in that order.
      pattern: of data and new points.

    Returns:
      The draws.

    Complexity:
      O(S (n + q) m).
    """
    columns, white, mu = _joint(known, x_new, pattern)
    draws = solve_transposed(pattern, columns, white[:, None] + noise.T)[len(known.inputs) :]
    return (mu[:, None] + draws)[place].T
