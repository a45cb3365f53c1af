"""Bayesian last layers: closed-form bounds for the weights between features and targets."""

from gp.last_layers.discriminative import (
    Discriminative,
    discriminative,
)
from gp.last_layers.features import (
    RandomFeatures,
    random_features,
)
from gp.last_layers.generative import (
    Generative,
    generative,
)
from gp.last_layers.kalman import (
    Filtered,
    KalmanLayer,
    kalman,
)
from gp.last_layers.regression import (
    Regression,
    regression,
)
from gp.last_layers.rows import (
    Rows,
)

__all__ = [
    "Discriminative",
    "Filtered",
    "Generative",
    "KalmanLayer",
    "RandomFeatures",
    "Regression",
    "Rows",
    "discriminative",
    "generative",
    "kalman",
    "random_features",
    "regression",
]
