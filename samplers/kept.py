"""What is kept of every transition of every chain."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int

MAX_DOUBLINGS = 10  # of a trajectory: at most 1023 leapfrog steps a transition


class Transition(NamedTuple):
    """Positions and statistics of T transitions of C chains."""

    z: Float[Array, "C T D"]  # in the base target's coordinates
    log_density: Float[Array, "C T"]  # of the base target there
    acceptance: Float[Array, "C T"]
    divergent: Bool[Array, "C T"]
    leapfrogs: Int[Array, "C T"]
    energy: Float[Array, "C T"]
