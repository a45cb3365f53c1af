"""Optimizers as optax transformations, usable in any optax loop."""

from optim.accelerated import AcceleratedDistanceState, a_dog
from optim.averaging import PolynomialAverageState, average_params, polynomial_average
from optim.clipping import ClipState, clip_by_ema_norm
from optim.covariance import AffineInvariant, BuresWasserstein, BuresWassersteinRoot
from optim.distance import DistanceState, dog, dowg, layerwise_dog
from optim.lazy_newton import LazyNewtonState, lazy_newton
from optim.manifold import Euclidean, Manifold, Sphere, Stiefel
from optim.normalized import (
    MomentumState,
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
from optim.solution import eval_params
from optim.training import apply_nnx_oracle, apply_oracle, make_step

__all__ = [
    "AcceleratedDistanceState",
    "AffineInvariant",
    "BuresWasserstein",
    "BuresWassersteinRoot",
    "ClipState",
    "DistanceState",
    "Euclidean",
    "LazyNewtonState",
    "Manifold",
    "ManifoldError",
    "MissingOracleError",
    "MomentumState",
    "OasisState",
    "Oracle",
    "PolynomialAverageState",
    "PsgdState",
    "RiemannianState",
    "Sphere",
    "Stiefel",
    "TransportState",
    "a_dog",
    "apply_nnx_oracle",
    "apply_oracle",
    "as_oracle",
    "average_params",
    "clip_by_ema_norm",
    "dog",
    "dowg",
    "eval_params",
    "layerwise_dog",
    "lazy_newton",
    "make_step",
    "nigt",
    "normalized_momentum",
    "oasis",
    "polynomial_average",
    "psgd",
    "riemannian_adagrad",
    "riemannian_adam",
    "riemannian_amsgrad",
    "scale_by_norm_power",
    "stochastic_oracle",
]
