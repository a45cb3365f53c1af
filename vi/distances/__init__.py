"""Distances between distributions, from samples, densities or moments."""

from vi.distances.bures import bures, bures_barycenter, bures_factor, gaussian_wasserstein
from vi.distances.kernels import kernel_stein, mmd
from vi.distances.line import sliced_wasserstein, wasserstein_1d
from vi.distances.sinkhorn import Plan, implicit, sinkhorn, sinkhorn_divergence
from vi.distances.sparse_newton import sinkhorn_newton

__all__ = [
    "Plan",
    "bures",
    "bures_barycenter",
    "bures_factor",
    "gaussian_wasserstein",
    "implicit",
    "kernel_stein",
    "mmd",
    "sinkhorn",
    "sinkhorn_divergence",
    "sinkhorn_newton",
    "sliced_wasserstein",
    "wasserstein_1d",
]
