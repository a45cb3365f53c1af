"""Programs: objectives, and the estimators that differentiate them."""

from vi.program.batch import info_vae, mmd
from vi.program.bound import Penalised
from vi.program.bounds import (
    chi_square,
    ciwae,
    data_emphasised_elbo,
    iwae,
    miwae,
    piwae,
    renyi,
    tempered_elbo,
)
from vi.program.divergences import (
    f_divergence,
    forward_kl,
    log_variance,
    reweighted_wake_sleep,
    symmetric_kl,
)
from vi.program.estimators import (
    AcceptReject,
    DoublyReparameterized,
    Enumerate,
    Implicit,
    MeasureValued,
    PathGradient,
    Pathwise,
    Relaxed,
    RunningScore,
    Score,
    StickingTheLanding,
)
from vi.program.marginal import marginal
from vi.program.noise import GradientNoise, gradient_noise
from vi.program.objective import Objective, elbo, objective, with_estimator

__all__ = [
    "AcceptReject",
    "DoublyReparameterized",
    "Enumerate",
    "GradientNoise",
    "Implicit",
    "MeasureValued",
    "Objective",
    "PathGradient",
    "Pathwise",
    "Penalised",
    "Relaxed",
    "RunningScore",
    "Score",
    "StickingTheLanding",
    "chi_square",
    "ciwae",
    "data_emphasised_elbo",
    "elbo",
    "f_divergence",
    "forward_kl",
    "gradient_noise",
    "info_vae",
    "iwae",
    "log_variance",
    "marginal",
    "miwae",
    "mmd",
    "objective",
    "piwae",
    "renyi",
    "reweighted_wake_sleep",
    "symmetric_kl",
    "tempered_elbo",
    "with_estimator",
]
