"""Gaussian processes through inducing inputs: the collapsed bound, and minibatches of any size."""

from gp.inducing.choice import (
    greedy_inputs,
    spread_inputs,
)
from gp.inducing.minibatch import (
    Minibatches,
    MinibatchRun,
)
from gp.inducing.prior import (
    InducingPrior,
)

__all__ = [
    "InducingPrior",
    "MinibatchRun",
    "Minibatches",
    "greedy_inputs",
    "spread_inputs",
]
