"""What follows from the law of the latent function for new data, whatever gave that law."""

import abc
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi.compile import quick_jit


class Predictive(abc.ABC):
    """Something with a ``model`` whose latent function can be predicted."""

    model: Any

    @abc.abstractmethod
    def predict(self, x_new: Float[Array, "M D"]) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances of the latent function, ``(M,)`` or ``(M, L)``."""
        ...

    def predict_y(self, x_new: Float[Array, "M D"]) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances of new data: with classes, of their indicators, ``(M, C)``.

        Args:
          x_new: M inputs.
        """
        found = _of_data(self.model.likelihood, *map(jnp.asarray, self.predict(x_new)))
        return np.asarray(found[0]), np.asarray(found[1])

    def log_predictive_density(
        self, x_new: Float[Array, "M D"], y_new: Float[Array, " M"]
    ) -> np.ndarray:
        """Log density of each new datum, nats, shape ``(M,)``.

        Args:
          x_new: M inputs.
          y_new: their targets.

        Raises:
          ValueError: if targets are outside the likelihood's support, or not one for each input.
        """
        latent = self.predict(x_new)
        y = np.asarray(y_new, latent[0].dtype)
        if y.shape != latent[0].shape[:1]:
            raise ValueError(
                f"{type(self).__name__}.log_predictive_density: expected targets of shape "
                f"{latent[0].shape[:1]}; got {y.shape}."
            )
        self.model.likelihood.check(y)
        found = _density(self.model.likelihood, *map(jnp.asarray, (*latent, y)))
        return np.asarray(found)


@quick_jit
def _of_data(likelihood: Any, mean: Array, variance: Array) -> tuple[Array, Array]:
    return likelihood.predict(mean, variance)


@quick_jit
def _density(likelihood: Any, mean: Array, variance: Array, y: Array) -> Array:
    return likelihood.log_predictive(mean, variance, y)
