"""Optimizers as optax transformations, usable in any optax loop."""

from optim.accelerated import AcceleratedDistanceState, a_dog
from optim.averaging import PolynomialAverageState, average_params, polynomial_average
from optim.clipping import ClipState, clip_by_ema_norm
from optim.covariance import AffineInvariant, BuresWasserstein, BuresWassersteinRoot
from optim.damped_newton import DampedNewtonState, damped_newton
from optim.diagonal import hessian_diagonal, laplacian
from optim.distance import DistanceState, dog, dowg, layerwise_dog
from optim.fosi import FosiState, fosi
from optim.gauss_newton import GaussNewtonState, gauss_newton
from optim.implicit import cg_product, hypergradient, neumann_product
from optim.lazy_newton import LazyNewtonState, lazy_newton
from optim.manifold import Euclidean, Manifold, Sphere, Stiefel
from optim.mfac import MfacState, mfac
from optim.minimax import (
    AnchoredState,
    ExtragradientState,
    anchored_gradient,
    extragradient,
    past_extragradient,
    saddle_gradient,
    two_timescale,
)
from optim.normalized import (
    MomentumState,
    NormPowerState,
    TransportState,
    nigt,
    normalized_momentum,
    scale_by_norm_power,
)
from optim.oasis import OasisState, oasis
from optim.oracle import MissingOracleError, Oracle, as_oracle, stochastic_oracle
from optim.psgd import PsgdState, psgd
from optim.riemannian import (
    ManifoldError,
    RiemannianState,
    riemannian_adagrad,
    riemannian_adam,
    riemannian_amsgrad,
)
from optim.rows import init_rows, step_rows
from optim.saddle_free_newton import saddle_free_newton
from optim.solution import eval_params
from optim.spectrum import (
    BatchCurvature,
    SpectralDensity,
    batch_curvature,
    spectral_density,
)
from optim.training import apply_nnx_oracle, apply_oracle, make_step
from optim.tree import ComplexParameterError
from optim.vectors import VectorState

__all__ = [
    "AcceleratedDistanceState",
    "AffineInvariant",
    "AnchoredState",
    "BatchCurvature",
    "BuresWasserstein",
    "BuresWassersteinRoot",
    "ClipState",
    "ComplexParameterError",
    "DampedNewtonState",
    "DistanceState",
    "Euclidean",
    "ExtragradientState",
    "FosiState",
    "GaussNewtonState",
    "LazyNewtonState",
    "Manifold",
    "ManifoldError",
    "MfacState",
    "MissingOracleError",
    "MomentumState",
    "NormPowerState",
    "OasisState",
    "Oracle",
    "PolynomialAverageState",
    "PsgdState",
    "RiemannianState",
    "SpectralDensity",
    "Sphere",
    "Stiefel",
    "TransportState",
    "VectorState",
    "a_dog",
    "anchored_gradient",
    "apply_nnx_oracle",
    "apply_oracle",
    "as_oracle",
    "average_params",
    "batch_curvature",
    "cg_product",
    "clip_by_ema_norm",
    "damped_newton",
    "dog",
    "dowg",
    "eval_params",
    "extragradient",
    "fosi",
    "gauss_newton",
    "hessian_diagonal",
    "hypergradient",
    "init_rows",
    "laplacian",
    "layerwise_dog",
    "lazy_newton",
    "make_step",
    "mfac",
    "neumann_product",
    "nigt",
    "normalized_momentum",
    "oasis",
    "past_extragradient",
    "polynomial_average",
    "psgd",
    "riemannian_adagrad",
    "riemannian_adam",
    "riemannian_amsgrad",
    "saddle_free_newton",
    "saddle_gradient",
    "scale_by_norm_power",
    "spectral_density",
    "step_rows",
    "stochastic_oracle",
    "two_timescale",
]
