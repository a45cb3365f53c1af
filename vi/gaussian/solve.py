"""The best Gaussian there is: searches from several starts, then refinement of the best.

A host-side state machine. All it decides depends on its state alone, and all that costs runs in
one jitted function, a chunk of steps, compiled once for targets of the same structure. Random
rotations are drawn on the host and passed in, which leaves them out of the compilation.
"""

import enum
import hashlib
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vi.blocks import Groups
from vi.compile import quick_jit
from vi.families import Gaussian
from vi.gaussian import refine, search
from vi.gaussian.candidates import Candidate, Candidates, apart
from vi.gaussian.chunk import CHUNK, ROTATIONS, run_chunk
from vi.gaussian.root import DenseRoot, DiagonalRoot, Root, restrict, scaled
from vi.gaussian.spherical import directions_of
from vi.gaussian.starts import STARTS, enough
from vi.gaussian.stopping import Window, finished, step_tolerance
from vi.gaussian.whitening import scale_of
from vi.provenance import data_digest, key_words, model_digest
from vi.random import host_generator, host_words
from vi.status import Status
from vi.targets import Target
from vi.threads import blas_threads

MAX_SEARCH_STEPS = 100
MAX_CYCLES = 4  # of refinement, each twice as long as the one before
MORE_CYCLES = 2  # where there is more left to gain than the tolerance, and steps are cheap
CHEAP = 4e9  # operations so far
NEAR = 1.0  # squared distance, in standard deviations, of a refinement from one before it
MAX_DENSE = 1000  # coordinates, for a search with a dense root
MAX_DIRECTIONS = 64  # in a rotation, beyond that


class Phase(enum.IntEnum):
    """What the state machine is doing."""

    SEARCH = 0
    REFINE = 1
    REFINE_RIVAL = 2
    DONE = 3


class SolveState(NamedTuple):
    """Everything the solver knows; a pytree of arrays and numbers, to be checkpointed."""

    phase: int
    start: int
    search: search.SearchState
    refine: refine.RefineState
    candidates: Candidates  # of the searches
    refined: Candidate  # in the structure asked for; ELBO -inf while there is none
    runner_up: Candidate  # the worse of the best and the first rival, where both were refined
    ends: np.ndarray  # ELBO at which each start ended, NaN where it did not run or failed
    cycle: int
    chunk: int  # within the cycle
    window: Window
    left: np.ndarray  # nats a step would still gain, their standard error, cost of the noise
    gradients: int
    steps: int
    status: int
    history: np.ndarray  # ELBO estimates, one a chunk
    history_steps: np.ndarray
    history_runs: np.ndarray  # which search or refinement a chunk belongs to

    @property
    def others(self) -> list[Candidate]:
        """The other optima, the best first; one of them is refined where it came close."""
        first, *rest = self.candidates.rivals
        return [c for c in (self.runner_up if self.runner_up.found else first, *rest) if c.found]


@quick_jit
def _prior_point(target: Target) -> Array:
    return target.prior_point()


class Solver:
    """Finds the best Gaussian of one structure for a target."""

    def __init__(
        self,
        target: Target,
        key: Array,
        structure: str = "full_rank",
        groups: Groups = (),
        init: Array | None = None,
    ):
        """Set up.

        The search is always for the full-rank Gaussian, from which those of other structures
        start: their own landscape is harder, since a correlated posterior is ill-conditioned
        in independent coordinates. Only beyond `MAX_DENSE` coordinates is it diagonal.

        Args:
          target: the target.
          key: a key; all draws are made from it on the host.
          structure: ``"full_rank"``, ``"mean_field"`` or ``"block"``.
          groups: for ``"block"``, the groups of coordinates.
          init: where to start first, shape ``(D,)``; random if not given.
        """
        self.target = target
        self.key, self.words = key, host_words(key)
        self.structure, self.groups = structure, groups
        self.dtype = np.dtype(target.layout.dtype)
        dim = target.dim
        if dim > MAX_DENSE and structure == "mean_field":
            self.like: Root = DiagonalRoot(np.ones(dim, self.dtype))
            self.num_directions = min(dim, MAX_DIRECTIONS)
        else:
            self.like = DenseRoot(np.eye(dim, dtype=self.dtype))
            self.num_directions = dim
        self.tolerance = self.dtype.type(0.2 * max(1.0, dim / 10))
        self.step_tolerance = step_tolerance(dim)
        generator = host_generator(key, 0)
        spreads = np.array([start.spread for start in STARTS])
        self.locs = spreads[:, None] * generator.uniform(-1, 1, (len(STARTS), dim))
        self.given = init is not None
        if self.given:
            self.locs[:2] = np.asarray(init)

    def initial(self) -> SolveState:
        """The state before the first search."""
        fresh = self._start(0)
        nowhere = Candidate(fresh.loc, fresh.root, fresh.log_det, -math.inf)
        refining = self._refining(nowhere)
        return SolveState(
            phase=Phase.SEARCH,
            start=0,
            search=fresh,
            refine=refining,
            candidates=Candidates.none(nowhere),
            refined=_end_of(refining, -math.inf),
            runner_up=_end_of(refining, -math.inf),
            ends=np.full(len(STARTS), np.nan),
            cycle=0,
            chunk=0,
            window=_window(refining.root),
            left=np.full(3, np.nan),
            gradients=0,
            steps=0,
            status=Status.RUNNING,
            history=np.zeros(0),
            history_steps=np.zeros(0, int),
            history_runs=np.zeros(0, int),
        )

    def _start(self, number: int) -> search.SearchState:
        scale = STARTS[number].scale
        root = scaled(self.like, self.dtype.type(scale))
        loc = self.locs[number].astype(self.dtype)
        if STARTS[number].informed and not (self.given and number < 2):
            loc = loc + np.asarray(_prior_point(self.target))
        return search.init(loc, root, self.target.dim * math.log(scale))

    def _refining(self, at: Candidate) -> refine.RefineState:
        """The start of a refinement from the end of a search."""
        loc, root = np.asarray(at.loc), jax.tree.map(np.asarray, at.root)
        if not isinstance(root, DenseRoot) or self.structure == "full_rank":
            return refine.init(loc, root, at.log_det)
        part = restrict(root, self.structure, self.groups)
        return refine.init(loc, part, log_det(part), metric=root)

    def _rotations(self, count: int, *stream: int) -> np.ndarray:
        """Directions of a chunk's first rotations, from one stream of random numbers."""
        shape = (self.target.dim, self.num_directions)
        normal = host_generator(self.words, *stream).standard_normal((count, *shape), self.dtype)
        drawn = np.zeros((CHUNK, *shape[::-1]), self.dtype)
        drawn[:count] = directions_of(normal)
        return drawn

    def info(self, state: SolveState) -> dict[str, Any]:
        """Step, ELBO as the last chunk saw it, and gradients so far."""
        elbo = float(state.history[-1]) if len(state.history) else math.nan
        return {"step": state.steps, "elbo": elbo, "gradients": state.gradients}

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        layout = self.target.layout
        return {
            "kind": "gaussian",
            "structure": [self.structure, list(map(list, self.groups))],
            "sites": [list(layout.names), list(map(list, layout.shapes))],
            "data": data_digest(self.target),
            "model": model_digest(self.target),
            "key": key_words(self.key),
            "starts": hashlib.sha256(self.locs.tobytes()).hexdigest()[:16],
        }

    def result(self, state: SolveState) -> Gaussian:
        """The best Gaussian so far: of the refinement under way, a finished one, or a search."""
        if state.refined.found:
            at = state.refined
        elif state.phase == Phase.REFINE:
            at = state.refine
        else:
            best = state.candidates.best
            searched = best if best.found else state.search
            at = self._refining(searched)
        return Gaussian(jnp.asarray(at.loc), scale_of(at.root))

    def done(self, state: SolveState) -> bool:
        """Whether there is nothing left to do."""
        return state.phase == Phase.DONE

    def advance(self, state: SolveState) -> SolveState:
        """Run one chunk and decide what comes next."""
        with blas_threads(self.target.dim):
            return self._advance(state)

    def _advance(self, state: SolveState) -> SolveState:
        searching = state.phase == Phase.SEARCH
        first = int(state.search.rotation)
        if searching:
            rotations = self._rotations(ROTATIONS, 1, state.start, first)
        else:
            rotations = self._rotations(CHUNK, 2, state.phase, int(state.refine.step))
        averaging = not searching and state.chunk >= 2**state.cycle
        before = (state.search, state.refine._replace(averaging=np.bool_(averaging)))
        after, elbos, gram, total = run_chunk(
            np.bool_(searching),
            rotations,
            np.int32(first),
            before,
            self.target,
            self.tolerance,
        )
        searched, refined = after
        elbos = np.asarray(elbos, float)
        taken = int(np.sum(~np.isnan(elbos))) if searching else CHUNK
        if searching:
            taken = int(searched.step) - int(state.search.step)
            elbo = float(searched.found.elbo)
        else:
            elbo = (
                float(np.mean(elbos[np.isfinite(elbos)])) if np.isfinite(elbos).any() else math.nan
            )
        state = state._replace(
            search=searched,
            refine=refined,
            gradients=state.gradients + taken * (2 * self.num_directions + 1),
            steps=state.steps + taken,
        )
        state = state._replace(
            history=np.append(state.history, elbo),
            history_steps=np.append(state.history_steps, state.steps),
            history_runs=np.append(state.history_runs, state.phase * len(STARTS) + state.start),
        )
        if searching:
            return self._after_search(state)
        if averaging:
            window = state.window.add(np.asarray(gram, float), np.asarray(total, float), elbo)
            state = state._replace(window=window)
        return self._after_refine(state._replace(chunk=state.chunk + 1))

    # ---- searching -----------------------------------------------------------------------

    def _after_search(self, state: SolveState) -> SolveState:
        found = state.search
        if found.status == Status.RUNNING and found.step < MAX_SEARCH_STEPS:
            return state
        end = Candidate(found.loc, found.root, found.log_det, float(found.found.elbo))
        ends = state.ends.copy()
        ends[state.start] = end.elbo if end.found else math.nan
        candidates = state.candidates.add(end, float(self.tolerance))
        state = state._replace(ends=ends, candidates=candidates)
        number = state.start + 1
        if not enough(number, candidates.agreed, self._effort(state)):
            return state._replace(start=number, search=self._start(number))
        if not candidates.best.found:
            return state._replace(phase=Phase.DONE, status=Status.NONFINITE)
        return self._begin_refining(state, candidates.best, Phase.REFINE)

    # ---- refining ------------------------------------------------------------------------

    def _begin_refining(self, state: SolveState, at: Candidate, phase: Phase) -> SolveState:
        refining = self._refining(at)
        window = _window(refining.root)
        return state._replace(phase=phase, refine=refining, cycle=0, chunk=0, window=window)

    def _after_refine(self, state: SolveState) -> SolveState:
        """The stopping test, at the end of a cycle of moving and as much averaging."""
        if state.refine.status == Status.NONFINITE:
            return self._finish(state, Status.NONFINITE)
        if state.chunk < 2 ** (state.cycle + 1):
            return state
        if state.phase == Phase.REFINE_RIVAL:
            root = state.candidates.best.root
            if apart(root, state.refine.loc, state.refined.loc) < NEAR:  # on its way to the same
                rest = state.candidates.without_rival()
                return state._replace(phase=Phase.DONE, candidates=rest)
        state = state._replace(left=np.array(state.window.left_to_gain()))
        if finished(state.window, float(state.refine.gain), self.step_tolerance):
            return self._finish(state, Status.CONVERGED)
        if state.cycle + 1 >= self._last_cycle(state):
            return self._finish(state, Status.MAX_STEPS)
        again = state.refine._replace(turns=np.int32(2))
        return state._replace(
            refine=again, cycle=state.cycle + 1, chunk=0, window=_window(again.root)
        )

    def _last_cycle(self, state: SolveState) -> int:
        """How many cycles there are to be, as it looks at the end of one."""
        worth = state.left[0] > self.step_tolerance and self._effort(state) < CHEAP
        return MAX_CYCLES + MORE_CYCLES * int(worth)

    def _effort(self, state: SolveState) -> float:
        """Operations so far; a gradient is three evaluations."""
        return 3 * self.target.operations * state.gradients

    def _finish(self, state: SolveState, status: Status) -> SolveState:
        window = state.window
        new = _end_of(state.refine, window.elbo / window.chunks if window.chunks else -math.inf)
        if state.phase == Phase.REFINE:
            state = state._replace(refined=new, status=status)
            # A search ends within a few tolerances of its optimum: is the rival's higher?
            rival = state.candidates.rivals[0]
            if rival.elbo > new.elbo - 1 - 2 * float(self.tolerance):
                return self._begin_refining(state, rival, Phase.REFINE_RIVAL)
        elif new.elbo > state.refined.elbo:
            state = state._replace(refined=new, runner_up=state.refined, status=status)
        else:
            state = state._replace(runner_up=new)
        return state._replace(phase=Phase.DONE)


def _end_of(state: refine.RefineState, elbo: float) -> Candidate:
    return Candidate(state.loc, state.root, state.log_det, elbo)


def log_det(root: Any) -> float:
    """``log |det L|`` on the host."""
    if isinstance(root, DiagonalRoot):
        return float(np.sum(np.log(np.abs(root.diagonal))))
    if isinstance(root, DenseRoot):
        return float(np.linalg.slogdet(np.asarray(root.matrix, float))[1])
    return sum(map(log_det, root.blocks))


def _window(root: Root) -> Window:
    return Window.empty(refine.residual_size(root))
