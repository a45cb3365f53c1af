"""The Gaussian core: coordinates, estimators of its moments, and optimizers on its geometry."""

from vi.gaussian.batch_and_match import Scores, ScoreSample, batch_and_match
from vi.gaussian.bures_wasserstein import bures_wasserstein, forward_backward
from vi.gaussian.coordinates import Expectation, MeanCovariance, Natural, SquareRoot
from vi.gaussian.estimators import BonnetPrice, SphericalRadial, Stein
from vi.gaussian.mixture_flow import mixture_flow
from vi.gaussian.natural_gradient import natural_gradient

__all__ = [
    "BonnetPrice",
    "Expectation",
    "MeanCovariance",
    "Natural",
    "ScoreSample",
    "Scores",
    "SphericalRadial",
    "SquareRoot",
    "Stein",
    "batch_and_match",
    "bures_wasserstein",
    "forward_backward",
    "mixture_flow",
    "natural_gradient",
]
