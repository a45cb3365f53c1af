"""An objective's estimate, whose gradient is unbiased: program, draws and estimators together."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vi.errors import TargetError
from vi.program.axis import Axis, Plate
from vi.program.bound import Bound, Penalised, numbers, record
from vi.program.doubly import Moved, doubly_reparameterized
from vi.program.linearity import is_affine, uses_draws
from vi.program.surrogate import Affine, Replayed, stop
from vi.program.tape import Call, DensityCall, DrawCall, Draws, Source, Term, Through


class Model(Source, Protocol):
    """A source with what the estimators must know of it."""

    name: str  # of the program, for messages
    plates: dict[str, Plate]
    common: frozenset[str]  # plates that all random sites of q are in
    minibatch: frozenset[str]  # plates of which only some rows are taken
    through: Through  # what the density of q is differentiated through by default
    doubly: bool  # whether all sites are doubly reparameterised

    def moved(self, draws: Draws) -> Moved | None:
        """Latent sites of the model moved by its parameters, if their scores are to be paths."""
        ...

    def forced(self, forced: dict[str, tuple[Array, Array]]) -> "Model":
        """The same with stopped parameters, and some sites held where a flag is set."""
        ...


def estimate(run: Callable, source: Model) -> Array:
    """Value of a program, whose `jax.grad` is an unbiased estimate of the mean's gradient."""
    calls, result = record(run, source, source.through)
    owners = [(i, call.draws) for i, call in enumerate(calls) if isinstance(call, DrawCall)]
    at = numbers(calls)
    plain = all(draws.plain for _, draws in owners)
    if isinstance(result, Penalised) and (source.doubly or not plain):
        raise TargetError(
            f"{source.name}: expected sites with pathwise gradients in an objective with a penalty "
            "on a whole batch, to which a site cannot be told to contribute. Use vi.Pathwise() or "
            "vi.Relaxed() for all sites."
        )
    if isinstance(result, Penalised) and source.plates and not source.common:
        raise TargetError(
            f"{source.name}: expected all random sites in one plate, whose rows are the data that "
            "the penalty on a batch is multiplied by; some site lies outside. Put it into the "
            "plate, make it a parameter (numpyro.param), or use an objective without penalty."
        )
    simple = plain and source.through == "both" and not source.doubly
    if simple and not source.minibatch and not source.common:
        return _value(Bound(run, calls, Axis()), at, source)

    whole = Bound(run, calls, Axis())
    handed = whole.hand(at)
    affine = is_affine(whole, handed)
    uses = uses_draws(whole, handed)
    _check(source, calls, affine=affine, uses=uses)
    bound = Bound(run, calls, _axis(source, calls, affine=affine, uses=uses))
    value = _value(bound, at, source)
    if source.doubly:
        draws = owners[0][1]
        again = lambda call, through: source.terms(call.side, draws.values, draws, through)
        moved = source.moved(draws)
        there = lambda side: source.terms(side, moved.z, None, "draws")  # type: ignore[union-attr]
        return stop(value) + doubly_reparameterized(bound, at, again, moved, there)
    if plain:
        return value
    linear = affine and not uses
    kind = Affine(bound, at, source.parents) if linear else Replayed(bound, at, uses=uses)
    for owner, draws in owners:
        value = value + kind.scores(owner, draws)
        if draws.alternatives:
            value = value + _alternatives(kind, bound, owner, source)
    return value


def _value(bound: Bound, at: Any, source: Model) -> Array:
    each, penalty = bound.evaluate(bound.hand(at))
    size = Axis.of(source.common, source.plates).size
    return bound.axis.scale * jnp.sum(each) - size * penalty


def _alternatives(kind: Affine | Replayed, bound: Bound, owner: int, source: Model) -> Array:
    """Run the program once more, with a batch of runs in each of which one site is replaced."""
    draws = bound.calls[owner].draws  # type: ignore[union-attr]
    places = draws.places()

    def branch(b: Array) -> Any:
        forced = {}
        for name, other in draws.alternatives.items():
            offset, num = b - places[name][0], len(places[name])
            value = jnp.take(other.values, jnp.clip(offset, 0, num - 1), axis=1)
            forced[name] = ((offset >= 0) & (offset < num), stop(value))
        calls, _ = record(bound.run, source.forced(forced), source.through)
        return stop(kind.look(Bound(bound.run, calls, bound.axis), numbers(calls)))

    there = jax.vmap(branch)(jnp.arange(sum(map(len, places.values()))))
    return kind.alternatives(owner, draws, there)


def _axis(source: Model, calls: list[Call], *, affine: bool, uses: bool) -> Axis:
    """The plates along which the program is run datum by datum."""
    enumerated = frozenset(
        name for _, term in _branching(calls, alternatives=False) for name in term.plates
    )
    names = enumerated if affine else frozenset() if uses else source.common
    if not affine and names and not _decomposes(source, calls, names):
        names = frozenset()
    missing = source.minibatch - names
    if not affine and missing:
        raise TargetError(
            f"{source.name}: expected log densities of all data, since this objective is not "
            f"linear in them; plate {sorted(missing)[0]!r} takes a subset of its rows, and some "
            "random sites lie outside it (or the program uses the draws themselves), so that the "
            "estimate would be biased. Use an objective that is linear in the log densities, such "
            "as vi.elbo, give the plate all of its rows, or put all random sites into the plate."
        )
    return Axis.of(names, source.plates)


def _decomposes(source: Model, calls: list[Call], names: frozenset[str]) -> bool:
    return all(
        names <= term.plates.keys() or not source.parents(call.side, term.name)
        for call in calls
        if isinstance(call, DensityCall)
        for term in call.terms
    )


def _branching(calls: list[Call], *, alternatives: bool) -> list[tuple[int, Term]]:
    """Enumerated sites; with ``alternatives``, also those that are replaced by other values."""
    found = []
    for i, call in enumerate(calls):
        if isinstance(call, DrawCall):
            found += [(i, term) for term in call.draws.log_weights]
            if alternatives:
                found += [(i, other.weights) for other in call.draws.alternatives.values()]
    return found


def _check(source: Model, calls: list[Call], *, affine: bool, uses: bool) -> None:
    """Raise a `TargetError` for pairs of objective and estimator that would be biased."""
    draws = [call.draws for call in calls if isinstance(call, DrawCall)]
    densities = [call for call in calls if isinstance(call, DensityCall)]
    plain = all(d.plain for d in draws)
    if source.through == "draws" and not affine:
        raise TargetError(
            f"{source.name}: expected an objective linear in log q with StickingTheLanding or "
            "PathGradient, whose omitted term has mean zero only then; this one is not, and its "
            "gradient would be biased. Use vi.DoublyReparameterized() or vi.Pathwise()."
        )
    if (source.doubly or not plain) and any(call.owner is None for call in densities):
        raise TargetError(
            f"{source.name}: expected log densities at the draws as q.sample or q.expect gave "
            "them; with estimators that replay the program it cannot be known what else depends "
            "on a draw. Pass the draws unchanged (log_density has through= to stop gradients), or "
            "use vi.Pathwise() for all sites."
        )
    if source.doubly and (
        any(call.kind not in ("equal", "weighted") for call in calls if isinstance(call, DrawCall))
        or any(call.through in ("draws", "parameters") for call in densities)
    ):
        raise TargetError(
            f"{source.name}: expected an objective that leaves its gradient to the estimator with "
            "DoublyReparameterized; this one says itself what its densities are differentiated "
            "through, or takes its draws as data. Leave the estimator out, or use vi.Pathwise()."
        )
    if source.doubly and any(call.through == "closed" for call in densities):
        raise TargetError(
            f"{source.name}: expected log densities at draws, and no closed forms, with "
            "DoublyReparameterized. Use vi.Pathwise()."
        )
    if source.doubly and (uses or len(draws) > 1 or draws[0].weights is not None or not plain):
        raise TargetError(
            f"{source.name}: expected an objective of the log densities of one set of equally "
            "weighted, reparameterised draws with DoublyReparameterized. Use vi.Pathwise()."
        )
    if len(draws) > 1 and any(d.alternatives for d in draws):
        raise TargetError(
            f"{source.name}: expected one q.sample or q.expect in a program whose sites are "
            f"enumerated or measure-valued; got {len(draws)}. Use vi.Score() for these sites."
        )
    mixed = any(d.log_weights and (d.scores or d.alternatives) for d in draws)
    if mixed and (not affine or uses):
        raise TargetError(
            f"{source.name}: expected an objective linear in the log densities where some sites "
            "are enumerated and others are not reparameterised. Use one estimator for all of "
            "these sites: vi.Score() or vi.Enumerate()."
        )
    _check_plates(source, calls, affine=affine, uses=uses)


def _check_plates(source: Model, calls: list[Call], *, affine: bool, uses: bool) -> None:
    """Rows of a plate are replaced all at once: nothing may depend on several of them."""
    branching = _branching(calls, alternatives=True)
    for owner, site in branching:
        names = site.plates.keys()
        if names and (uses or (not affine and not names <= source.common)):
            raise TargetError(
                f"{source.name}: expected an objective that treats the rows of plate "
                f"{sorted(names)[0]!r} apart, to enumerate site {site.name!r} in parallel; this "
                "one uses the draws themselves, or is not linear in the log densities while other "
                "random sites lie outside the plate. Use vi.Score() for the site."
            )
        for call in calls:
            if not isinstance(call, DensityCall) or call.owner != owner:
                continue
            for term in call.terms:
                if names <= term.plates.keys():
                    continue
                if site.name in source.parents(call.side, term.name):
                    raise TargetError(
                        f"{source.name}: expected that what depends on site {site.name!r}, whose "
                        f"rows are enumerated in parallel, is in its plate {sorted(names)[0]!r}; "
                        f"site {term.name!r} is not. Use vi.Score() for {site.name!r}, or put "
                        f"{term.name!r} into the plate."
                    )
    weighted = [frozenset(t.plates) for _, t in _branching(calls, alternatives=False)]
    if weighted and max(weighted, key=len) != frozenset().union(*weighted):
        raise TargetError(
            f"{source.name}: expected enumerated sites in nested plates; got "
            f"{[sorted(names) for names in weighted]}. Use vi.Score() for the sites of all but one."
        )
