"""Variational inference: from a model to a posterior with a verdict."""

from vi import gaussian
from vi.families import Delta, Gaussian, Mixture, block, full_rank, low_rank, mean_field, mixture
from vi.target import Target, target

__all__ = [
    "Delta", "Gaussian", "Mixture", "Target", "block", "full_rank", "gaussian", "low_rank",
    "mean_field", "mixture", "target",
]
