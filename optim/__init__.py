"""Optimizers as optax transformations, usable in any optax loop."""

from optim.accelerated import AcceleratedDistanceState, a_dog
from optim.averaging import PolynomialAverageState, average_params, polynomial_average
from optim.clipping import ClipState, clip_by_ema_norm
from optim.covariance import AffineInvariant, BuresWasserstein, BuresWassersteinRoot
from optim.distance import DistanceState, dog, dowg, layerwise_dog
from optim.manifold import Euclidean, Manifold, Sphere, Stiefel
from optim.normalized import (
    MomentumState,
    TransportState,
    nigt,
    normalized_momentum,
    scale_by_norm_power,
)
from optim.riemannian import (
    ManifoldError,
    RiemannianState,
    riemannian_adagrad,
    riemannian_adam,
    riemannian_amsgrad,
)
from optim.solution import eval_params

__all__ = [
    "AcceleratedDistanceState",
    "AffineInvariant",
    "BuresWasserstein",
    "BuresWassersteinRoot",
    "ClipState",
    "DistanceState",
    "Euclidean",
    "Manifold",
    "ManifoldError",
    "MomentumState",
    "PolynomialAverageState",
    "RiemannianState",
    "Sphere",
    "Stiefel",
    "TransportState",
    "a_dog",
    "average_params",
    "clip_by_ema_norm",
    "dog",
    "dowg",
    "eval_params",
    "layerwise_dog",
    "nigt",
    "normalized_momentum",
    "polynomial_average",
    "riemannian_adagrad",
    "riemannian_adam",
    "riemannian_amsgrad",
    "scale_by_norm_power",
]
