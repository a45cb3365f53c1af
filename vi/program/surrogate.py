r"""Surrogates: terms of value zero whose gradient is that of the law of the draws.

The program's own gradient goes through draws and densities. To it is added, for each site s,

.. math:: \operatorname{stop}(A_s) \log q_s(z_s)
    \qquad\text{or}\qquad \sum_a \operatorname{stop}(A_{s,a}) W_{s,a},

with :math:`A` what the site does to the objective: the difference that replacing its draw makes.
Where the objective is affine in the log densities, the difference is a sum of their terms, each
counted at the plates it shares with the site; otherwise the program is replayed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vi.program.axis import local_to
from vi.program.bound import Bound, Numbers
from vi.program.tape import DensityCall, DrawCall, Draws, ScoreTerm, Term

stop = jax.lax.stop_gradient
Parents = Callable[[str, str], frozenset[str]]  # (side, term) -> random sites it depends on


def only_gradient(x: Array) -> Array:
    """Zero, with the gradient of ``x``."""
    return x - stop(x)


def others(x: Array, draws: Draws) -> Array:
    """Mean over the other particles of what is in the rows."""
    k = draws.particles
    split = x.reshape(k, draws.branches, *x.shape[1:])
    return ((split.sum(0) - split) / (k - 1)).reshape(x.shape)


class Affine:
    """Advantages under an objective that is affine in the log densities: sums of local costs."""

    def __init__(self, bound: Bound, at: Numbers, parents: Parents):
        self.bound, self.parents = bound, parents
        self.slopes = self._slopes(bound, stop(at))
        self.at = self.look(bound, at)

    @staticmethod
    def _slopes(bound: Bound, at: Numbers) -> Any:
        return jax.grad(lambda terms: bound.value(at._replace(terms=terms)))(at.terms)

    @classmethod
    def look(cls, bound: Bound, at: Numbers) -> Any:
        """Each density term's contribution to the objective, shaped like the term."""
        at = stop(at)
        return jax.tree.map(jnp.multiply, cls._slopes(bound, at), at.terms)

    def own(self, owner: int, name: str) -> Array:
        """Takes the gradient of a held site's own density out of the program: mean-zero noise."""
        out = jnp.zeros(())
        calls = (call for call in self.bound.calls if isinstance(call, DensityCall))
        for call, slopes in zip(calls, self.slopes, strict=True):
            for term, slope in zip(call.terms, slopes, strict=True):
                if call.owner == owner and call.side == "q" and term.name == name:
                    out = out - only_gradient(jnp.sum(slope * term.value))
        return out

    def downstream(
        self, owner: int, site: Term, costs: Any, pick: Callable[[Array], Array] = lambda x: x
    ) -> Array:
        """Sum of the costs that depend on a site, at the site's plates: ``(R, *batch or 1)``."""
        parts = []
        calls = (call for call in self.bound.calls if isinstance(call, DensityCall))
        for call, values in zip(calls, costs, strict=True):
            for term, value in zip(call.terms, values, strict=True):
                if call.owner == owner and site.name in self.parents(call.side, term.name):
                    parts.append(local_to(pick(value), term.plates, site))
        return sum(parts[1:], start=parts[0]) if parts else jnp.zeros((1,) * site.value.ndim)

    def score(self, owner: int, draws: Draws, site: ScoreTerm) -> Array:
        """Surrogate of a score site."""
        advantage = self.downstream(owner, site.term, self.at)
        if site.baseline == "leave_one_out":
            advantage = advantage - others(advantage, draws)
        elif not isinstance(site.baseline, str):
            advantage = advantage - site.scale / draws.particles * site.baseline
        own = self.own(owner, site.term.name) if site.held else jnp.zeros(())
        return own + only_gradient(jnp.sum(stop(advantage) * site.term.value))

    def alternative(self, owner: int, site: Term, there: Any, first: int) -> Array:
        """Surrogate of a site replaced by other values; ``there`` has their costs from ``first``.

        The change of the costs is taken from the draw itself.
        """
        one = site._replace(value=site.value[:, 0])
        here = self.downstream(owner, one, self.at)
        count = site.value.shape[1]

        def at(i: Array) -> Array:
            return self.downstream(owner, one, there, lambda x: x[first + i]) - here

        advantage = jax.vmap(at, out_axes=1)(jnp.arange(count))
        own = self.own(owner, site.name)
        return own + only_gradient(jnp.sum(stop(advantage) * site.value))


class Replayed:
    """Advantages under any objective: it is replayed with one particle replaced."""

    def __init__(self, bound: Bound, at: Numbers):
        self.bound = bound
        self.at = self.look(bound, at)
        self.each = bound.each(self.at)

    @staticmethod
    def look(bound: Bound, at: Numbers) -> Any:
        """What the program is handed."""
        return bound.hand(stop(at))

    def _replace(self, owner: int, k: Array, there: Any) -> list[Any]:
        """What it is handed when particle ``k`` is the one of ``there``."""

        def row(new: Array, old: Array) -> Array:
            mask = jnp.arange(old.shape[0]) == k
            return jnp.where(mask.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

        out = []
        for i, (call, new, old) in enumerate(zip(self.bound.calls, there, self.at, strict=True)):
            own = i == owner if isinstance(call, DrawCall) else call.owner == owner
            out.append(jax.tree.map(row, new, old) if own else old)
        return out

    def _advantage(self, owner: int, draws: Draws, there: Any) -> Array:
        """Objective after less before replacing each particle by that of ``there``."""
        one = lambda k: self.bound.each(self._replace(owner, k, there)) - self.each
        return jax.vmap(one)(jnp.arange(draws.particles))

    def _left_out(self, draws: Draws) -> list[Any]:
        """Stand-ins made of other particles: mean log densities, and the next one's draws."""
        ahead = lambda x: jnp.roll(x, -1, axis=0)
        return [
            (jax.tree.map(ahead, now[0]), now[1])
            if isinstance(call, DrawCall)
            else (others(now, draws) if now.shape[0] == draws.rows else now)
            for call, now in zip(self.bound.calls, self.at, strict=True)
        ]

    def score(self, owner: int, draws: Draws, site: ScoreTerm) -> Array:
        """Surrogate of a score site."""
        if site.baseline == "leave_one_out":
            advantage = -self._advantage(owner, draws, self._left_out(draws))
        else:
            advantage = self.each[None]
            if not isinstance(site.baseline, str):
                prediction = site.term._replace(value=site.baseline[None])
                advantage = (
                    advantage - self.bound.axis.scale * self.bound.axis.gather(prediction)[0]
                )
        log_q, _ = self.bound.axis.gather(site.term)
        return only_gradient(jnp.sum(stop(advantage) * log_q))

    def alternative(self, owner: int, site: Term, there: Any, first: int) -> Array:
        """Surrogate of a site replaced by other values, in ``there`` from ``first`` on."""
        draws = self.bound.calls[owner].draws  # type: ignore[union-attr]
        mine = jax.tree.map(lambda x: x[first : first + site.value.shape[1]], there)
        advantage = jax.vmap(lambda new: self._advantage(owner, draws, new))(mine)
        weights = jax.vmap(lambda w: self.bound.axis.gather(site._replace(value=w))[0], in_axes=1)(
            site.value
        )
        return only_gradient(jnp.sum(stop(advantage) * weights))
