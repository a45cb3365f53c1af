"""Variational families: frozen pytrees whose leaves are their parameters."""

from vi.families.delta import Delta
from vi.families.gaussian import Gaussian, block, full_rank, low_rank, mean_field
from vi.families.mixture import Mixture, mixture

__all__ = [
    "Delta",
    "Gaussian",
    "Mixture",
    "block",
    "full_rank",
    "low_rank",
    "mean_field",
    "mixture",
]
