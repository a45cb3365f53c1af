"""A family on the flat vector and a target as a program sees them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vi.errors import TargetError
from vi.families import Delta
from vi.program.axis import Plate
from vi.program.estimators import (
    PATHWISE,
    DoublyReparameterized,
    Estimator,
    Pathwise,
    Score,
    StickingTheLanding,
)
from vi.program.expectation import expectation, has_rules
from vi.program.tape import Draws, ScoreTerm, Term, Through

stop = jax.lax.stop_gradient
_KNOWN = "known"  # a term that depends on no draws


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
        if not isinstance(self._estimator, (*PATHWISE, Score)) or (
            isinstance(self._estimator, Score) and isinstance(q, Delta)
        ):
            raise TargetError(
                f"{name}: expected Pathwise, StickingTheLanding, DoublyReparameterized or, unless "
                f"the family is a point, Score for a family on the flat vector; got "
                f"{self._estimator!r} with {type(q).__name__}. Estimators by site are for NumPyro "
                "guides (vi.SVI)."
            )

    @property
    def minibatch(self) -> frozenset[str]:
        """Plates of which the target takes only some rows."""
        return frozenset() if self._batch_key is None else frozenset(self._target.structure.plates)

    @property
    def through(self) -> Through:
        """What the density of q is differentiated through."""
        return "draws" if isinstance(self._estimator, StickingTheLanding) else "both"

    @property
    def doubly(self) -> bool:
        """Whether the draws are doubly reparameterised."""
        return isinstance(self._estimator, DoublyReparameterized)

    def draw(self, index: int, num_particles: int, *, weighted: bool, detached: bool) -> Draws:
        """Draws; weighted ones of mixtures come from each component."""
        key = jax.random.fold_in(self._key, index) if index else self._key
        if isinstance(self._estimator, Score):
            z = stop(self._q.sample(key, num_particles))
            if detached:
                return Draws(z, num_particles)
            score = Term("z", self._q.log_prob(z), {})
            return Draws(
                z, num_particles, scores=(ScoreTerm(score, self._baseline(num_particles)),)
            )
        if detached:
            return Draws(stop(self._q.sample(key, num_particles)), num_particles)
        z, weights = self._q.draw(self._q.noise(key, num_particles))
        if z.shape[0] == num_particles:
            return Draws(z, num_particles)
        if not weighted:
            raise TypeError(
                f"q.sample: expected a family with equally weighted draws; "
                f"{type(self._q).__name__} has weighted ones, one set for each component. "
                "Write the objective with q.expect, which uses the weights, or use vi.Score()."
            )
        return Draws(z, num_particles, z.shape[0] // num_particles, weights=weights)

    def _baseline(self, num_particles: int) -> Any:
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
        del draws
        if side in ("prior", "likelihood"):
            raise TargetError(self._no_prior)
        z = stop(z) if through == "parameters" else z
        if side == "p":
            log_density: Callable = self._target.log_density
            return (Term("z", jax.vmap(lambda x: log_density(x, self._batch_key))(z), {}),)
        q = stop(self._q) if through == "draws" else self._q
        return (Term("z", q.log_prob(z), {}),)

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
        """Never asked for: the vector has no alternatives."""
        raise AssertionError(forced)
