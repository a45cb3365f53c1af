"""Optimizers as optax transformations, usable in any optax loop."""

from optim.averaging import PolynomialAverageState, average_params, polynomial_average

__all__ = ["PolynomialAverageState", "average_params", "polynomial_average"]
