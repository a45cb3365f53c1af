"""How `vi.fit` makes a MixFlow: the best Gaussian, then the best map of a grid."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from flows.hamiltonian import HamiltonianMap, Momentum
from flows.mixflow import Evaluation, MixFlow
from vi.compile import quick_jit
from vi.families import Gaussian
from vi.random import fast_key
from vi.status import Status
from vi.targets import Target

BOUND = 1e-2  # standard deviations: median error of inverting N - 1 maps, above which none is used
_FEWEST, _MOST = 32, 256  # orbits for each map of the grid
_OPERATIONS = 2e10  # spent on the grid, as far as the fewest orbits allow
_STREAM = 2**30 + 1  # of the key


@dataclasses.dataclass(frozen=True)
class MixFlowPlan:
    """What `mixflow` was asked for; a family for `vi.fit`, which makes a `MixFlow` of it."""

    num_maps: int
    step_sizes: tuple[float, ...]
    num_leapfrogs: tuple[int, ...]
    momentum: Momentum

    def run_after(self, target: Target, key: Array, first: Any) -> "MixFlowRun":
        """The run that makes it, after ``first``, which finds a Gaussian."""
        return MixFlowRun(target, key, first, self)


def mixflow(
    num_maps: int = 32,
    *,
    step_sizes: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2),
    num_leapfrogs: tuple[int, ...] = (16, 64),
    momentum: Momentum = "normal",
) -> MixFlowPlan:
    """A MixFlow around the best Gaussian, as a family for `vi.fit`.

    Nothing is trained: of all pairs of a step size and a number of leapfrog steps the one with the
    highest ELBO is taken, among those whose inversion error has a median below 0.01 standard
    deviations. In 32-bit floats, which lose digits sooner, fewer qualify.

    Args:
      num_maps: N, the components of the mixture. Cost and quality rise with it.
      step_sizes: of leapfrog steps, in standard deviations of the Gaussian.
      num_leapfrogs: L, steps in a map.
      momentum: ``"normal"``, or ``"laplace"``, with which maps are inverted to the last digits
        but gain less.

    Returns:
      The plan, for ``vi.fit(model, ..., family=flows.mixflow())``.

    Raises:
      ValueError: if a number is not positive, or the momentum is unknown.

    Complexity:
      Tuning takes 3 (N - 1) Σ L gradients an orbit, for 32 to 256 orbits; a draw with its log
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
    grid = [num_maps, *step_sizes, *num_leapfrogs]
    if not (step_sizes and num_leapfrogs and min(grid) > 0):
        raise ValueError(
            f"mixflow: expected a positive num_maps, and at least one step size and number of "
            f"leapfrog steps, all positive; got {num_maps}, {step_sizes}, {num_leapfrogs}."
        )
    if momentum not in ("normal", "laplace"):
        raise ValueError(f"mixflow: expected momentum 'normal' or 'laplace'; got {momentum!r}.")
    return MixFlowPlan(num_maps, tuple(step_sizes), tuple(num_leapfrogs), momentum)


class MixFlowState(NamedTuple):
    """The state of the search for the Gaussian, then what the grid gave."""

    solve: Any
    elbos: np.ndarray  # of each map of the grid, NaN before it is evaluated
    errors: np.ndarray  # medians of the inversion errors
    gradients: int
    status: int


@quick_jit
def _evaluate_grid(key: Array, grid: list[MixFlow], orbits: Array) -> Evaluation:
    """Each map of the grid on the same orbits' starts; ``orbits`` has their number's shape."""
    return jax.lax.map(lambda q: q.evaluate(fast_key(key), len(orbits)), grid)


class MixFlowRun:
    """Finds a Gaussian, then a map; a `vi.loop.Run`."""

    def __init__(self, target: Target, key: Array, first: Any, plan: MixFlowPlan):
        """Set up.

        Args:
          target: the target.
          key: a key.
          first: a `vi.loop.Run` that finds a Gaussian, ``result(state)``.
          plan: what is asked for.
        """
        self.target, self.key, self.first, self.plan = target, key, first, plan
        pairs = [(e, n) for n in plan.num_leapfrogs for e in plan.step_sizes]
        self.step_sizes = np.array([e for e, _ in pairs], target.layout.dtype)
        self.num_leapfrogs = np.array([n for _, n in pairs], np.int32)
        per_orbit = 3 * (plan.num_maps - 1) * int(np.sum(self.num_leapfrogs + 1))
        affordable = int(_OPERATIONS / (3 * target.operations * max(per_orbit, 1)))
        self.num_orbits = min(max(affordable, _FEWEST), _MOST)
        self.cost = per_orbit * self.num_orbits

    def initial(self) -> MixFlowState:
        """The state before the first chunk."""
        unknown = np.full(len(self.step_sizes), np.nan)
        return MixFlowState(self.first.initial(), unknown, unknown, 0, int(Status.RUNNING))

    def advance(self, state: MixFlowState) -> MixFlowState:
        """A chunk of the search, or, after it, the grid."""
        if not self.first.done(state.solve):
            solve = self.first.advance(state.solve)
            failed = self.first.done(solve) and Status(int(solve.status)).failed
            return state._replace(solve=solve, status=int(solve.status if failed else state.status))
        q = self.first.result(state.solve)
        grid = jax.vmap(lambda e, n: self._member(q, e, n, jnp.nan))
        words = jax.random.fold_in(self.key, _STREAM)
        members = grid(self.step_sizes, self.num_leapfrogs)
        seen = _evaluate_grid(words, members, np.zeros(self.num_orbits, bool))
        elbos = np.asarray(seen.elbo, float).mean(1)
        errors = np.median(np.asarray(seen.inversion_error, float), axis=1)
        return state._replace(
            elbos=elbos, errors=errors, gradients=self.cost, status=int(Status.CONVERGED)
        )

    def _member(self, q: Gaussian, step_size: Array, num_leapfrog: Array, error: Array) -> MixFlow:
        moves = HamiltonianMap(
            jnp.asarray(step_size), jnp.asarray(num_leapfrog), self.plan.momentum
        )
        error = jnp.asarray(error, q.loc.dtype)
        return MixFlow(self.target, q, moves, error, self.plan.num_maps)

    def done(self, state: MixFlowState) -> bool:
        """Whether there is nothing left to do."""
        return state.status != Status.RUNNING

    def info(self, state: MixFlowState) -> dict[str, Any]:
        """Step and ELBO of the search, then the best of the grid, and gradients so far."""
        solve = self.first.info(state.solve)
        best = self._best(state)
        elbo = solve["elbo"] if best is None else float(state.elbos[best])
        return {**solve, "elbo": elbo, "gradients": solve["gradients"] + state.gradients}

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        return {**self.first.fingerprint(), "kind": "mixflow", "plan": repr(self.plan)}

    def _best(self, state: MixFlowState) -> int | None:
        usable = np.isfinite(state.elbos) & (state.errors <= BOUND)
        return int(np.argmax(np.where(usable, state.elbos, -np.inf))) if usable.any() else None

    def result(self, state: MixFlowState) -> MixFlow:
        """The best of the grid; of one map, the Gaussian itself, where none is usable."""
        q, best = self.first.result(state.solve), self._best(state)
        if best is None:
            alone = self._member(q, self.step_sizes[0], self.num_leapfrogs[0], 0.0)
            return dataclasses.replace(alone, num_maps=1)
        chosen = self.step_sizes[best], self.num_leapfrogs[best], state.errors[best]
        return self._member(q, *chosen)

    def notes(self, state: MixFlowState) -> list[str]:
        """What to say of the choice, and of the numerical error."""
        if np.isnan(state.elbos).all() and np.isnan(state.errors).all():
            return []
        best = self._best(state)
        if best is None:
            return [
                f"No map of the grid has an inversion error with a median below {BOUND}, so this "
                "is the Gaussian itself. Use 64-bit floats, fewer maps or smaller steps."
            ]
        return [
            f"Of {len(state.elbos)} maps the one of {self.num_leapfrogs[best]} leapfrog steps of "
            f"{self.step_sizes[best]:.3g} was chosen; its inversion error has a median of "
            f"{state.errors[best]:.1e} standard deviations."
        ]
