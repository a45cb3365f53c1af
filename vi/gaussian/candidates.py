"""The optima that searches end at: the best, and the best of those that are elsewhere."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Array

from vi.gaussian.root import DenseRoot, DiagonalRoot, Root

SAME = 40  # squared distance, in standard deviations and tolerances, of ends that are one optimum


class Candidate(NamedTuple):
    """A Gaussian that a search, or a refinement, ended with; its ELBO is -inf if it is none."""

    loc: Array
    root: Root
    log_det: Array
    elbo: float

    @property
    def found(self) -> bool:
        """Whether there is one."""
        return math.isfinite(self.elbo)

    def dropped(self) -> "Candidate":
        """The same arrays, no longer a candidate."""
        return self._replace(elbo=-math.inf)


class Candidates(NamedTuple):
    """What the searches so far have come to."""

    best: Candidate
    rival: Candidate  # of the ends elsewhere, the best
    agreed: int  # starts that ended at the best

    def add(self, end: Candidate, tolerance: float) -> "Candidates":
        """Place the end of one more search.

        Args:
          end: the end; ignored if its ELBO is not finite.
          tolerance: nats within which searches end.

        Returns:
          The candidates with it.
        """
        best, rival, agreed = self
        if not end.found:
            return self
        if not best.found:
            return Candidates(end, rival, 1)
        if max(apart(c.root, best.loc, end.loc) for c in (best, end)) < SAME * tolerance:
            return Candidates(end if end.elbo > best.elbo else best, rival, agreed + 1)
        if end.elbo > best.elbo:
            return Candidates(end, best, 1)
        return Candidates(best, end if end.elbo > rival.elbo else rival, agreed)


def apart(root: DenseRoot | DiagonalRoot, a: Array, b: Array) -> float:
    """The squared distance ``‖L⁻¹ (a - b)‖²``, on the host."""
    x = np.asarray(b, float) - np.asarray(a, float)
    if isinstance(root, DiagonalRoot):
        return float(np.sum((x / np.asarray(root.diagonal, float)) ** 2))
    return float(np.sum(np.linalg.solve(np.asarray(root.matrix, float), x) ** 2))
