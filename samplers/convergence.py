"""Whether chains agree and how many independent draws they are worth: the verdict on MCMC."""

from typing import NamedTuple

import numpy as np

from vi.posterior import Verdict
from vi.status import Status

RHAT = 1.01, 1.05  # largest for "good", and for "fair"
PER_CHAIN = 100, 25  # effective draws a chain, of bulk and of tail
BFMI = 0.3  # of the energy, below which the momentum hardly moves it
DIVERGENT = 0.01  # share of transitions for more than "poor"


class Convergence(NamedTuple):
    """Diagnostics of chains, the worst over all coordinates.

    Attributes:
      rhat: rank-normalised, of the worst coordinate.
      ess_bulk: effective draws for means, the least.
      ess_tail: effective draws for the 5 % and 95 % quantiles, the least.
      worst: name of the coordinate of the largest R-hat.
      divergences: transitions whose energy error was too large.
      transitions: of all chains.
      bfmi: how well momenta explore energies, the least over chains; low is below 0.3.
      acceptance: mean probability of acceptance.
      capped: share of transitions that ran into the longest trajectory.
    """

    rhat: float
    ess_bulk: float
    ess_tail: float
    worst: str
    divergences: int
    transitions: int
    bfmi: float
    acceptance: float
    capped: float


def bfmi(energy: np.ndarray) -> np.ndarray:
    """Bayesian fraction of missing information of each chain, from energies ``(C, S)``."""
    variance = energy.var(axis=1)
    moved = np.mean(np.diff(energy, axis=1) ** 2, axis=1)
    return moved / np.where(variance > 0, variance, np.nan)


def judge(
    found: Convergence, num_chains: int, status: Status, notes: list[str], *, exact: bool = True
) -> Verdict:
    """Grade chains.

    ``good``: R-hat of several chains below 1.01, at least 100 effective draws a chain of bulk and
    of tail, no divergence and BFMI above 0.3, by an exact algorithm. ``fair``: R-hat below 1.05,
    25 effective draws a chain, at most 1 % divergences. ``poor`` else; ``failed`` if the run broke
    down.
    """
    said = (
        f"R-hat at most {found.rhat:.3f}, effective draws at least {found.ess_bulk:.0f} (bulk) and "
        f"{found.ess_tail:.0f} (tail), {found.divergences} divergences"
    )
    least = min(found.ess_bulk, found.ess_tail) / num_chains
    clean = found.divergences == 0 and not found.bfmi < BFMI and exact and num_chains > 1
    advice = []
    if num_chains == 1:
        advice.append("One chain cannot show that others would go elsewhere.")
    if not exact:
        advice.append(
            "The algorithm is exact only as its step size goes to zero, which no diagnostic of "
            "chains sees: compare with half the step."
        )
    if found.divergences:
        advice.append(
            "Divergences mark a region that the chains cannot enter: reparameterise the model "
            "(non-centred), or raise target_acceptance."
        )
    if found.bfmi < BFMI:
        advice.append(f"BFMI {found.bfmi:.2f} is below {BFMI}: tails are explored slowly.")
    if found.capped > DIVERGENT:
        advice.append(
            f"{found.capped:.0%} of the trajectories were cut at their longest: the posterior is "
            "badly scaled in these coordinates; start from a better approximation."
        )
    if status.failed:
        grade, text = "failed", f"{status.message} {said}."
    elif found.rhat <= RHAT[0] and least >= PER_CHAIN[0] and clean:
        grade, text = "good", f"the chains agree: {said}."
    elif found.rhat <= RHAT[1] and least >= PER_CHAIN[1] and _rare(found):
        grade, text = "fair", f"the chains are usable with care: {said}."
    else:
        grade = "poor"
        text = f"the chains cannot be trusted: {said}; the worst coordinate is {found.worst}."
        if found.rhat > RHAT[1]:
            advice.append("Chains that stay apart may be in different modes; run longer to see.")
    if status not in (Status.CONVERGED, Status.RUNNING) and not status.failed:
        advice.append(status.message)
    return Verdict(grade, " ".join([text, *advice, *notes]))


def _rare(found: Convergence) -> bool:
    return found.divergences <= DIVERGENT * found.transitions
