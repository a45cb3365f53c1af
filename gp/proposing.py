"""Bayesian optimisation under constraints that are unknown too: where to look next, or nowhere."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from gp.search import checked_bounds, search_box


class Proposal(NamedTuple):
    """Where to evaluate next.

    Attributes:
      x: the point, shape ``(D,)``.
      feasible: whether some point may satisfy all constraints. If not, the problem is declared
        infeasible, and the point is where the constraints are violated least.
      bound: the objective is not below this at any feasible point, as far as is known; NaN if
        there is no such point.
      violations: the least that each constraint can be at the point; positive ones are violated.
    """

    x: Float[np.ndarray, " D"]
    feasible: bool
    bound: float
    violations: Float[np.ndarray, " C"]


def propose(
    objective: Any,
    bounds: Float[Any, "D 2"],
    *,
    key: Array,
    constraints: Sequence[Any] = (),
    width: float = 2.0,
    num_points: int = 1024,
    num_rounds: int = 20,
) -> Proposal:
    r"""The next point to evaluate of a function to be minimised under constraints (CONFIG).

    .. math::

       x \in \arg\min_{x} \; \ell_0(x) \quad \text{s.t.} \quad \ell_i(x) \le 0, \qquad
       \ell_i(x) = μ_i(x) - \sqrt β\, σ_i(x)

    Objective and constraints :math:`f_i(x) \le 0` are processes of their own, and all are taken at
    the best that they may still be. If no point satisfies the relaxed constraints, the problem is
    declared infeasible. Without constraints it is the lower confidence bound (GP-LCB). Where the
    functions are in the kernel's space with norm B, with :math:`\sqrt{β_t} = B + R \sqrt{2
    (γ_{t-1} + 1 + \log((C + 1)/δ))}` (R of the noise, γ the information gain) a declaration is
    right with probability 1 - δ, and cumulative regret and violations are :math:`O(γ_T \sqrt T)`;
    in practice it is a constant of 2 or 3. Maximise by giving minus the values.

    Args:
      objective: anything with ``predict(x) -> (mean, variance)``: a `gp.Posterior` of any method,
        or a `gp.Stream`, which takes each new value without fitting again.
      bounds: lowest and highest coordinates.
      key: a key, for the search.
      constraints: likewise, one for each constraint.
      width: :math:`\sqrt β`.
      num_points: of the search; see `search_box`.
      num_rounds: of it.

    Returns:
      The proposal.

    Raises:
      ValueError: if the bounds are no box, or the width is not positive.

    Complexity:
      Predictions at ``num_points + 256 num_rounds`` points by each process.

    Example:
      >>> import gp, jax, jax.numpy as jnp
      >>> x = jnp.linspace(0.0, 1.0, 8)
      >>> fit = lambda y: gp.fit(x, y, key=jax.random.key(0), train=False)
      >>> f, g = fit((x - 0.2) ** 2), fit(0.5 - x)  # the least of f where g is not positive
      >>> found = gp.propose(f, [[0.0, 1.0]], key=jax.random.key(1), constraints=[g])
      >>> found.feasible
      True
      >>> gp.propose(f, [[0.0, 1.0]], key=jax.random.key(1), constraints=[fit(1 + x)]).feasible
      False

    Reference: Xu, Jiang, Svetozarevic and Jones (2023), "Constrained efficient global optimization
    of expensive black-box functions", algorithm 1.
    """
    checked_bounds(bounds, "propose")
    if not width > 0:
        raise ValueError(f"propose: expected width > 0; got {width}.")

    def lowest(process: Any, x: np.ndarray) -> np.ndarray:
        mean, variance = process.predict(x)
        return np.asarray(mean, float) - width * np.sqrt(np.asarray(variance, float))

    def violated(x: np.ndarray) -> np.ndarray:
        bounds = [lowest(process, x) for process in constraints]
        return np.stack(bounds) if bounds else np.zeros((0, len(x)))

    options = {"key": key, "num_points": num_points, "num_rounds": num_rounds}
    starts = None
    if constraints:
        total = lambda x: np.sum(np.maximum(violated(x), 0.0), 0)
        nearest = search_box(total, bounds, **options)
        if nearest.value > 0:
            least = violated(nearest.x[None])[:, 0]
            return Proposal(nearest.x, False, math.nan, least)  # noqa: FBT003
        starts = nearest.x[None]

    def relaxed(x: np.ndarray) -> np.ndarray:
        return np.where(np.all(violated(x) <= 0, 0), lowest(objective, x), np.inf)

    best = search_box(relaxed, bounds, starts=starts, **options)
    return Proposal(best.x, True, best.value, violated(best.x[None])[:, 0])  # noqa: FBT003
