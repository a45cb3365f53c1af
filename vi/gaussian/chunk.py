"""The one jitted function of the solver: a chunk of steps of the search or the refinement."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.compile import quick_jit
from vi.gaussian import refine, search
from vi.gaussian.root import DenseRoot
from vi.gaussian.spherical import estimate
from vi.status import Status
from vi.targets import Target

CHUNK = 10  # steps
ROTATIONS = 4  # supplied for a chunk of the search, which uses each for a few steps

States = tuple[search.SearchState, refine.RefineState]


@quick_jit
def run_chunk(
    searching: Array,
    rotations: Float[Array, "T R D"],
    first: Array,
    states: States,
    target: Target,
    tolerance: Array,
) -> tuple[States, Float[Array, " T"], Float[Array, "T T"], Array]:
    """Up to one step for each rotation, of the search or of the refinement.

    Both look at the density in the same way, so that the model is traced and compiled once.

    Args:
      searching: whether to search; otherwise to refine.
      rotations: directions, T = `CHUNK`; the search may use the first `ROTATIONS`.
      first: number of the first rotation, for the search.
      states: of the search and of the refinement; one of them is moved.
      target: the target.
      tolerance: of the search.

    Returns:
      The states; and of the refinement the ELBO at each step, the Gram matrix of the residuals,
      with NaN in the row and column of a step that was skipped or not taken, and the sum of the
      residuals of the others.
    """
    length, _, dim = rotations.shape
    radius = math.sqrt(dim + 2)
    blank = jnp.full(refine.residual_size(states[1].root), jnp.nan, rotations.dtype)

    def step(states: States, number: Array) -> tuple[States, tuple[Array, Array]]:
        searched, refined = states
        rotation = jnp.where(searching, searched.rotation - first, number)
        looking = (searched.next_loc, searched.next_root, searched.next_log_det)
        root = refined.root.dense() if isinstance(searched.root, DenseRoot) else refined.root
        here = (refined.loc, root, refined.log_det)
        loc, root, log_det = jax.tree.map(lambda a, b: jnp.where(searching, a, b), looking, here)
        seen = estimate(target.values_and_grads, loc, root, log_det, rotations[rotation], radius)

        def refined_by() -> tuple[States, Array]:
            moved, residual = refine.update(seen, refined)
            return (searched, moved), residual

        states, residual = jax.lax.cond(
            searching,
            lambda: ((search.update(seen, searched, tolerance), refined), blank),
            refined_by,
        )
        return states, (seen.elbo, residual)

    def guarded(states: States, number: Array) -> tuple[States, tuple[Array, Array]]:
        searched, refined = states
        supplied = searched.rotation - first < ROTATIONS
        search_on = (searched.status == Status.RUNNING) & supplied
        on = jnp.where(searching, search_on, refined.status == Status.RUNNING)
        idle = (jnp.asarray(jnp.nan, rotations.dtype), blank)
        return jax.lax.cond(on, step, lambda states, _: (states, idle), states, number)

    states, (elbos, residuals) = jax.lax.scan(guarded, states, jnp.arange(length))
    return states, elbos, residuals @ residuals.T, jnp.nansum(residuals, axis=0)
