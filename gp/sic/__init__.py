"""Sparse inverse Cholesky factors: Gaussian processes on hundreds of thousands of points."""

from gp.sic.graph import SICGraph, sic_graph
from gp.sic.order import coarse_to_fine_order
from gp.sic.prior import SICPrior, neighbor_gap

__all__ = ["SICGraph", "SICPrior", "coarse_to_fine_order", "neighbor_gap", "sic_graph"]
