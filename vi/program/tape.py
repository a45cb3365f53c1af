"""What a program does while it runs: it draws, and it asks for log densities.

A program is run once on real draws, and recorded. Everything it was handed is then known, and
it can be run again on other numbers, at no evaluation of the model: with one particle replaced,
datum by datum, or differentiated in the log densities. All estimators are made of such replays.
"""

import dataclasses
from typing import Any, Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state
from jaxtyping import Array, Float

from vi.errors import TargetError

Through = Literal["both", "draws", "parameters"]
Side = Literal["p", "prior", "likelihood", "q"] | Any  # or what is known in closed form
Kind = Literal["equal", "path", "weighted", "detached", "prior", "joint"]
ATTACHED = ("equal", "path", "weighted")  # draws of q whose law the gradient knows of


class Term(NamedTuple):
    """One site's part of a log density: ``(R, *batch)``, with the plates among its dimensions."""

    name: str
    value: Array
    plates: dict[str, int]  # name of a plate -> its dimension, negative


class ScoreTerm(NamedTuple):
    """Log density of a site at its draws, with live parameters; and how its cost is centred.

    The baseline is ``"leave_one_out"``, ``"none"`` or a prediction for each datum; ``scale`` is
    N/B of the site's plates; ``held`` says whether the draw itself carries no gradient.
    """

    term: Term
    baseline: Any
    scale: float = 1.0
    held: bool = True


class Alternatives(NamedTuple):
    """Other values of a site, and weights whose gradient is that of the site's law.

    The weights have the value zero: ``(R, A, *batch)``; values ``(R, A, *shape)``.
    """

    values: Array
    weights: Term


@dataclasses.dataclass(frozen=True)
class Draws:
    """Draws as they are handed to a program, in R = K × V rows.

    Attributes:
      values: what the program sees; a leading axis of R rows.
      particles: K, independent draws.
      branches: V, joint values of the enumerated sites.
      weights: ``(R,)``, of families whose draws are weighted; they sum to one.
      log_weights: log probabilities of enumerated values, by site.
      scores: sites with a score-function term.
      alternatives: sites with differences to other values.
      context: what the source keeps for itself.
    """

    values: Any
    particles: int
    branches: int = 1
    weights: Array | None = None
    log_weights: tuple[Term, ...] = ()
    scores: tuple[ScoreTerm, ...] = ()
    alternatives: dict[str, Alternatives] = dataclasses.field(default_factory=dict)
    context: Any = None

    @property
    def rows(self) -> int:
        """R."""
        return self.particles * self.branches

    @property
    def plain(self) -> bool:
        """Whether the path alone carries the gradient."""
        return not (self.log_weights or self.scores or self.alternatives)

    def places(self) -> dict[str, np.ndarray]:
        """Where the other values of each site are among those of all."""
        counts = [other.values.shape[1] for other in self.alternatives.values()]
        ends = np.cumsum(counts)
        ranges = (np.arange(end - n, end) for n, end in zip(counts, ends, strict=True))
        return dict(zip(self.alternatives, ranges, strict=True))


class DrawCall(NamedTuple):
    """The program took draws."""

    draws: Draws
    kind: Kind


class DensityCall(NamedTuple):
    """The program asked for a log density at the draws of call ``owner`` (None: elsewhere).

    ``constant``: it got a closed form that depends on no draws.
    """

    side: Side
    terms: tuple[Term, ...]
    owner: int | None
    through: Through | Literal["closed"]
    constant: bool = False


Call = DrawCall | DensityCall


class Source(Protocol):
    """Where draws and log densities come from: a family with a target, a guide with a model."""

    def draw(self, index: int, num_particles: int, *, weighted: bool, detached: bool) -> Draws:
        """Draws for the program's call number ``index``."""
        ...

    def prior(self, index: int, num_particles: int) -> Draws:
        """Draws of the model's latent sites, for the program's call number ``index``."""
        ...

    def joint(self, index: int, num_particles: int, arguments: Any) -> Draws:
        """Draws of the model's latent sites with data, for the program's call number ``index``."""
        ...

    def terms(self, side: Side, z: Any, draws: Draws | None, through: Through) -> tuple[Term, ...]:
        """Log density at ``z``, site by site."""
        ...

    def parents(self, side: Any, term: str) -> frozenset[str]:
        """The random sites that a term of a log density depends on."""
        ...

    def closed(self, side: Any, draws: Draws) -> tuple[Term, ...]:
        """Expectations given the draws of parents, in closed form where there is one."""
        ...


class Recording:
    """Runs a program on real draws and keeps what it was handed."""

    def __init__(self, source: Source, default: Through):
        self.default: Through
        self.source, self.default = source, default
        self.calls: list[Call] = []
        self.here = get_opaque_trace_state()

    def _check(self, what: str) -> None:
        """A call inside a transformation would be recorded, and replayed, without it."""
        if get_opaque_trace_state() != self.here:
            raise TargetError(
                f"objective: expected {what} outside of JAX transformations; the program calls it "
                "inside jax.vmap, jax.lax.scan, jax.jit, jax.grad or the like. Call it first, with "
                "all draws at once, and transform what is done with the values."
            )

    def draw(self, num_particles: int, kind: Kind, arguments: Any = ()) -> tuple[Any, Array]:
        """Values, and weights that sum to one."""
        self._check("q.sample and q.expect")
        if not isinstance(num_particles, (int, np.integer)):
            raise TypeError(
                "objective: expected an integer number of particles: it is a shape, and cannot be "
                f"scheduled or traced; got {num_particles!r}."
            )
        if num_particles < 1:
            raise ValueError(f"objective: expected at least one particle; got {num_particles}.")
        index = sum(isinstance(call, DrawCall) for call in self.calls)
        if kind == "prior":
            draws = self.source.prior(index, num_particles)
        elif kind == "joint":
            draws = self.source.joint(index, num_particles, arguments)
        else:
            weighted, detached = kind == "weighted", kind == "detached"
            draws = self.source.draw(index, num_particles, weighted=weighted, detached=detached)
        if kind == "path" and not draws.plain:
            raise TargetError(
                "objective: expected reparameterised sites only, since this program asks for paths "
                "(reparameterized=True, or vi.piwae); some site is scored, enumerated or "
                "measure-valued. Use vi.Pathwise() or vi.Relaxed() for all sites, or another form "
                "of the objective."
            )
        self.calls.append(DrawCall(draws, kind))
        return draws.values, uniform(draws) if draws.weights is None else draws.weights

    def density(self, side: Any, z: Any, through: Through | None) -> Array:
        """Log density of the rows of ``z``."""
        self._check("log_density")
        if through not in (None, *get_args(Through)):
            raise ValueError(
                f"log_density: expected through out of {get_args(Through)}; got {through!r}."
            )
        owner, draws = self._owner(z)
        if through is None:
            moving = owner is None or self.calls[owner].kind in ATTACHED  # type: ignore[union-attr]
            through = self.default if side == "q" and moving else "both"
        terms = self.source.terms(side, z, draws, through)
        self.calls.append(DensityCall(side, terms, owner, through))
        return total(terms)

    def closed(self, side: Any, z: Any) -> Array:
        """Closed forms, or values at the draws, of the rows of ``z``."""
        self._check("closed forms")
        owner, draws = self._owner(z)
        if draws is None:
            raise TargetError(
                "objective: expected closed forms at the draws as q.sample or q.expect gave them, "
                "which say what they are conditional on. Pass the draws unchanged."
            )
        terms = self.source.closed(side, draws)
        constant = not any(self.source.parents(side, term.name) for term in terms)
        self.calls.append(DensityCall(side, terms, owner, "closed", constant))
        return total(terms)

    def _owner(self, z: Any) -> tuple[int | None, Draws | None]:
        """The call whose draws these are."""
        for i, call in enumerate(self.calls):
            if isinstance(call, DrawCall) and call.draws.values is z:
                return i, call.draws
        return None, None


class Replaying:
    """Runs a program on numbers handed to it, in the order in which it asked for them."""

    def __init__(self, handed: list[Any]):
        self.rest = iter(handed)

    def draw(self, num_particles: int, kind: Kind, arguments: Any = ()) -> tuple[Any, Array]:
        """The next numbers, which are draws and weights."""
        del num_particles, kind, arguments
        return next(self.rest)

    def density(self, side: Any, z: Any, through: Through | None) -> Array:
        """The next numbers, which are a log density."""
        del side, z, through
        return next(self.rest)

    def closed(self, side: Any, z: Any) -> Array:
        """The next numbers, which are closed forms."""
        del side, z
        return next(self.rest)


def uniform(draws: Draws) -> Float[Array, " R"]:
    """Equal weights of the rows, in the dtype of the draws."""
    floating = [x for x in jax.tree.leaves(draws.values) if jnp.issubdtype(x.dtype, jnp.floating)]
    dtype = jnp.result_type(*floating) if floating else jnp.result_type(float)
    return jnp.full(draws.rows, 1 / draws.rows, dtype)


def total(terms: tuple[Term, ...]) -> Float[Array, " R"]:
    """The log density of each row."""
    parts = [t.value.reshape(t.value.shape[0], -1).sum(-1) for t in terms]
    return sum(parts[1:], start=parts[0])
