"""What `gp.fit` starts from where the user gives nothing: scales read off the data."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from gp.kernels import Matern
from gp.likelihoods import Gaussian, Ordinal
from gp.means import ConstantMean, Zero

NOISE = 0.1  # of the targets' variance


def default_likelihood(y: np.ndarray) -> Gaussian:
    """Gaussian, with a tenth of the targets' variance as noise."""
    return Gaussian(NOISE * _spread(np.nanvar(y)))


def default_kernel(x: np.ndarray, y: np.ndarray, likelihood: Any) -> Matern:
    """Matérn-3/2 with a length scale for each coordinate: its standard deviation.

    The variance is that of the latent values which explain the targets, one where they do not vary.
    With several latents each leaf has a first axis of them.
    """
    lengthscale = _spread(x.std(0)) if len(x) > 1 else np.ones(x.shape[1])
    variance = _spread(likelihood.spread(jnp.asarray(y)))
    if likelihood.latents > 1:
        lengthscale = np.broadcast_to(lengthscale, (likelihood.latents, len(lengthscale)))
    return Matern(lengthscale, variance)


def default_mean(y: np.ndarray, likelihood: Any) -> ConstantMean | Zero:
    """A constant: the average of those latent values; zero where cutpoints set the level."""
    if isinstance(likelihood, Ordinal):
        return Zero()
    return ConstantMean(np.asarray(likelihood.start(jnp.asarray(y))).mean(0))


def _spread(x: Any) -> np.ndarray:
    """A scale, or one where there is none."""
    x = np.asarray(x)
    return np.where(x > 0, x, 1.0).astype(x.dtype)
