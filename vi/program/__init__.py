"""Programs: objectives, and the estimators that differentiate them."""

from vi.program.bound import Penalised
from vi.program.estimators import (
    AcceptReject,
    DoublyReparameterized,
    Enumerate,
    MeasureValued,
    Pathwise,
    Relaxed,
    Score,
    StickingTheLanding,
)
from vi.program.objective import Objective, elbo, objective, with_estimator

__all__ = [
    "AcceptReject",
    "DoublyReparameterized",
    "Enumerate",
    "MeasureValued",
    "Objective",
    "Pathwise",
    "Penalised",
    "Relaxed",
    "Score",
    "StickingTheLanding",
    "elbo",
    "objective",
    "with_estimator",
]
