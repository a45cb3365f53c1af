"""Low-rank-plus-diagonal Gaussians for many coordinates: gradients and Hessian-vector products.

First the best mean-field Gaussian, by the second-order solver. In its coordinates the averaged
curvature has a unit diagonal, and its smallest eigenvalues λ are the directions in which mean
field is too narrow; they start the factor, with variance 1/λ - 1. Then stochastic gradients
(sticking the landing) in those coordinates bring location, diagonal and factor to the optimum.
With one coordinate there is nothing for a factor to add, and the mean-field Gaussian is the result.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from vi.compile import quick_jit
from vi.families import Gaussian, low_rank
from vi.families.scale import LowRankScale
from vi.gaussian.solve import Solver, SolveState
from vi.program import StickingTheLanding, elbo
from vi.random import host_generator
from vi.status import Status
from vi.stochastic import StochasticRun, StochasticState
from vi.targets import Target
from vi.targets.affine import AffineTarget

CURVATURE_DRAWS = 8
LEARNING_RATE = 1e-2  # standard deviations a step
PARTICLES = 8
_ADAM = optax.adam(LEARNING_RATE)


class LowRankState(NamedTuple):
    """Two phases: the mean-field solver, then the polish."""

    polishing: bool
    solve: SolveState
    polish: StochasticState
    status: int


class LowRankSolver:
    """Finds a low-rank-plus-diagonal Gaussian; a `vi.loop.Run`."""

    def __init__(self, target: Target, key: Array, rank: int, init: Array | None = None):
        """Set up.

        Args:
          target: the target.
          key: a key.
          rank: R, cut to D - 1.
          init: where to start first, shape ``(D,)``.
        """
        self.target, self.key = target, key
        self.rank = max(1, min(rank, target.dim - 1))
        self.solver = Solver(target, key, "mean_field", (), init)

    def _polisher(self, solve: SolveState, start: Gaussian) -> StochasticRun:
        q = self.solver.result(solve)
        whitened = AffineTarget(self.target, q.loc, q.scale)
        estimator = elbo(num_particles=PARTICLES, estimator=StickingTheLanding())
        return StochasticRun(whitened, start, self.key, estimator, _ADAM, None, PARTICLES)

    def begun(self, state: Any) -> tuple[Solver, Any]:
        """The search that it began with, and its state."""
        return self.solver, state.solve

    def initial(self) -> LowRankState:
        """The state before the first chunk."""
        solve = self.solver.initial()
        blank = low_rank(self.target.dim, self.rank, loc=jnp.asarray(solve.candidates.best.loc))
        return LowRankState(False, solve, self._polisher(solve, blank).initial(), 0)  # noqa: FBT003

    def advance(self, state: LowRankState) -> LowRankState:
        """Run one chunk of the phase that is on."""
        if state.polishing:
            run = self._polisher(state.solve, state.polish.q)
            polish = run.advance(state.polish)
            return state._replace(polish=polish, status=int(polish.status))
        solve = self.solver.advance(state.solve)
        if not self.solver.done(solve):
            return state._replace(solve=solve)
        if solve.status == Status.NONFINITE or self.target.dim == 1:
            return state._replace(solve=solve, status=int(solve.status))
        start = self._start(solve)
        polish = self._polisher(solve, start).initial()
        return LowRankState(True, solve, polish, int(Status.RUNNING))  # noqa: FBT003

    def _start(self, solve: SolveState) -> Gaussian:
        """The low-rank Gaussian, in mean-field coordinates, that curvature suggests."""
        q = self.solver.result(solve)
        generator = host_generator(self.key, 5)
        noise = generator.normal(size=(CURVATURE_DRAWS // 2, self.target.dim))
        dtype = self.target.layout.dtype
        noise = np.concatenate([noise, -noise]).astype(dtype)
        values, vectors = _smallest(q, self.target, noise, self.rank)
        found = len(values)
        excess = np.clip(1 / np.maximum(values, 1e-4) - 1, 1e-3, None)
        factor = 0.03 * np.eye(self.target.dim, self.rank)  # where no eigenpair was found
        factor[:, :found] = vectors * np.sqrt(excess)
        zeros = jnp.zeros(self.target.dim, dtype)
        scale = LowRankScale.of(jnp.ones(self.target.dim, dtype), jnp.asarray(factor.astype(dtype)))
        return Gaussian(zeros, scale)

    def done(self, state: LowRankState) -> bool:
        """Whether there is nothing left to do."""
        return state.status != Status.RUNNING

    def info(self, state: LowRankState) -> dict[str, Any]:
        """Step, ELBO as the last chunk saw it, and gradients so far."""
        solve = self.solver.info(state.solve)
        if not state.polishing:
            return solve
        elbos = state.polish.elbos
        return {
            "step": solve["step"] + int(state.polish.step),
            "elbo": float(elbos[-1]) if len(elbos) else math.nan,
            "gradients": solve["gradients"] + state.polish.gradients,
        }

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        return {**self.solver.fingerprint(), "kind": "low_rank", "rank": self.rank}

    def result(self, state: LowRankState) -> Gaussian:
        """The low-rank Gaussian, or the mean-field one while that is all there is."""
        q = self.solver.result(state.solve)
        if not state.polishing:
            return q
        inner = self._polisher(state.solve, state.polish.q).result(state.polish)
        s = q.scale.diagonal
        scale = LowRankScale.of(s * inner.scale.diagonal, s[:, None] * inner.scale.factor)
        return Gaussian(q.loc + s * inner.loc, scale)


@quick_jit
def _curvature(q: Gaussian, target: Target, noise: Array, v: Array) -> Array:
    """The averaged curvature in mean-field coordinates, times a vector."""
    s = q.scale.diagonal
    at = lambda e: -s * target.hvp(q.loc + s * e, s * v)
    return jnp.mean(jax.vmap(at)(noise), axis=0)


def _smallest(q: Gaussian, target: Target, noise: np.ndarray, rank: int) -> Any:
    """Smallest eigenpairs of the averaged curvature, by ARPACK's Lanczos on the host."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    def matvec(v: np.ndarray) -> np.ndarray:
        return np.asarray(_curvature(q, target, noise, v.reshape(-1).astype(noise.dtype)), float)

    shape = (target.dim, target.dim)
    operator = LinearOperator(shape, matvec=matvec, dtype=float)  # pyright: ignore
    start = np.cos(np.arange(target.dim) * 2.4) + 1.5  # any fixed vector without symmetry
    try:
        return eigsh(operator, k=rank, which="SA", v0=start, tol=1e-2, maxiter=20 * rank)
    except ArpackNoConvergence as partial:
        return partial.eigenvalues, partial.eigenvectors
