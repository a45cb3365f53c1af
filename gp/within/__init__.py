"""Sparse within sparse: thousands of inducing inputs, of which each datum sees the nearest few."""

from gp.within.family import Within
from gp.within.fitting import WithinPosterior, sparse_within_sparse
from gp.within.neighbours import Neighbours
from gp.within.training import WithinRun

__all__ = ["Neighbours", "Within", "WithinPosterior", "WithinRun", "sparse_within_sparse"]
