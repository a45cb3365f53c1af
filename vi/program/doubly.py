r"""Double reparameterisation: scores become paths, of the guide and, generalised, of the model.

With :math:`F_i` the derivative of the objective in log density i of a particle, and
:math:`F_{ij}` that of :math:`F_i` in log density j of the same particle, a score moved to a path
has the coefficient :math:`\sum_j F_{ij} \nabla_z \log p_j`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vi.program.bound import Bound, Numbers
from vi.program.surrogate import only_gradient, stop
from vi.program.tape import DensityCall, Term


class Moved(NamedTuple):
    """Latent sites of the model as its parameters move them, at the quantiles of the draws.

    Attributes:
      z: the draws, such sites with the gradient of the model's path, the others with none.
      own: for each of them, the change of its own log density along its path: zero.
    """

    z: Any
    own: tuple[Term, ...]


def doubly_reparameterized(
    bound: Bound,
    at: Numbers,
    through: Callable[[DensityCall, str], tuple[Term, ...]],
    moved: Moved | None,
    there: Callable[[str], tuple[Term, ...]],
) -> Array:
    """Surrogate of the whole gradient of an objective of densities at reparameterised draws.

    Args:
      bound: the program, recorded.
      at: its numbers.
      through: the terms of a density call again, with the gradient through one thing only.
      moved: sites of the model whose scores are reparameterised too.
      there: log density of a side at those, with stopped parameters.

    Returns:
      Zero, with the gradient of `DoublyReparameterized`.
    """
    handed = bound.hand(stop(at))
    dense = [i for i, call in enumerate(bound.calls) if isinstance(call, DensityCall)]
    calls: list[Any] = [bound.calls[i] for i in dense]
    totals = [handed[i] for i in dense]

    def slopes(totals: list[Array]) -> list[Array]:
        def objective(totals: list[Array]) -> Array:
            mixed = list(handed)
            for i, number in zip(dense, totals, strict=True):
                mixed[i] = number
            return jnp.sum(bound.each(mixed))

        return jax.grad(objective)(totals)

    def curvature(place: int) -> list[Array]:
        """Derivatives in each log density of the slope in that at ``place``, same particle."""

        def one(k: Array) -> list[Array]:
            mask = (jnp.arange(rows) == k).reshape(-1, *(1,) * (totals[0].ndim - 1))
            along = [
                jnp.where(mask, jnp.ones_like(t), 0) if j == place else jnp.zeros_like(t)
                for j, t in enumerate(totals)
            ]
            return [x[k] for x in jax.jvp(slopes, (totals,), (along,))[1]]

        return jax.vmap(one)(jnp.arange(rows))

    rows = totals[0].shape[0]
    first = slopes(totals)
    path = list(first)
    for place, call in enumerate(calls):
        if call.side == "q":
            path = jax.tree.map(jnp.add, path, curvature(place))
    total = bound.axis.totals
    out = jnp.zeros((), totals[0].dtype)
    add = lambda coefficient, value: only_gradient(jnp.sum(stop(coefficient) * value))
    for coefficient, ordinary, call in zip(path, first, calls, strict=True):
        out = out + add(coefficient, total(through(call, "draws")))
        if call.side != "q":
            held = through(call, "parameters")
            names = {term.name for term in moved.own} if moved else set()
            kept = tuple(term for term in held if term.name not in names)
            out = out + (add(ordinary, total(kept)) if kept else 0)
    if moved is None:
        return out
    log_q, own = total(there("q")), total(moved.own)
    densities = {side: total(there(side)) for side in {call.side for call in calls}}
    names = {term.name for term in moved.own}
    for place, call in enumerate(calls):  # those that a moved site's prior is in
        if call.side != "q" and names & {term.name for term in call.terms}:
            out = out + add(first[place], log_q - own)
            for second, other in zip(curvature(place), calls, strict=True):
                out = out + add(second, densities[other.side])
    return out
