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
from gp.inducing.stream import (
    Memory,
    Stream,
    stream,
)
from gp.inducing.streamed import (
    StreamedPrior,
)

__all__ = [
    "InducingPrior",
    "Memory",
    "MinibatchRun",
    "Minibatches",
    "Stream",
    "StreamedPrior",
    "greedy_inputs",
    "spread_inputs",
    "stream",
]
