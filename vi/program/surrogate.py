r"""Surrogates: terms of value zero whose gradient is that of the law of the draws.

The program's own gradient goes through draws and densities. To it is added, for each site s,

.. math:: \operatorname{stop}(A_s) \log q_s(z_s)
    \qquad\text{or}\qquad \sum_a \operatorname{stop}(A_{s,a}) W_{s,a},

with :math:`A` what the site does to the objective: the difference that replacing its draw makes.
Where the objective is affine in the log densities, the difference is a sum of their terms, each
counted at the plates it shares with the site; otherwise the program is replayed.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vi.program.axis import local_to
from vi.program.bound import Bound, Numbers
from vi.program.tape import DensityCall, DrawCall, Draws, Term

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

    def downstream(self, owner: int, sites: list[Term], costs: Any, *, each: bool = False) -> Array:
        """Sums of the costs that depend on each of some sites, ``(S, R, *batch or 1)``.

        Costs of one shape are summed in one operation, so that the traced program does not grow
        with the number of pairs.

        Args:
          owner: the call that drew the sites.
          sites: of the same plates.
          costs: contributions of the density terms.
          each: whether the costs have a leading axis of their own for each site.
        """
        groups: dict[tuple, list[tuple[np.ndarray, Array]]] = {}
        calls = (call for call in self.bound.calls if isinstance(call, DensityCall))
        for call, values in zip(calls, costs, strict=True):
            for term, value in zip(call.terms, values, strict=True):
                above = self.parents(call.side, term.name) if call.owner == owner else ()
                depends = np.array([site.name in above for site in sites])
                if not depends.any():
                    continue
                local = lambda x, plates=term.plates: local_to(x, plates, sites[0])
                part = jax.vmap(local)(value) if each else local(value)[None]
                groups.setdefault(part.shape, []).append((depends, part))
        if not groups:
            return jnp.zeros((len(sites), *(1,) * sites[0].value.ndim))
        sums = []
        for found in groups.values():
            mask = np.stack([depends for depends, _ in found], 1)
            if mask.all():
                sums += [part for _, part in found]
                continue
            parts = jnp.stack([part for _, part in found], 1)
            mask = mask.reshape(*mask.shape, *(1,) * (parts.ndim - 2))
            sums.append(jnp.where(mask, parts, 0).sum(1))
        return sum(sums[1:], start=sums[0])

    def scores(self, owner: int, draws: Draws) -> Array:
        """Surrogate of the score sites."""
        out = jnp.zeros(())
        for alike in _alike(draws.scores, lambda site: site.term):
            advantages = self.downstream(owner, [site.term for site in alike], self.at)
            for site, advantage in zip(alike, advantages, strict=True):
                if site.baseline == "leave_one_out":
                    advantage = advantage - others(advantage, draws)
                elif not isinstance(site.baseline, str):
                    advantage = advantage - site.scale / draws.particles * site.baseline
                own = self.own(owner, site.term.name) if site.held else jnp.zeros(())
                out = out + own + only_gradient(jnp.sum(stop(advantage) * site.term.value))
        return out

    def alternatives(self, owner: int, draws: Draws, there: Any) -> Array:
        """Surrogate of sites replaced by other values; ``there`` has their costs, one by one.

        The change of the costs is taken from the draw itself.
        """
        places = draws.places()
        out = jnp.zeros(())
        for alike in _alike(draws.alternatives.values(), lambda other: other.weights):
            sites = [other.weights._replace(value=other.weights.value[:, 0]) for other in alike]
            ours = np.concatenate([places[site.name] for site in sites])
            counts = [len(places[site.name]) for site in sites]
            one_by_one = [site for site, n in zip(sites, counts, strict=True) for _ in range(n)]
            costs = jax.tree.map(lambda x, ours=ours: x[ours], there)
            here = jnp.repeat(self.downstream(owner, sites, self.at), np.array(counts), axis=0)
            change = self.downstream(owner, one_by_one, costs, each=True) - here
            parts = jnp.split(change, np.cumsum(counts)[:-1])
            for other, advantage in zip(alike, parts, strict=True):
                weights = jnp.moveaxis(other.weights.value, 1, 0)
                own = self.own(owner, other.weights.name)
                out = out + own + only_gradient(jnp.sum(stop(advantage) * weights))
        return out


def _alike(sites: Iterable[Any], term: Callable[[Any], Term]) -> list[list[Any]]:
    """Sites grouped by their plates and the number of their dimensions."""
    groups: dict[tuple, list[Any]] = {}
    for site in sites:
        at = term(site)
        groups.setdefault((at.value.ndim, *sorted(at.plates.items())), []).append(site)
    return list(groups.values())


class Replayed:
    """Advantages under any objective: it is replayed with one particle replaced.

    ``uses`` says whether its value depends on the draws other than through log densities.
    """

    def __init__(self, bound: Bound, at: Numbers, *, uses: bool):
        self.bound, self.uses = bound, uses
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
            if not isinstance(call, DrawCall):
                out.append(row(new, old) if call.owner == owner else old)
            elif i != owner:
                out.append(old)
            elif self.uses:
                out.append(jax.tree.map(row, new, old))
            else:
                out.append((old[0], row(new[1], old[1])))
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

    def scores(self, owner: int, draws: Draws) -> Array:
        """Surrogate of the score sites."""
        out = jnp.zeros(())
        centred = None
        for site in draws.scores:
            advantage = self.each[None]
            if site.baseline == "leave_one_out":
                if centred is None:  # the same for all sites
                    centred = -self._advantage(owner, draws, self._left_out(draws))
                advantage = centred
            elif not isinstance(site.baseline, str):
                prediction = site.term._replace(value=site.baseline[None])
                advantage = (
                    advantage - self.bound.axis.scale * self.bound.axis.gather(prediction)[0]
                )
            log_q, _ = self.bound.axis.gather(site.term)
            out = out + only_gradient(jnp.sum(stop(advantage) * log_q))
        return out

    def alternatives(self, owner: int, draws: Draws, there: Any) -> Array:
        """Surrogate of sites replaced by other values; ``there`` has what the program gets then."""
        advantages = jax.vmap(lambda new: self._advantage(owner, draws, new))(there)
        out = jnp.zeros(())
        for name, other in draws.alternatives.items():
            gather = lambda w, term=other.weights: self.bound.axis.gather(term._replace(value=w))[0]
            weights = jax.vmap(gather, in_axes=1)(other.weights.value)
            advantage = advantages[draws.places()[name]]
            out = out + only_gradient(jnp.sum(stop(advantage) * weights))
        return out
