"""How `vi.fit` makes a MixFlow: a start, the best Gaussian or a flow, then the best of a grid."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from flows.flow import Flow
from flows.hamiltonian import HamiltonianMap, Momentum
from flows.mixflow import Evaluation, MixFlow
from vi.compile import quick_jit
from vi.families import Gaussian
from vi.families.scale import LowRankScale
from vi.provenance import data_digest, key_words, tree_digest
from vi.random import fast_key
from vi.status import Status
from vi.targets import Target
from vi.upstairs import FlowName

BOUND = 1e-2  # standard deviations: error of inverting N - 1 maps, above which none is used ...
SHARE = 0.95  # of the orbits that it must be below: those that leave the bulk are the first to fail
_FEWEST_MAPS = 4  # N down to which it is halved, while maps cannot be inverted
_FEWEST, _MOST = 32, 256  # orbits for each map of the grid
_OPERATIONS = 2e10  # spent on the grid, as far as the fewest orbits allow
_STREAM = 2**30 + 1  # of the key
_NAMES = ("full_rank", "mean_field", "block", *get_args(FlowName))


@dataclasses.dataclass(frozen=True)
class MixFlowPlan:
    """What `mixflow` was asked for; a family for `vi.fit`, which makes a `MixFlow` of it."""

    num_maps: int
    step_sizes: tuple[float, ...]
    num_leapfrogs: tuple[int, ...]
    momentum: Momentum
    start: Any = None
    num_orbits: int | None = None

    @property
    def first(self) -> Any:
        """The family to be fitted first, as `vi.fit` takes it; None where the start is given."""
        fitted = isinstance(self.start, Gaussian) or getattr(self.start, "affine", None) is not None
        return None if fitted else self.start or "full_rank"

    def run_after(self, target: Target, key: Array, first: Any) -> "MixFlowRun":
        """The run that makes it, after ``first``, which finds the start; None if it is given."""
        return MixFlowRun(target, key, first, self)

    def per_orbit(self) -> int:
        """Gradients that the grid takes for one orbit of each of its maps."""
        leaps = len(self.step_sizes) * sum(n + 1 for n in self.num_leapfrogs)
        return 3 * (self.num_maps - 1) * leaps

    def orbits(self, target: Target) -> int:
        """How many orbits each map of the grid is judged by: by their cost, if not given."""
        if self.num_orbits is not None:
            return self.num_orbits
        operations = 3 * target.operations * max(self.per_orbit(), 1)
        return min(max(int(_OPERATIONS / operations), _FEWEST), _MOST)

    def gradients(self, num_draws: int) -> int:
        """Gradients of the smallest grid and of so many draws of the longest of its maps."""
        longest = (self.num_maps - 1) * (max(self.num_leapfrogs) + 1)
        return self.per_orbit() * (self.num_orbits or _FEWEST) + longest * num_draws


def mixflow(
    num_maps: int = 32,
    *,
    step_sizes: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2),
    num_leapfrogs: tuple[int, ...] = (16, 64),
    momentum: Momentum = "normal",
    start: str | Gaussian | Flow | Callable[[int], Flow] | None = None,
    num_orbits: int | None = None,
) -> MixFlowPlan:
    """A MixFlow around the best Gaussian, or around a flow, as a family for `vi.fit`.

    Nothing is trained: of all pairs of a step size and a number of leapfrog steps the one with the
    highest ELBO is taken, among those whose inversion error is below 0.01 standard deviations on
    95 % of the orbits. Where others fail, few orbits that leave the bulk make the ELBO what it
    is, as in the neck of a funnel, and a tuning may not have met them. While none qualifies N is
    halved, down to 4; in 32-bit floats, which lose digits sooner, while that helps.

    Args:
      num_maps: N, the components of the mixture. Cost and quality rise with it.
      step_sizes: of leapfrog steps, in standard deviations of the Gaussian.
      num_leapfrogs: L, steps in a map.
      momentum: ``"normal"``, or ``"laplace"``, with which maps are inverted to the last digits
        but gain less.
      start: q_0. The name of a Gaussian or flow that `vi.fit` takes (``"full_rank"``,
        ``"neural_spline"``, ...), a flow to be trained, or a function of D that returns one, are
        fitted first; a Gaussian, or a flow that was fitted (``posterior.q``), is taken as it is.
        The best full-rank Gaussian if not given. With a flow every gradient is also one of the
        flow.
      num_orbits: by which each map of the grid is judged; 32 to 256 by their cost if not given.

    Returns:
      The plan, for ``vi.fit(model, ..., family=flows.mixflow())``.

    Raises:
      ValueError: if a number is not positive, or the momentum or the start is unknown.

    Complexity:
      Tuning takes up to 6 (N - 1) Σ L gradients an orbit, for 32 to 256 orbits; a draw with its log
      density (N - 1) (L + 1) gradients.

    Example:
      >>> import jax, jax.numpy as jnp, flows, vi
      >>> banana = lambda x: -0.5 * x[0] ** 2 - 0.5 * (x[1] - 0.5 * x[0] ** 2) ** 2
      >>> family = flows.mixflow(8, step_sizes=(0.1,), num_leapfrogs=(8,))
      >>> target = vi.target(banana, jnp.zeros(2))
      >>> q = vi.fit(target, key=jax.random.key(0), family=family).q
      >>> q.num_maps, float(q.map.step_size) == float(jnp.float32(0.1))
      (8, True)
    """
    grid = [num_maps, *step_sizes, *num_leapfrogs, 1 if num_orbits is None else num_orbits]
    if not (step_sizes and num_leapfrogs and min(grid) > 0):
        raise ValueError(
            f"mixflow: expected a positive num_maps, and at least one step size and number of "
            f"leapfrog steps, all positive; got {num_maps}, {step_sizes}, {num_leapfrogs}, "
            f"{num_orbits} orbits."
        )
    if momentum not in ("normal", "laplace"):
        raise ValueError(f"mixflow: expected momentum 'normal' or 'laplace'; got {momentum!r}.")
    _check_start(start)
    steps, lengths = tuple(step_sizes), tuple(num_leapfrogs)
    return MixFlowPlan(num_maps, steps, lengths, momentum, start, num_orbits)


def _check_start(start: Any) -> None:
    """Raise a `ValueError` for what is not N(0, I) under an invertible map of D coordinates."""
    scale = start.scale if isinstance(start, Gaussian) else None
    known = start is None or callable(start) or isinstance(start, (Gaussian, Flow))
    if start in _NAMES or (
        known and not isinstance(scale, LowRankScale) and getattr(start, "base", None) is None
    ):
        return
    raise ValueError(
        f"mixflow: expected a start out of {_NAMES}, a full-rank, block or mean-field vi.Gaussian, "
        f"or a flow with base None, N(0, I); got {start!r}."
    )


class MixFlowState(NamedTuple):
    """The state of the search for the Gaussian, then what the grid gave."""

    solve: Any
    elbos: np.ndarray  # by number of maps, and of each map of the grid; NaN if not evaluated
    errors: np.ndarray  # the same of the 95 % quantiles of the inversion errors
    gradients: int
    status: int


@quick_jit
def _evaluate_grid(key: Array, grid: list[MixFlow], orbits: Array) -> Evaluation:
    """Each map of the grid on the same orbits' starts; ``orbits`` has their number's shape."""
    return jax.lax.map(lambda q: q.evaluate(fast_key(key), len(orbits)), grid)


class MixFlowRun:
    """Finds a start, then a map; a `vi.loop.Run`."""

    def __init__(self, target: Target, key: Array, first: Any, plan: MixFlowPlan):
        """Set up.

        Args:
          target: the target.
          key: a key.
          first: a `vi.loop.Run` that finds the start, ``result(state)``; None if it is given.
          plan: what is asked for.
        """
        self.target, self.key, self.first, self.plan = target, key, first, plan
        pairs = [(e, n) for n in plan.num_leapfrogs for e in plan.step_sizes]
        self.step_sizes = np.array([e for e, _ in pairs], target.layout.dtype)
        self.num_leapfrogs = np.array([n for _, n in pairs], np.int32)
        self.num_orbits = plan.orbits(target)
        self.num_maps = [plan.num_maps]
        self._single = np.finfo(target.layout.dtype).bits == 32
        while self.num_maps[-1] // 2 >= _FEWEST_MAPS:
            self.num_maps.append(self.num_maps[-1] // 2)

    def initial(self) -> MixFlowState:
        """The state before the first chunk."""
        unknown = np.full((len(self.num_maps), len(self.step_sizes)), np.nan)
        solve = () if self.first is None else self.first.initial()
        return MixFlowState(solve, unknown, unknown, 0, int(Status.RUNNING))

    def begun(self, state: MixFlowState) -> tuple[Any, Any]:
        """The run that found the start, None where it was given, and its state."""
        return self.first, state.solve

    def _start(self, solve: Any) -> Flow:
        q = self.plan.start if self.first is None else self.first.result(solve)
        return Flow.of_gaussian(q) if isinstance(q, Gaussian) else q

    def advance(self, state: MixFlowState) -> MixFlowState:
        """A chunk of the search, or, after it, the grid; then with fewer maps in a row.

        Errors of inversion grow with every map, from rounding. Where no map of the grid can be
        inverted, half as many in a row may leave some that can. In 32-bit floats the same is tried
        where some cannot, for they may be the better ones; in 64-bit floats those that fail beside
        others do so for orbits that a coarse map throws out of the bulk, of which fewer maps only
        show less.
        """
        if self.first is not None and not self.first.done(state.solve):
            solve = self.first.advance(state.solve)
            failed = self.first.done(solve) and Status(int(solve.status)).failed
            return state._replace(solve=solve, status=int(solve.status if failed else state.status))
        q = self._start(state.solve)
        level = int((~np.isnan(state.errors[:, 0])).sum())
        maps, before = self.num_maps[level], self._best(state)
        plan = dataclasses.replace(self.plan, num_maps=maps)
        grid = jax.vmap(lambda e, n: self._member(q, e, n, jnp.nan, maps))
        words = jax.random.fold_in(self.key, _STREAM)
        members = grid(self.step_sizes, self.num_leapfrogs)
        seen = _evaluate_grid(words, members, np.zeros(self.num_orbits, bool))
        inverted = np.nan_to_num(np.asarray(seen.inversion_error, float), nan=np.inf)
        elbos, errors = state.elbos.copy(), state.errors.copy()
        elbos[level] = np.asarray(seen.elbo, float).mean(1)
        errors[level] = np.quantile(inverted, SHARE, axis=1, method="higher")
        gradients = state.gradients + plan.per_orbit() * self.num_orbits
        state = state._replace(elbos=elbos, errors=errors, gradients=gradients)
        last = level + 1 == len(self.num_maps) or (errors[level] <= BOUND).all()
        best = self._best(state)
        enough = best is not None and (best == before or not self._single)
        if last or enough:
            return state._replace(status=int(Status.CONVERGED))
        return state

    def _member(
        self, q: Flow, step_size: Array, num_leapfrog: Array, error: Array, num_maps: int
    ) -> MixFlow:
        moves = HamiltonianMap(
            jnp.asarray(step_size), jnp.asarray(num_leapfrog), self.plan.momentum
        )
        error = jnp.asarray(error, q.dtype)
        return MixFlow(self.target, q, moves, error, num_maps)

    def done(self, state: MixFlowState) -> bool:
        """Whether there is nothing left to do."""
        return state.status != Status.RUNNING

    def info(self, state: MixFlowState) -> dict[str, Any]:
        """Step and ELBO of the search, then the best of the grid, and gradients so far."""
        none = {"step": 0, "elbo": math.nan, "gradients": 0}
        solve = none if self.first is None else self.first.info(state.solve)
        best = self._best(state)
        elbo = solve["elbo"] if best is None else float(state.elbos[best])
        return {**solve, "elbo": elbo, "gradients": solve["gradients"] + state.gradients}

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        first = {"start": tree_digest(self.plan.start)}
        if self.first is not None:
            first = {"first": self.first.fingerprint()}
        plan = repr(dataclasses.replace(self.plan, start=None))
        data = data_digest(self.target), key_words(self.key)
        return {**first, "kind": "mixflow", "plan": plan, "data": list(data)}

    def _best(self, state: MixFlowState) -> tuple[int, int] | None:
        """Of those that can be inverted the one of the highest ELBO: number of maps, and place."""
        usable = np.isfinite(state.elbos) & (state.errors <= BOUND)
        if not usable.any():
            return None
        level, place = np.unravel_index(
            np.argmax(np.where(usable, state.elbos, -np.inf)), usable.shape
        )
        return int(level), int(place)

    def result(self, state: MixFlowState) -> MixFlow:
        """The best of the grid; of one map, the start itself, where none is usable."""
        q, best = self._start(state.solve), self._best(state)
        if best is None:
            return self._member(q, self.step_sizes[0], self.num_leapfrogs[0], 0.0, 1)
        level, place = best
        settings = self.step_sizes[place], self.num_leapfrogs[place]
        chosen = *settings, state.errors[best], self.num_maps[level]
        return self._member(q, *chosen)

    def notes(self, state: MixFlowState) -> list[str]:
        """What to say of the choice, and of the numerical error."""
        said = self.first.notes(state.solve) if hasattr(self.first, "notes") else []
        if np.isnan(state.elbos).all() and np.isnan(state.errors).all():
            return said
        best = self._best(state)
        if best is None:
            return [
                *said,
                f"No map of the grid has an inversion error below {BOUND} on {SHARE:.0%} of the "
                f"orbits, so this is the {self._start(state.solve).title} itself. Use 64-bit "
                "floats, fewer maps or smaller steps.",
            ]
        level, place = best
        return [
            *said,
            *self._fewer(level),
            f"Of {len(self.step_sizes)} maps the one of {self.num_leapfrogs[place]} leapfrog steps "
            f"of {self.step_sizes[place]:.3g} was chosen; its inversion error is at most "
            f"{state.errors[best]:.1e} standard deviations on {SHARE:.0%} of the orbits.",
        ]

    def _fewer(self, level: int) -> list[str]:
        if not level:
            return []
        return [
            f"More than {self.num_maps[level]} in a row were worse, or could not be inverted in "
            f"{self.target.layout.dtype}."
        ]
