"""A family on the flat vector and a target as a program sees them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vi.errors import TargetError
from vi.families import Delta, Gaussian
from vi.families.scale import DiagonalScale
from vi.program.axis import Plate
from vi.program.estimators import (
    PATHWISE,
    SCORED,
    STICKING,
    DoublyReparameterized,
    Estimator,
    MeasureValued,
    PathGradient,
    Pathwise,
    RunningScore,
)
from vi.program.expectation import expectation, has_rules
from vi.program.requirements import check_estimator_options
from vi.program.surrogate import only_gradient, stop
from vi.program.tape import Alternatives, Draws, ScoreTerm, Term, Through

_KNOWN = "known"  # a term that depends on no draws
_WHY_NOT = {
    "Enumerate": "sums over the values of discrete sites (components of mixtures are summed over "
    "by q.expect under vi.Pathwise())",
    "Relaxed": "relaxes discrete sites",
    "AcceptReject": "is for draws by acceptance-rejection; those of families have a path",
    "Implicit": "is for scalar laws without a path; draws of families have one",
    "MeasureValued": "knows mean-field Gaussians only",
    "dict": "names the sites of a guide",
}


def check_estimator(name: str, how: Any, q: Any) -> None:
    """Raise a `TargetError` if a family on the flat vector does not go with an estimator."""
    check_estimator_options(f"{name}: {type(how).__name__}", how)
    point = isinstance(q, Delta)
    mean_field = isinstance(q, Gaussian) and isinstance(q.scale, DiagonalScale)
    if isinstance(how, DoublyReparameterized) and how.model:
        raise TargetError(
            f"{name}: expected DoublyReparameterized(model=True) with a NumPyro model that has "
            "parameters; a target has none. Use vi.DoublyReparameterized(), or vi.SVI."
        )
    if isinstance(how, PATHWISE) or (isinstance(how, SCORED) and not point):
        return
    if isinstance(how, MeasureValued) and mean_field:
        return
    kind, valid = type(how).__name__, [k.__name__ for k in PATHWISE]
    valid += [] if point else [k.__name__ for k in SCORED]
    valid += [MeasureValued.__name__] if mean_field else []
    scored = isinstance(how, SCORED)
    why = "needs a density, which a point has not" if scored else _WHY_NOT.get(kind, "is unknown")
    raise TargetError(
        f"{name}: expected for the family {type(q).__name__} one of the estimators {valid}; got "
        f"{how!r}, which {why}. Estimators by site are for NumPyro guides (vi.SVI)."
    )


class FamilySource:
    """A family and a target; a `vi.program.estimate.Model` with one site, the vector z."""

    plates: dict[str, Plate] = {}  # noqa: RUF012
    common: frozenset[str] = frozenset()

    def __init__(
        self,
        name: str,
        path_key: Array,
        batch_key: Array | None,
        q: Any,
        target: Any,
        estimator: Estimator | None,
    ):
        self.name, self._key, self._batch_key = name, path_key, batch_key
        self._q, self._target = q, target
        self._estimator = Pathwise() if estimator is None else estimator
        self._forced: tuple[Array, Array] | None = None
        check_estimator(name, self._estimator, q)

    @property
    def minibatch(self) -> frozenset[str]:
        """Plates of which the target takes only some rows."""
        return frozenset() if self._batch_key is None else frozenset(self._target.structure.plates)

    @property
    def through(self) -> Through:
        """What the density of q is differentiated through."""
        return "draws" if isinstance(self._estimator, STICKING) else "both"

    @property
    def doubly(self) -> bool:
        """Whether the draws are doubly reparameterised."""
        return isinstance(self._estimator, DoublyReparameterized)

    def draw(self, index: int, num_particles: int, *, weighted: bool, detached: bool) -> Draws:
        """Draws; weighted ones of mixtures come from each component."""
        key = jax.random.fold_in(self._key, index) if index else self._key
        if detached:
            return Draws(stop(self._q.sample(key, num_particles)), num_particles)
        if isinstance(self._estimator, SCORED):
            z = stop(self._q.sample(key, num_particles))
            score = Term("z", self._q.log_prob(z), {})
            return Draws(
                z, num_particles, scores=(ScoreTerm(score, self._baseline(num_particles)),)
            )
        if isinstance(self._estimator, MeasureValued):
            return self._measured(key, num_particles)
        noise = self._q.noise(key, num_particles)
        if isinstance(self._estimator, PathGradient) and hasattr(self._q, "draw_and_score"):
            z, log_q, score = self._q.draw_and_score(noise)
            log_q = stop(log_q) + only_gradient(jnp.sum(stop(score) * z, -1))
            return Draws(z, num_particles, context=(Term("z", log_q, {}),))
        z, weights = self._q.draw(noise)
        if z.shape[0] == num_particles:
            return Draws(z, num_particles)
        if not weighted:
            raise TypeError(
                f"q.sample: expected a family with equally weighted draws; "
                f"{type(self._q).__name__} has weighted ones, one set for each component. "
                "Write the objective with q.expect, which uses the weights, or use vi.Score()."
            )
        return Draws(z, num_particles, z.shape[0] // num_particles, weights=weights)

    def _measured(self, key: Array, num_particles: int) -> Draws:
        """Draws, and others that differ in one coordinate."""
        import numpyro.distributions as dist

        from vi.program.measures import measure_valued

        z = stop(self._q.sample(key, num_particles))
        law = dist.Normal(self._q.loc, self._q.scale.diagonal).to_event(1)
        keys = jax.random.split(jax.random.fold_in(key, 1), num_particles)
        others, weights = jax.vmap(lambda z, key: measure_valued(law, {}, z, key))(z, keys)
        if self._forced is not None:
            z = jnp.where(*self._forced, z)
        alternatives = {"z": Alternatives(others, Term("z", weights, {}))}
        return Draws(z, num_particles, alternatives=alternatives)

    def _baseline(self, num_particles: int) -> Any:
        if isinstance(self._estimator, RunningScore):
            return stop(self._estimator.mean).astype(self._target.layout.dtype)
        baseline = self._estimator.baseline  # type: ignore[union-attr]
        if callable(baseline):
            return stop(baseline())
        if baseline == "leave_one_out" and num_particles < 2:
            raise TargetError(
                f"{self.name}: expected num_particles >= 2 with Score(baseline='leave_one_out'), "
                "which is made of the other particles; got 1. Take more, or "
                "vi.Score(baseline='none')."
            )
        return baseline

    def prior(self, index: int, num_particles: int) -> Draws:
        """Not known of a target."""
        del index, num_particles
        raise TargetError(self._no_prior)

    def joint(self, index: int, num_particles: int, arguments: Any) -> Draws:
        """Not known of a target."""
        del index, num_particles, arguments
        raise TargetError(self._no_prior)

    @property
    def _no_prior(self) -> str:
        return (
            f"{self.name}: expected a NumPyro model with a guide, whose prior is told apart from "
            "its likelihood; got a target, which is one log density. Use vi.SVI, or an objective "
            "without log_prior, log_likelihood, kl, by_site, sample_prior and simulate."
        )

    def terms(self, side: str, z: Any, draws: Draws | None, through: Through) -> tuple[Term, ...]:
        """Log density of the target or the family."""
        if side in ("prior", "likelihood"):
            raise TargetError(self._no_prior)
        if side == "q" and through == "draws" and draws is not None and draws.context is not None:
            return draws.context  # of the family's own recursion
        z = stop(z) if through == "parameters" else z
        if side == "p":
            log_density: Callable = self._target.log_density
            return (Term("z", jax.vmap(lambda x: log_density(x, self._batch_key))(z), {}),)
        q = stop(self._q) if through == "draws" else self._q
        return (Term("z", q.log_prob(z), {}),)

    def moved(self, draws: Draws) -> None:
        """None: a target has no parameters."""
        del draws

    def closed(self, side: Any, draws: Draws) -> tuple[Term, ...]:
        """The family's entropy, or the mean of an integrand, if known; else their values."""
        q, z = self._q, draws.values
        if side == "entropy":
            known = q.entropy() if hasattr(q, "entropy") else None
            other = lambda z: -q.log_prob(z)
        elif has_rules(side):
            known, other = expectation(q, side), side
        else:
            raise TargetError(self._no_prior)
        if known is None:
            return (Term("z", other(z), {}),)
        return (Term(_KNOWN, jnp.broadcast_to(known, (draws.rows,)), {}),)

    def parents(self, side: str, term: str) -> frozenset[str]:
        """Everything depends on the one site, but for what is known in closed form."""
        del side
        return frozenset() if term == _KNOWN else frozenset({"z"})

    def forced(self, forced: dict[str, tuple[Array, Array]]) -> "FamilySource":
        """The same with stopped parameters, and the draws held where a flag is set."""
        other = object.__new__(FamilySource)
        other.__dict__.update(self.__dict__)
        other._q, other._forced = stop(self._q), forced["z"]
        return other
