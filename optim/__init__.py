"""Optimizers as optax transformations, usable in any optax loop."""

from optim.averaging import PolynomialAverageState, average_params, polynomial_average
from optim.lazy_newton import LazyNewtonState, lazy_newton
from optim.oasis import OasisState, oasis
from optim.oracle import MissingOracleError, Oracle, as_oracle, stochastic_oracle
from optim.psgd import PsgdState, psgd
from optim.training import apply_nnx_oracle, apply_oracle, make_step

__all__ = [
    "LazyNewtonState",
    "MissingOracleError",
    "OasisState",
    "Oracle",
    "PolynomialAverageState",
    "PsgdState",
    "apply_nnx_oracle",
    "apply_oracle",
    "as_oracle",
    "average_params",
    "lazy_newton",
    "make_step",
    "oasis",
    "polynomial_average",
    "psgd",
    "stochastic_oracle",
]
