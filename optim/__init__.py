"""Optimizers as optax transformations, usable in any optax loop."""

from optim.averaging import PolynomialAverageState, average_params, polynomial_average
from optim.damped_newton import DampedNewtonState, damped_newton
from optim.diagonal import hessian_diagonal, laplacian
from optim.fosi import FosiState, fosi
from optim.gauss_newton import GaussNewtonState, gauss_newton
from optim.implicit import cg_product, hypergradient, neumann_product
from optim.lazy_newton import LazyNewtonState, lazy_newton
from optim.mfac import MfacState, mfac
from optim.oasis import OasisState, oasis
from optim.oracle import MissingOracleError, Oracle, as_oracle, stochastic_oracle
from optim.psgd import PsgdState, psgd
from optim.saddle_free_newton import saddle_free_newton
from optim.spectrum import (
    BatchCurvature,
    SpectralDensity,
    batch_curvature,
    spectral_density,
)
from optim.training import apply_nnx_oracle, apply_oracle, make_step
from optim.vectors import VectorState

__all__ = [
    "BatchCurvature",
    "DampedNewtonState",
    "FosiState",
    "GaussNewtonState",
    "LazyNewtonState",
    "MfacState",
    "MissingOracleError",
    "OasisState",
    "Oracle",
    "PolynomialAverageState",
    "PsgdState",
    "SpectralDensity",
    "VectorState",
    "apply_nnx_oracle",
    "apply_oracle",
    "as_oracle",
    "average_params",
    "batch_curvature",
    "cg_product",
    "damped_newton",
    "fosi",
    "gauss_newton",
    "hessian_diagonal",
    "hypergradient",
    "laplacian",
    "lazy_newton",
    "make_step",
    "mfac",
    "neumann_product",
    "oasis",
    "polynomial_average",
    "psgd",
    "saddle_free_newton",
    "spectral_density",
    "stochastic_oracle",
]
