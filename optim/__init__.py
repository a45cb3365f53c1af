"""Optimizers as optax transformations, usable in any optax loop."""

from optim.averaging import PolynomialAverageState, average_params, polynomial_average
from optim.oracle import MissingOracleError, Oracle, as_oracle, stochastic_oracle
from optim.training import apply_nnx_oracle, apply_oracle, make_step

__all__ = [
    "MissingOracleError",
    "Oracle",
    "PolynomialAverageState",
    "apply_nnx_oracle",
    "apply_oracle",
    "as_oracle",
    "average_params",
    "make_step",
    "polynomial_average",
    "stochastic_oracle",
]
