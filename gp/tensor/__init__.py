"""Tensors of continuous coordinates: factors that are Gaussian processes, by message passing."""

from gp.tensor.algebra import (
    Core,
)
from gp.tensor.fit import (
    FunctionalTensor,
    functional_tensor,
)
from gp.tensor.sweep import (
    Factor,
    State,
)

__all__ = [
    "Core",
    "Factor",
    "FunctionalTensor",
    "State",
    "functional_tensor",
]
