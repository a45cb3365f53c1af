"""Gaussian processes through inducing inputs: the collapsed bound, and minibatches of any size."""

from gp.inducing.choice import greedy_inputs, spread_inputs
from gp.inducing.interdomain import Features
from gp.inducing.minibatch import MinibatchRun
from gp.inducing.prior import InducingPrior
from gp.inducing.spherical import Spectrum
from gp.inducing.stream import Memory
from gp.inducing.streamed import StreamedPrior

__all__ = [
    "Features",
    "InducingPrior",
    "Memory",
    "MinibatchRun",
    "Spectrum",
    "StreamedPrior",
    "greedy_inputs",
    "spread_inputs",
]
