"""One rung of the ladder: plan a run for one family, run it, and judge what it found."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vi.clock import Clock
from vi.errors import NonFiniteTargetError
from vi.families import Delta, Gaussian, Mixture
from vi.families.scale import BlockScale, DenseScale, DiagonalScale
from vi.gaussian.solve import Solver, SolveState
from vi.gaussian.whitening import scale_of
from vi.loop import LoopOptions, Run, iterate
from vi.options import FitOptions
from vi.plan import plan
from vi.posterior import Diagnostics, Posterior, diagnose
from vi.posterior.cut import can_cut, find_cut, num_chains
from vi.posterior.diagnostics import from_each, misfit, missed_mass
from vi.posterior.verdict import judge, judge_point
from vi.provenance import provenance
from vi.status import Status
from vi.targets import Target
from vi.targets.nonfinite import explain
from vi.threads import blas_threads

_HURRIED = 256  # draws that judge a fit to minibatches which was interrupted
_ENDLESS = 1e5  # median standard deviations, or units if those are smaller
_SINGLE = (
    "It ran in 32-bit floats. If the model is ill-conditioned, as one with a Cholesky factor of "
    "a nearly singular matrix is, use 64-bit: jax.config.update('jax_enable_x64', True)."
)


@runtime_checkable
class Staged(Protocol):
    """A run that begins with another, and goes on from what that one finds."""

    def begun(self, state: Any) -> tuple[Run | None, Any]:
        """The run it began with, None where its result was given, and that run's state."""
        ...


def fit_family(
    target: Target,
    key: Array,
    options: FitOptions,
    loop: LoopOptions,
    clock: Clock,
    others: Sequence[Gaussian] = (),
) -> tuple[Posterior, Any]:
    """Fit one family: plan, run, judge it also by other optima that are known.

    Returns the posterior and the last state of the run.
    """
    run, notes = plan(target, key, options)
    state, stopped = iterate(run, loop, total=getattr(run, "num_steps", None))
    status = Status(int(state.status)) if stopped == Status.RUNNING else stopped
    solver, solved = _search_of(run, state)
    if solver is not None:
        notes = [*notes, _searched(solved)]
    noted = getattr(run, "notes", None)
    notes = [*notes, *(noted(state) if noted else [])]
    if isinstance(solver, Solver):
        _check_started(solver, solved, status)
        others = other_modes(solved)
    posterior = report(
        target,
        run.result(state),
        key,
        options,
        status=status,
        notes=notes,
        history=_history(state),
        gradients=run.info(state)["gradients"],
        clock=clock,
        others=others,
    )
    return posterior, state


def _search_of(run: Any, state: Any) -> tuple[Any, Any]:
    """The run that all began with, and its state."""
    while isinstance(run, Staged):
        run, state = run.begun(state)
    return run, state


def _history(state: Any) -> dict[str, np.ndarray]:
    """Steps at the ends of chunks, and the mean ELBO of each."""
    if state == ():  # of a search that was not needed
        return one_run(np.zeros(0, int), np.zeros(0))
    if hasattr(state, "solve") and not hasattr(state, "polish"):
        return _history(state.solve)
    if hasattr(state, "solve"):
        first, then = _history(state.solve), _history(state.polish)
        last = first["step"][-1] if len(first["step"]) else 0
        return {
            "step": np.append(first["step"], last + then["step"]),
            "elbo": np.append(first["elbo"], then["elbo"]),
            "run": np.append(first["run"], then["run"] + 1 + max(first["run"], default=-1)),
        }
    if isinstance(state, SolveState):
        return {"step": state.history_steps, "elbo": state.history, "run": state.history_runs}
    return one_run(state.steps, state.elbos)


def one_run(step: np.ndarray, elbo: np.ndarray) -> dict[str, np.ndarray]:
    """A history that is one run from beginning to end."""
    return {"step": step, "elbo": elbo, "run": np.zeros(len(step), int)}


def report(
    target: Target,
    q: Any,
    key: Array,
    options: FitOptions,
    *,
    status: Status,
    notes: list[str],
    history: dict[str, np.ndarray],
    gradients: int,
    clock: Clock,
    others: Sequence[Gaussian] = (),
) -> Posterior:
    """Judge a family by fresh draws, and by those of other modes, and put all together."""
    hurried = status == Status.INTERRUPTED and target.subsampled  # each draw asks for all rows
    with blas_threads(target.dim):
        draws = options.num_draws or (_HURRIED if hurried else None)
        found = diagnose(_fresh(key), q, target, draws)
        if others:
            shares = missed_mass(_fresh(key, 1), found, q, list(others), target)
            found = found._replace(missed=float(shares.sum()))
    notes = [*_unobserved(target), *_improper(q, target), *notes]
    if status.failed and target.layout.dtype == "float32":
        notes = [*notes, _SINGLE]
    if isinstance(q, Delta):
        verdict = judge_point(found, status, notes)
    else:
        about = status, describe(q), _worst(found, target), notes, _cautions(target)
        verdict = judge(found, *about)
        if can_cut(q, target) and verdict.grade in ("good", "fair"):
            cut = find_cut(_fresh(key, 2), found, q, target, num_chains(gradients))
            found = found._replace(cut=cut.share, cut_shift=cut.shift)
            gradients += cut.gradients
            verdict = judge(found, *about)
    drawn = found.num_draws + len(others) * from_each(found)
    gradients += drawn * getattr(q, "gradients_per_draw", 0)
    cost = {"gradients": gradients, "log_densities": found.num_draws, **clock.read()}
    about = {**provenance(target, key, options.given()), "status": status.name, "cost": cost}
    return Posterior(target, q, status, verdict, found, history, cost, (), key, about)


def _searched(state: Any) -> str:
    """How far other modes were looked for, which no draw of q can show."""
    if not isinstance(state, SolveState):
        return "There was one start: other modes were not looked for."
    starts, agreed = int(np.sum(np.isfinite(state.ends))), state.candidates.agreed
    return f"{agreed} of {starts} searches ended here."


def _unobserved(target: Target) -> list[str]:
    if getattr(target.structure, "observes", True):
        return []
    return ["No site of the model is observed: this is its prior. Was obs= or the data forgotten?"]


def _improper(q: Any, target: Target) -> list[str]:
    """Coordinates along which the density does not seem to end."""
    if not isinstance(q, Gaussian):
        return []
    sd = np.sqrt(np.asarray(q.variance(), float))
    usual = max(1.0, float(np.quantile(sd, 0.5, method="lower")))
    wide = np.flatnonzero(sd > _ENDLESS * usual)
    if not len(wide):
        return []
    names = ", ".join(target.layout.coordinate(int(i)) for i in wide[:3])
    return [
        f"Along {names} the fit has a standard deviation of {sd[wide[0]]:.1g}: if the data say "
        "nothing of it and its prior is flat, the posterior is improper. Give it a proper prior."
    ]


def _cautions(target: Target) -> list[str]:
    structure = target.structure
    if not structure.plates or target.subsampled:
        return []
    rows = [f"{batch} rows stand for the {size}" for size, batch in structure.plates.values()]
    return [
        f"In the data {', '.join(rows)} of a plate: this is the posterior of one minibatch, with "
        "the certainty of all rows. Give the model all of them, and index them by the plate."
    ]


def describe(q: Any) -> str:
    """A phrase for a family, as in ``full-rank Gaussian (D = 7)``."""
    if isinstance(q, Gaussian):
        kinds = {DiagonalScale: "mean-field", DenseScale: "full-rank", BlockScale: "block"}
        kind = kinds.get(type(q.scale), "low-rank")
        return f"{kind} Gaussian (D = {q.dim})"
    if isinstance(q, Mixture):
        name = getattr(q.components, "title", "Gaussian")
        return f"mixture of {q.num_components} {name}s (D = {q.dim})"
    name = getattr(q, "title", type(q).__name__)
    return "point" if isinstance(q, Delta) else f"{name} (D = {q.dim})"


def _fresh(key: Array, number: int = 0) -> np.ndarray:
    """A key that no run uses: runs fold in small numbers only."""
    words = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    return np.asarray(words) ^ np.uint32(0x9E3779B9 + number)


def _worst(found: Diagnostics, target: Target) -> list[str]:
    blame = misfit(found)
    order = [int(i) for i in np.argsort(-blame)[:3] if blame[i] > 0.1]
    return [target.layout.coordinate(i) for i in order]


def _check_started(run: Solver, state: SolveState, status: Status) -> None:
    if status != Status.NONFINITE or state.candidates.best.found:
        return
    where = jnp.asarray(run.locs[0], run.target.layout.dtype)
    raise NonFiniteTargetError(
        "vi.fit: expected a finite log density and gradient near a start; from "
        f"{len(run.locs)} starts, each drawn in towards a point 40 times, none was found: "
        f"{explain(run.target, where)}. Check the data and priors, or pass init=."
    )


def other_modes(state: SolveState) -> list[Gaussian]:
    """The other optima that the search found."""
    return [Gaussian(jnp.asarray(c.loc), scale_of(c.root)) for c in state.others]
