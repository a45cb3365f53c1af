"""Programs: objectives, and the estimators that differentiate them."""

from vi.distances.kernels import mmd
from vi.program.batch import info_vae
from vi.program.bound import Penalised
from vi.program.bounds import (
    chi_square,
    ciwae,
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
    sleep,
    symmetric_kl,
)
from vi.program.emphasised import (
    cameron_martin,
    data_emphasised_elbo,
    functional_elbo,
    momentum_teacher,
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
from vi.program.expectation import LinearLogLikelihood, LogDensity, register_expectation
from vi.program.marginal import marginal
from vi.program.noise import GradientNoise, gradient_noise
from vi.program.normalize import normalize
from vi.program.objective import Objective, elbo, objective, scheduled, with_estimator
from vi.program.reference import ReferenceNoise, reference_noise
from vi.program.tempering import Tempering

__all__ = [
    "AcceptReject",
    "DoublyReparameterized",
    "Enumerate",
    "GradientNoise",
    "Implicit",
    "LinearLogLikelihood",
    "LogDensity",
    "MeasureValued",
    "Objective",
    "PathGradient",
    "Pathwise",
    "Penalised",
    "ReferenceNoise",
    "Relaxed",
    "RunningScore",
    "Score",
    "StickingTheLanding",
    "Tempering",
    "cameron_martin",
    "chi_square",
    "ciwae",
    "data_emphasised_elbo",
    "elbo",
    "f_divergence",
    "forward_kl",
    "functional_elbo",
    "gradient_noise",
    "info_vae",
    "iwae",
    "log_variance",
    "marginal",
    "miwae",
    "mmd",
    "momentum_teacher",
    "normalize",
    "objective",
    "piwae",
    "reference_noise",
    "register_expectation",
    "renyi",
    "reweighted_wake_sleep",
    "scheduled",
    "sleep",
    "symmetric_kl",
    "tempered_elbo",
    "with_estimator",
]
