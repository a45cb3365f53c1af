"""Where searches start, and when there have been enough of them."""

from typing import NamedTuple

EFFORT = 3e8  # operations of searching after which two starts that end in one place are enough
MAX_EFFORT = 2e9  # operations of searching after which no start is added to three


class Start(NamedTuple):
    """A Gaussian to search from; coordinates are those of the unconstrained space."""

    spread: float  # the location is uniform within ± this
    scale: float  # standard deviation of every coordinate
    informed: bool  # whether the location is about the prior means rather than about zero


STARTS = (
    Start(0.1, 1.0, informed=True),
    Start(1.0, 0.1, informed=True),
    Start(2.0, 1.0, informed=False),
    Start(2.0, 0.1, informed=False),
    Start(1.0, 0.1, informed=True),
    Start(1.0, 1.0, informed=False),
    Start(1.0, 0.1, informed=True),
    Start(2.0, 0.1, informed=False),
    Start(1.0, 0.1, informed=True),
    Start(2.0, 1.0, informed=False),
    Start(1.0, 0.1, informed=True),
    Start(0.5, 0.3, informed=False),
)


def enough(number: int, agreed: int, effort: float) -> bool:
    """Whether to search from no further start.

    Where all have ended in one place two are enough, if they were dear. Where some have not, the
    best must have been found three times, at twice the price. A cheap target gets all of
    `STARTS`.

    Args:
      number: starts so far.
      agreed: those that ended at the best.
      effort: operations so far.

    Returns:
      Whether they are enough; after the last of `STARTS` they are.
    """
    if number >= len(STARTS) or (effort >= MAX_EFFORT and number >= 3):
        return True
    if agreed == number:
        return number >= 2 and effort >= EFFORT
    return agreed >= 3 and effort >= 2 * EFFORT
