"""The optima that searches end at: the best, and the best of those that are elsewhere."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Array

from vi.gaussian.root import DenseRoot, DiagonalRoot, Root

MAX_RIVALS = 3
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
    rivals: tuple[Candidate, ...]  # `MAX_RIVALS` ends elsewhere, the best first
    agreed: int  # starts that ended at the best

    @classmethod
    def none(cls, blank: Candidate) -> "Candidates":
        """Before the first search; ``blank`` gives the shapes."""
        return cls(blank, (blank,) * MAX_RIVALS, 0)

    def add(self, end: Candidate, tolerance: float) -> "Candidates":
        """Place the end of one more search.

        Args:
          end: the end; ignored if its ELBO is not finite.
          tolerance: nats within which searches end.

        Returns:
          The candidates with it.
        """
        best, rivals, agreed = self
        if not end.found:
            return self
        if not best.found:
            return self._replace(best=end, agreed=1)
        if _same(best, end, tolerance):
            return self._replace(best=max(best, end, key=_elbo), agreed=agreed + 1)
        if end.elbo > best.elbo:
            apart = tuple(r for r in rivals if not _same(r, end, tolerance))
            return Candidates(end, _place(apart, best, tolerance), 1)
        return self._replace(rivals=_place(rivals, end, tolerance))

    def without_rival(self) -> "Candidates":
        """Without the best of the rivals."""
        return self._replace(rivals=(*self.rivals[1:], self.rivals[0].dropped()))


def _elbo(candidate: Candidate) -> float:
    return candidate.elbo


def _same(a: Candidate, b: Candidate, tolerance: float) -> bool:
    """Whether two searches ended at one optimum, as far as their locations tell."""
    if not (a.found and b.found):
        return False
    return max(apart(c.root, a.loc, b.loc) for c in (a, b)) < SAME * tolerance


def _place(
    rivals: tuple[Candidate, ...], end: Candidate, tolerance: float
) -> tuple[Candidate, ...]:
    near = [r for r in rivals if _same(r, end, tolerance)]
    far = [r for r in rivals if r.found and not _same(r, end, tolerance)]
    ordered = sorted([*far, max([*near, end], key=_elbo)], key=_elbo, reverse=True)[:MAX_RIVALS]
    return (*ordered, *(end.dropped() for _ in range(MAX_RIVALS - len(ordered))))


def apart(root: DenseRoot | DiagonalRoot, a: Array, b: Array) -> float:
    """The squared distance ``‖L⁻¹ (a - b)‖²``, on the host."""
    x = np.asarray(b, float) - np.asarray(a, float)
    if isinstance(root, DiagonalRoot):
        return float(np.sum((x / np.asarray(root.diagonal, float)) ** 2))
    return float(np.sum(np.linalg.solve(np.asarray(root.matrix, float), x) ** 2))
