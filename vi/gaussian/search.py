"""Trust-region search for a Gaussian from any start, gradients only.

Between changes of the rotation the spherical-radial ELBO is a deterministic function of the
Gaussian, so a step can be judged by whether it raises it. Steps are natural-gradient ones in
the metric |A| of the whitened curvature (saddle-free), limited in the location by a radius
and in each log variance by another; both shrink when a step fails and grow when it succeeds.
The rotation changes every few steps, and the search ends where a *fresh* rotation finds
nothing left to gain, or where two in a row have brought nothing.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi.gaussian.root import SearchRoot, scaled
from vi.gaussian.spherical import Estimate, distance
from vi.status import Status

MOVES_PER_ROTATION = 4
STALE = 2  # rotations that bring nothing: what is left is noise
MAX_SHRINKS = 40  # of a start at which the density is not finite


class SearchState(NamedTuple):
    """Where the search is, and what it will look at next."""

    step: Array
    loc: Float[Array, " D"]
    root: SearchRoot
    log_det: Array
    found: Estimate  # at (loc, root)
    next_loc: Float[Array, " D"]
    next_root: SearchRoot
    next_log_det: Array
    rotation: Array  # number of the rotation in use
    refresh: Array  # whether the next look is at the same place with a new rotation
    moves: Array  # made or tried with this rotation
    shrinks: Array
    fresh_elbo: Array  # with the rotation before this one when it was new
    stale: Array  # rotations in a row that brought less than the tolerance
    length: Array  # of the step tried last, in whitened coordinates
    radius_loc: Array
    radius_scale: Array
    status: Array


def init(loc: np.ndarray, root: SearchRoot, log_det: float) -> SearchState:
    """Start a search at N(loc, root rootᵀ). NumPy in and out: nothing is compiled."""
    dtype, dim = loc.dtype, loc.shape[0]
    real, count = dtype.type, np.int32
    nowhere = np.zeros_like(loc)
    nothing = Estimate(real(-math.inf), nowhere, nowhere, scaled(root, real(0)), np.False_)
    return SearchState(
        step=count(0),
        loc=loc,
        root=root,
        log_det=real(log_det),
        found=nothing,
        next_loc=loc,
        next_root=root,
        next_log_det=real(log_det),
        rotation=count(0),
        refresh=np.True_,
        moves=count(0),
        shrinks=count(0),
        fresh_elbo=real(-math.inf),
        stale=count(0),
        length=real(0),
        radius_loc=real(2 * math.sqrt(dim)),
        radius_scale=real(math.log(10.0)),
        status=count(Status.RUNNING),
    )


def update(seen: Estimate, state: SearchState, tolerance: Array | float) -> SearchState:
    """Keep what was seen at the next place if it is better, and choose where to look then.

    Args:
      seen: the rule at ``(next_loc, next_root)``, with rotation number ``state.rotation``.
      state: the state.
      tolerance: nats a step could gain (by `distance`) below which the search ends.

    Returns:
      The next state.

    Complexity:
      One eigendecomposition.
    """
    dim, dtype = state.loc.shape[0], state.loc.dtype
    noise = 4 * jnp.finfo(dtype).eps * jnp.abs(seen.elbo)
    better = seen.elbo > state.found.elbo - noise
    accept = seen.finite & (state.refresh | better)

    def choose(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, old)

    gain = seen.elbo - state.found.elbo
    loc, root, log_det, found = choose(
        (state.next_loc, state.next_root, state.next_log_det, seen),
        (state.loc, state.root, state.log_det, state.found),
    )

    # Trust: grow after a step that paid, shrink after one that failed.
    moved = ~state.refresh
    grow = moved & accept & (gain > 0.1)
    fail = moved & ~accept
    radius_loc = jnp.where(grow, jnp.minimum(3 * state.radius_loc, 1e8), state.radius_loc)
    radius_loc = jnp.where(fail, 0.25 * jnp.minimum(radius_loc, state.length), radius_loc)
    radius_scale = jnp.where(
        grow, jnp.minimum(1.5 * state.radius_scale, math.log(100.0)), state.radius_scale
    )
    radius_scale = jnp.where(fail, radius_scale / 3, radius_scale)
    stuck = fail & (radius_scale < 1e-3)
    radius_loc = jnp.where(stuck, math.sqrt(dim), radius_loc)
    radius_scale = jnp.where(stuck, 0.5, radius_scale)

    near = distance(found) < tolerance
    fresh = accept & state.refresh
    moves = jnp.where(state.refresh, 0, state.moves + 1)
    rise = seen.elbo - state.fresh_elbo
    stale = jnp.where(fresh, jnp.where(rise < tolerance, state.stale + 1, 0), state.stale)
    fresh_elbo = jnp.where(fresh, seen.elbo, state.fresh_elbo)
    converged = fresh & (near | (stale >= STALE))
    refresh = ~fresh & (near | stuck | (moves >= MOVES_PER_ROTATION))

    # A start (or a fresh rotation) at which the density is not finite: draw in and try again.
    blind = state.refresh & ~seen.finite
    shrinks = state.shrinks + blind
    lost = shrinks > MAX_SHRINKS

    propose_loc, propose_root, propose_log_det, length = _propose(
        loc, root, log_det, found, radius_loc, radius_scale
    )

    def pick(when_blind: Any, when_refresh: Any, otherwise: Any) -> Any:
        return jax.tree.map(
            lambda a, b, c: jnp.where(blind, a, jnp.where(refresh, b, c)),
            when_blind,
            when_refresh,
            otherwise,
        )

    never = ~jnp.isfinite(state.found.elbo)  # not even the start has been seen finite
    shrunk_loc = jnp.where(never, 0.5, 1.0) * state.next_loc
    shrunk = (
        shrunk_loc,
        scaled(state.next_root, jnp.asarray(0.3, dtype)),
        state.next_log_det + dim * math.log(0.3),
    )
    next_loc, next_root, next_log_det = pick(
        shrunk, (loc, root, log_det), (propose_loc, propose_root, propose_log_det)
    )
    status = jnp.where(converged, Status.CONVERGED, state.status)
    status = jnp.where(lost, Status.NONFINITE, status)
    return SearchState(
        step=state.step + 1,
        loc=loc,
        root=root,
        log_det=log_det,
        found=found,
        next_loc=next_loc,
        next_root=next_root,
        next_log_det=next_log_det,
        rotation=state.rotation + refresh,
        refresh=refresh | blind,
        moves=moves,
        shrinks=shrinks,
        fresh_elbo=fresh_elbo,
        stale=stale,
        length=length,
        radius_loc=radius_loc,
        radius_scale=radius_scale,
        status=status.astype(jnp.int32),
    )


def _propose(
    loc: Array,
    root: SearchRoot,
    log_det: Array,
    found: Estimate,
    radius_loc: Array,
    radius_scale: Array,
) -> tuple[Array, SearchRoot, Array, Array]:
    """The trust-region step in the metric of the absolute curvature."""
    excess, rotate, rebuild = root.spectral(found.excess)
    curvature = jnp.abs(1 + excess)
    log_change = jnp.clip(jnp.log(jnp.maximum(curvature, 1e-12)), -radius_scale, radius_scale)
    narrow = jnp.exp(-0.5 * log_change)
    along = rotate(found.gradient) / jnp.maximum(curvature, jnp.exp(-radius_scale))
    length = jnp.linalg.norm(along)
    along = along * jnp.minimum(1.0, radius_loc / jnp.maximum(length, 1e-30))
    new_root = rebuild(narrow)
    new_loc = loc + new_root.matmul(along / narrow)
    return new_loc, new_root, log_det - 0.5 * jnp.sum(log_change), length
