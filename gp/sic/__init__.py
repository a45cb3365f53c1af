"""Sparse inverse Cholesky factors: Gaussian processes on hundreds of thousands of points."""

from gp.sic.graph import SICGraph, sic_graph
from gp.sic.order import coarse_to_fine_order

__all__ = ["SICGraph", "coarse_to_fine_order", "sic_graph"]
