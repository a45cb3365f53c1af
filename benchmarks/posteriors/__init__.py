"""Nine posteriors with reference draws: NumPyro models, their data, and what is known of them."""

from benchmarks.posteriors.models import NAMES, Reference, get, reference

__all__ = ["NAMES", "Reference", "get", "reference"]
