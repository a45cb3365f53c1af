"""Sparse inverse Cholesky factors: Gaussian processes on hundreds of thousands of points."""

from gp.sic.double_kl import DoubleKL, LatentProcess, SparseGaussian, double_kl, free_conditional
from gp.sic.factor_run import FactorRun, FactorState, train_factor
from gp.sic.graph import SICGraph, sic_graph
from gp.sic.order import coarse_to_fine_order
from gp.sic.pattern import Pattern
from gp.sic.prior import SICPrior, neighbor_gap

__all__ = [
    "DoubleKL",
    "FactorRun",
    "FactorState",
    "LatentProcess",
    "Pattern",
    "SICGraph",
    "SICPrior",
    "SparseGaussian",
    "coarse_to_fine_order",
    "double_kl",
    "free_conditional",
    "neighbor_gap",
    "sic_graph",
    "train_factor",
]
