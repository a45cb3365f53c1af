"""Data axes: plates along which an objective is taken datum by datum, then summed."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from vi.program.tape import Draws, Term, uniform


class Plate(NamedTuple):
    """A plate of the guide or the model: its dimension, its size, and the rows taken of it."""

    dim: int
    size: int
    rows: int


class Axis(NamedTuple):
    """The plates along which a program is mapped; none: it sees whole log densities.

    A program written for one datum is run for each of the rows, and its values are summed and
    scaled by N/B. Parts of a log density outside the plates are split evenly over the data.
    """

    plates: tuple[tuple[str, Plate], ...] = ()  # leftmost dimension first

    @classmethod
    def of(cls, names: frozenset[str], plates: dict[str, Plate]) -> "Axis":
        """The axis made of the plates of the given names."""
        chosen = ((name, plates[name]) for name in names)
        return cls(tuple(sorted(chosen, key=lambda item: item[1].dim)))

    @property
    def names(self) -> frozenset[str]:
        """The plates' names."""
        return frozenset(name for name, _ in self.plates)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows taken of each plate."""
        return tuple(plate.rows for _, plate in self.plates)

    @property
    def scale(self) -> float:
        """N/B."""
        return math.prod(plate.size / plate.rows for _, plate in self.plates)

    @property
    def size(self) -> int:
        """N."""
        return math.prod(plate.size for _, plate in self.plates)

    def gather(self, term: Term) -> tuple[Array, float]:
        """``(R, *B or 1)``: the term summed over all other dimensions; and 1 over what is missing.

        A term outside one of the plates has a dimension of size 1 there.
        """
        own = {dim for name, dim in term.plates.items() if name in self.names}
        value = keep(term.value, own)
        depth = max((-plate.dim for _, plate in self.plates), default=0)
        batch = value.shape[1:]
        batch = (1,) * (depth - len(batch)) + batch
        shape = tuple(batch[plate.dim] for _, plate in self.plates)
        missing = math.prod(p.rows for name, p in self.plates if name not in term.plates)
        return value.reshape(value.shape[0], *shape), 1 / missing

    def totals(self, terms: tuple[Term, ...]) -> Array:
        """Log density of each row and datum, ``(R, *B)``, not scaled by N/B."""
        parts = []
        for term in terms:
            value, share = self.gather(term)
            parts.append(value * (share / self.scale) if self.plates else value)
        out = sum(parts[1:], start=parts[0])
        return jnp.broadcast_to(out, (out.shape[0], *self.shape))

    def weights(self, draws: Draws, log_weights: tuple[Array, ...]) -> Array:
        """Weights of the rows for each datum, ``(R, *B)``; they sum to one over the rows."""
        if draws.weights is not None:
            return draws.weights
        if not draws.log_weights:
            equal = uniform(draws).reshape(-1, *(1,) * len(self.shape))
            return jnp.broadcast_to(equal, (draws.rows, *self.shape))
        named = zip(draws.log_weights, log_weights, strict=True)
        parts = [self.gather(term._replace(value=value))[0] for term, value in named]
        log_weight = sum(parts[1:], start=parts[0])
        weight = jnp.exp(log_weight) / draws.particles
        return jnp.broadcast_to(weight, (draws.rows, *self.shape))


def keep(value: Array, dims: set[int]) -> Array:
    """Sum over all batch dimensions but those kept; summed ones keep size 1; rows stay."""
    drop = tuple(d for d in range(-(value.ndim - 1), 0) if d not in dims)
    return value.sum(drop, keepdims=True) if drop else value


def local_to(value: Array, plates: dict[str, int], site: Term) -> Array:
    """A cost ``(R, *batch)`` as a site sees it: summed over what is not the site's own plate."""
    shared = {dim for name, dim in plates.items() if site.plates.get(name) == dim}
    value = keep(value, shared)
    ndim = site.value.ndim
    if value.ndim > ndim:  # the leading ones are summed to size 1
        value = value.reshape(value.shape[0], *value.shape[1 + value.ndim - ndim :])
    return value.reshape(value.shape[0], *(1,) * (ndim - value.ndim), *value.shape[1:])
