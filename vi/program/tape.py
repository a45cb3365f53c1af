"""What a program does while it runs: it draws, and it asks for log densities.

A program is run once on real draws, and recorded. Everything it was handed is then known, and
it can be run again on other numbers, at no evaluation of the model: with one particle replaced,
datum by datum, or differentiated in the log densities. All estimators are made of such replays.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state
from jaxtyping import Array, Float

from vi.errors import TargetError
from vi.program.expectation import expectation

Through = Literal["both", "draws", "parameters"]
Side = Literal["p", "prior", "likelihood", "q"] | Any  # or what is known in closed form
Kind = Literal["equal", "weighted", "detached", "prior", "joint"]


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


class DrawCall(NamedTuple):
    """The program took draws."""

    draws: Draws


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
        self.calls.append(DrawCall(draws))
        return draws.values, uniform(draws) if draws.weights is None else draws.weights

    def density(self, side: Any, z: Any, through: Through | None) -> Array:
        """Log density of the rows of ``z``."""
        self._check("log_density")
        if through is None:
            through = self.default if side == "q" else "both"
        owner, draws = self._owner(z)
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


class DensityView:
    """A log density as a program sees it."""

    _side: Side = "p"

    def __init__(self, tape: Recording | Replaying):
        self._tape = tape

    def log_density(self, z: Any, through: Through | None = None) -> Float[Array, " K"]:
        """Log density at draws, in nats; of p, unnormalised, and unbiased under subsampling.

        Args:
          z: draws: of a family ``(K, D)``, of a guide a dictionary of its sites.
          through: what the gradient goes through: the ``"draws"``, the ``"parameters"`` of the
            density, or ``"both"``; if not given, both for p, and for q what the estimator says.

        Returns:
          Shape ``(K,)``.
        """
        return self._tape.density(self._side, z, through)


class ModelView(DensityView):
    """A target or model as a program sees it."""

    def log_prior(self, z: Any, through: Through = "both") -> Float[Array, " K"]:
        """Log density of a model's latent sites alone, without its observations.

        Args:
          z: draws of a guide.
          through: as in `log_density`.

        Returns:
          Shape ``(K,)``.

        Raises:
          TargetError: for a `Target`, whose density is not told apart.
        """
        return self._tape.density("prior", z, through)

    def log_likelihood(self, z: Any, through: Through = "both") -> Float[Array, " K"]:
        """Log density of a model's observations alone; arguments as of `log_prior`."""
        return self._tape.density("likelihood", z, through)

    def sample_prior(self, num_particles: int) -> Any:
        """Draws of a model's latent sites from their prior, as a dictionary; not differentiated."""
        return self._tape.draw(num_particles, "prior")[0]

    def simulate(self, num_particles: int, arguments: Sequence[tuple[str, str]]) -> Any:
        """Draws of a model's latent sites and data; log densities at them are given those data.

        Args:
          num_particles: K.
          arguments: pairs of the name of an observed site and that of the argument of the model
            that has its data, which the simulated ones replace.

        Returns:
          The latent sites, as a dictionary; not differentiated.
        """
        return self._tape.draw(num_particles, "joint", arguments)[0]


class FamilyView(DensityView):
    """A family or guide as a program sees it."""

    _side: Side = "q"

    def sample(self, num_particles: int, *, detached: bool = False) -> Any:
        """Equally weighted independent draws.

        Args:
          num_particles: K.
          detached: take them as data: no gradient for the law they are drawn from. The program
            is then differentiated at fixed draws, which is not the gradient of its mean.

        Returns:
          Shape ``(K, D)`` for a family, a dictionary of ``(K, *shape)`` for a guide.
        """
        return self._tape.draw(num_particles, "detached" if detached else "equal")[0]

    def expect(self, f: Callable[[Any], Array], num_particles: int) -> Float[Array, ""]:
        """Estimate of E_q[f(z)]; enumerated sites and components of mixtures are summed over.

        Args:
          f: maps draws, with a leading axis of rows, to one value for each row. An integrand
            with a rule in `vi.expectation` is not sampled.
          num_particles: number of draws.

        Returns:
          Shape ``()``.
        """
        z, weights = self._tape.draw(num_particles, "weighted")
        return jnp.sum(weights * (self.exact(f, z) if expectation.has_integrand(f) else f(z)))

    def exact(self, f: Callable[[Any], Array], z: Any) -> Float[Array, " K"]:
        """E_q[f] in closed form, the same in all rows, if `vi.expectation` has a rule; else f(z).

        Args:
          f: an integrand of a type that `vi.expectation` knows.
          z: draws of a family.

        Returns:
          Shape ``(K,)``.
        """
        return self._tape.closed(f, z)

    def entropy(self, z: Any) -> Float[Array, " K"]:
        """Entropy of q, which has the mean of ``-q.log_density(z)`` and less noise.

        In closed form where the family has one; of a guide, site by site, given the draws of the
        sites before it, and minus the log density at the draw where a site has none.

        Args:
          z: draws.

        Returns:
          Shape ``(K,)``, nats.
        """
        return self._tape.closed("entropy", z)

    def kl(self, z: Any) -> Float[Array, " K"]:
        """KL divergence of q from the model's prior, of the mean of ``log_density - log_prior``.

        Site by site, in closed form if NumPyro's ``kl_divergence`` has a rule for the pair of
        distributions and the model's law of the site does not depend on what the guide draws
        after it; otherwise at the draws. For guides.

        Args:
          z: draws.

        Returns:
          Shape ``(K,)``, nats.
        """
        return self._tape.closed("kl", z)

    def by_site(
        self,
        f: Callable[[Any, Any], Array],
        z: Any,
        sites: Sequence[str],
        *,
        fixed: bool = False,
    ) -> Float[Array, " K"]:
        """Sum over sites of any functional of their laws; for guides.

        Args:
          f: maps the NumPyro distributions of a site in guide and model, given the draws of the
            sites before it, to an array of its batch shape.
          z: draws.
          sites: names of random sites that guide and model share.
          fixed: refuse sites whose laws depend on other random sites, or that are in a minibatch:
            then all rows are the same, and any function of them is exact.

        Returns:
          Shape ``(K,)``.
        """
        from vi.program.closed import BySite

        return self._tape.closed(BySite(f, tuple(sites), fixed), z)
