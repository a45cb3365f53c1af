"""The result of sequential Monte Carlo: populations of particles, evidence, and a verdict."""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from samplers.convergence import RHAT
from samplers.grouped import Grouped
from samplers.mixing import rhat_and_ess
from samplers.saved import fields, read, told
from vi import Posterior, Target, Verdict, storage
from vi.posterior import evaluate
from vi.posterior.saved import check_density
from vi.status import Status
from vi.targets import target as make_target

APART = 0.3, 1.0  # standard deviation of log Ẑ over populations, nats, for "good" and for "fair"
FOUNDERS = 50, 10  # first particles with offspring in each population, likewise
ACCEPTED = 0.3  # mean acceptance of the last moves, below which particles do not move


class Agreement(NamedTuple):
    """Whether populations agree, and whether each is one.

    Attributes:
      rhat: over populations, of the worst coordinate.
      worst: that coordinate's name.
      log_evidences: of each population, nats.
      founders: first particles that have offspring at the end, the least over populations.
      acceptance: mean acceptance of the last moves.
      divergences: moves whose energy error was too large.
      temperatures: levels between prior and posterior.
      undefined: first particles without a finite density.
      reached: least inverse temperature at the end: 1 is that of the posterior.
    """

    rhat: float
    worst: str
    log_evidences: tuple[float, ...]
    founders: int
    acceptance: float
    divergences: int
    temperatures: int
    undefined: int
    reached: float = 1.0


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Population(Grouped):
    r"""Draws of a posterior by populations of particles, its evidence, and how far to trust them.

    Attributes:
      target: what was sampled, with its data.
      points: the particles, ``(C, N, D)`` on the unconstrained space, equally weighted.
      log_evidence: log of the mean of the populations' estimates of :math:`\int p`, nats.
      log_evidence_error: its standard error over populations; NaN for a single one.
      temperatures: the inverse temperatures that each population went through.
      status: how the run ended.
      verdict: a grade (``good``, ``fair``, ``poor``, ``failed``) and its reasons; print it.
      agreement: what is behind the verdict.
      cost: ``{"gradients", "seconds", "compile_seconds"}``; what the start cost is in
        ``start.cost``.
      start: the approximation from which the particles began, or None for those from disk.
      key: the key of the run.
      provenance: versions, key, digest of the data, options.
    """

    target: Target
    points: Float[np.ndarray, "C N D"]
    log_evidence: float
    log_evidence_error: float
    temperatures: tuple[np.ndarray, ...]
    status: Status
    verdict: Verdict
    agreement: Agreement
    cost: dict[str, float]
    start: Posterior | None
    key: Any
    provenance: dict[str, Any]

    @property
    def _points(self) -> Float[np.ndarray, "C N D"]:
        return self.points

    def _attributes(self) -> dict[str, Any]:
        return {"log_evidence": self.log_evidence}

    def save(self, path: str | os.PathLike) -> None:
        """Write the particles, without the model and its data, to one file; see `load`.

        Args:
          path: where to; a file there is kept as ``NAME.previous``.
        """
        meta = {
            **told("population", self),
            "evidence": [self.log_evidence, self.log_evidence_error],
            "agreement": self.agreement._asdict(),
        }
        density = evaluate.log_density(self.target, self.points[0][:64])
        storage.save(path, [self.points, np.asarray(density), *self.temperatures], meta)

    @classmethod
    def load(
        cls, path: str | os.PathLike, model: Callable | Target, *args: Any, **kwargs: Any
    ) -> "Population":
        """Read populations that `save` wrote. No code in the file is executed.

        Args:
          path: the file.
          model: the model or log density, or a `vi.Target`; it is not in the file.
          *args: arguments of the model: the data, which are not in the file either.
          **kwargs: keyword arguments of the model.

        Raises:
          CheckpointError: if the file is not whole or not of populations, or if the model's sites
            or data are not those that were sampled.
        """
        target = make_target(model, *args, **kwargs)
        (points, density, *heats), meta = read(path, "population", target)
        check_density(path, target, points[0], density)
        found = {**meta["agreement"], "log_evidences": tuple(meta["agreement"]["log_evidences"])}
        return cls(
            target=target,
            points=points,
            log_evidence=meta["evidence"][0],
            log_evidence_error=meta["evidence"][1],
            temperatures=tuple(heats),
            agreement=Agreement(**found),
            **fields(meta),
        )


def evidence(log_evidences: np.ndarray) -> tuple[float, float]:
    """Log of the mean of estimates, and its standard error by their spread."""
    top = log_evidences.max()
    ratios = np.exp(log_evidences - top)
    count = len(ratios)
    error = ratios.std(ddof=1) / ratios.mean() / math.sqrt(count) if count > 1 else math.nan
    return float(top + math.log(ratios.mean())), float(error)


def agreement(points: np.ndarray, target: Target, **rest: Any) -> Agreement:
    """Compare populations of particles, coordinate by coordinate."""
    rhats = rhat_and_ess(points)[0]
    rhats = np.where(np.isnan(rhats), np.inf, rhats)
    worst = int(np.argmax(rhats))
    return Agreement(float(rhats[worst]), target.layout.coordinate(worst), **rest)


def judge(found: Agreement, status: Status, notes: list[str]) -> Verdict:
    """Grade populations.

    ``good``: R-hat over several populations below 1.01, their log evidences within a standard
    deviation of 0.3 nats, at least 50 founders in each, and moves that are accepted. ``fair``:
    below 1.05, within 1 nat, and 10 founders. ``poor`` else, and where the run ended before the
    posterior; ``failed`` if it broke down.
    """
    count = len(found.log_evidences)
    apart = float(np.std(found.log_evidences, ddof=1)) if count > 1 else math.nan
    said = (
        f"R-hat at most {found.rhat:.3f} over {count} populations, log evidences {apart:.2f} nats "
        f"apart, at least {found.founders} founders, {found.temperatures} temperatures"
    )
    advice = []
    if count == 1:
        advice.append("One population cannot show that others would go elsewhere.")
    if found.acceptance < ACCEPTED:
        advice.append(
            f"{found.acceptance:.0%} of the last moves were accepted: raise num_moves, or "
            "reparameterise the model."
        )
    if found.founders < FOUNDERS[0]:
        advice.append("Few founders: raise num_particles, or start from a better approximation.")
    if found.undefined:
        advice.append(f"{found.undefined} first particles had no finite density and were dropped.")
    fits = lambda i: (
        found.rhat <= RHAT[i]
        and found.founders >= FOUNDERS[i]
        and not apart > APART[i]
        and found.acceptance >= ACCEPTED
    )
    if status.failed:
        grade, text = "failed", f"{status.message} {said}."
    elif found.reached < 1:
        grade = "poor"
        text = (
            "the particles have not come to the posterior: the run ended at inverse temperature "
            f"{found.reached:.2g}, and its evidence is unknown. {said}."
        )
    elif fits(0) and count > 1:
        grade, text = "good", f"the populations agree: {said}."
    elif fits(1):
        grade, text = "fair", f"the populations are usable with care: {said}."
    else:
        grade = "poor"
        text = f"the populations cannot be trusted: {said}; the worst coordinate is {found.worst}."
    if status not in (Status.CONVERGED, Status.RUNNING) and not status.failed:
        advice.append(status.message)
    return Verdict(grade, " ".join([text, *advice, *notes]))
