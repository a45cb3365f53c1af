"""Gaussian processes of time in linear cost: kernels as Markov processes, filtered and smoothed."""

from gp.state_space.prior import (
    StateSpacePrior,
)
from gp.state_space.process import (
    Process,
    markov,
    process,
)

__all__ = [
    "Process",
    "StateSpacePrior",
    "markov",
    "process",
]
