"""Random features of a kernel: a Gaussian process as a Bayesian last layer."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from gp.spectral import coordinates, frequencies, power
from vi.module import module
from vi.random import fast_key


@module
class RandomFeatures:
    r"""Features whose inner products are a kernel on average; made by `random_features`.

    .. math:: φ(x) = \frac{σ}{\sqrt R} \big( \cos ω_r^T c(x), \sin ω_r^T c(x) \big)_{r \le R},
              \qquad E_ω[φ(x)^T φ(x')] = k(x, x')

    With a last layer of prior variance one it is that Gaussian process, at linear cost in the
    data. The frequencies do not depend on length scales, so that these are trained at fixed ones.

    Attributes:
      kernel: k; replace it by one of the same kind with other hyperparameters.
      frequencies: ω.
    """

    kernel: Any
    frequencies: Float[Array, "R E"]

    def __call__(self, x: Float[Array, "B D"], kernel: Any = None) -> Float[Array, "B 2R"]:
        """Features of inputs, for the kernel or another of its kind; O(B R E)."""
        kernel = self.kernel if kernel is None else kernel
        angles = coordinates(kernel, jnp.asarray(x)) @ self.frequencies.T
        scale = jnp.sqrt(power(kernel) / len(self.frequencies))
        return scale * jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


def random_features(
    key: Array, kernel: Any, x: Float[Array, "B D"], num_features: int = 256
) -> RandomFeatures:
    """Random features of a kernel made of stationary ones, also of a network's features.

    Args:
      key: a key.
      kernel: such as `gp.Matern`, or `gp.deep` of one and a network.
      x: inputs, for their number of coordinates and precision.
      num_features: R, of which there are a cosine and a sine each.

    Returns:
      The features; ``features(x)`` has shape ``(B, 2 R)``.

    Raises:
      ValueError: for a kernel that is not made of stationary ones.

    Example:
      >>> import gp, jax, jax.numpy as jnp
      >>> from gp import last_layers
      >>> x = jnp.linspace(0.0, 6.0, 60)[:, None]
      >>> phi = last_layers.random_features(jax.random.key(0), gp.Matern(1.0), x)
      >>> layer = last_layers.regression(jax.random.key(1), 512, noise=0.01)
      >>> layer = layer.posterior(phi(x), jnp.sin(x[:, 0]))
      >>> mean, _ = layer.predict(phi(jnp.asarray([[1.5]])))
      >>> bool(abs(mean[0, 0] - jnp.sin(1.5)) < 0.1)
      True

    Reference: Rahimi and Recht (2007), "Random features for large-scale kernel machines",
    algorithm 1.
    """
    x = jnp.asarray(x)
    return RandomFeatures(kernel, frequencies(fast_key(key), kernel, x[:1], (num_features,)))
