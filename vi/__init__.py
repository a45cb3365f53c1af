"""Variational inference: from a NumPyro model or a log density to a posterior with a verdict."""

from vi import gaussian
from vi.errors import CheckpointError, FitError, NonFiniteTargetError, TargetError
from vi.families import Delta, Gaussian, Mixture, block, full_rank, low_rank, mean_field, mixture
from vi.fitting import fit
from vi.posterior import Diagnostics, Posterior, Verdict
from vi.program import Objective, Pathwise, StickingTheLanding, elbo, objective
from vi.status import Status
from vi.svi import SVI
from vi.targets import Target, target

__all__ = [
    "SVI",
    "CheckpointError",
    "Delta",
    "Diagnostics",
    "FitError",
    "Gaussian",
    "Mixture",
    "NonFiniteTargetError",
    "Objective",
    "Pathwise",
    "Posterior",
    "Status",
    "StickingTheLanding",
    "Target",
    "TargetError",
    "Verdict",
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
