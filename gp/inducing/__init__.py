"""Gaussian processes through inducing inputs: the collapsed bound, and minibatches of any size."""

from gp.inducing.choice import greedy_inputs, spread_inputs
from gp.inducing.interdomain import Features
from gp.inducing.latent_processes import LatentInputs
from gp.inducing.minibatch import MinibatchRun
from gp.inducing.prior import InducingPrior
from gp.inducing.spherical import OrthogonalFeatures, Spectrum, SphericalFeatures
from gp.inducing.stream import Memory
from gp.inducing.streamed import StreamedPrior

__all__ = [
    "Features",
    "InducingPrior",
    "LatentInputs",
    "Memory",
    "MinibatchRun",
    "OrthogonalFeatures",
    "Spectrum",
    "SphericalFeatures",
    "StreamedPrior",
    "greedy_inputs",
    "spread_inputs",
]
