"""Optimizers as optax transformations, usable in any optax loop."""

from optim.accelerated import AcceleratedDistanceState, a_dog
from optim.averaging import PolynomialAverageState, average_params, polynomial_average
from optim.clipping import ClipState, clip_by_ema_norm
from optim.distance import DistanceState, dog, dowg, layerwise_dog
from optim.normalized import (
    MomentumState,
    TransportState,
    nigt,
    normalized_momentum,
    scale_by_norm_power,
)
from optim.solution import eval_params

__all__ = [
    "AcceleratedDistanceState",
    "ClipState",
    "DistanceState",
    "MomentumState",
    "PolynomialAverageState",
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
    "scale_by_norm_power",
]
