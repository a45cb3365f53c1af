"""Variational inference: from a NumPyro model or a log density to a posterior with a verdict."""

from vi import gaussian
from vi.errors import CheckpointError, FitError, NonFiniteTargetError, TargetError
from vi.families import Delta, Gaussian, Mixture, block, full_rank, low_rank, mean_field, mixture
from vi.fit import fit
from vi.posterior import Posterior
from vi.program import (
    AcceptReject,
    DoublyReparameterized,
    Enumerate,
    MeasureValued,
    Objective,
    Pathwise,
    Penalised,
    Relaxed,
    Score,
    StickingTheLanding,
    elbo,
    objective,
)
from vi.status import Status
from vi.svi import SVI
from vi.targets import Target, target

__all__ = [
    "SVI",
    "AcceptReject",
    "CheckpointError",
    "Delta",
    "DoublyReparameterized",
    "Enumerate",
    "FitError",
    "Gaussian",
    "MeasureValued",
    "Mixture",
    "NonFiniteTargetError",
    "Objective",
    "Pathwise",
    "Penalised",
    "Posterior",
    "Relaxed",
    "Score",
    "Status",
    "StickingTheLanding",
    "Target",
    "TargetError",
    "block",
    "elbo",
    "fit",
    "full_rank",
    "gaussian",
    "low_rank",
    "mean_field",
    "mixture",
    "objective",
    "target",
]
