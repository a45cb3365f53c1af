"""Programs: objectives, and the estimators that differentiate them."""

from vi.program.estimators import Pathwise, StickingTheLanding
from vi.program.objective import Objective, elbo, objective, with_estimator

__all__ = [
    "Objective",
    "Pathwise",
    "StickingTheLanding",
    "elbo",
    "objective",
    "with_estimator",
]
