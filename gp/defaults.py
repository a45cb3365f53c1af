"""What `gp.fit` starts from where the user gives nothing: scales read off the data."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from gp.kernels import Matern
from gp.likelihoods import Gaussian, Ordinal
from gp.means import ConstantMean, Zero

NOISE = 1e-4, 0.1  # of the targets' variance, least and most
_SAMPLED = 2000  # inputs whose nearest neighbours are looked at


def default_likelihood(x: np.ndarray, y: np.ndarray) -> Gaussian:
    """Gaussian; half the mean square of differences between nearest neighbours as noise.

    Where data are dense this is little more than the noise. A start with far more, on many data,
    leads training to a smooth function that leaves the rest to the noise. It is at most a tenth of
    the targets' variance.
    """
    variance = _spread(np.var(y))
    least, most = (share * variance for share in NOISE)
    if len(x) < 2:
        return Gaussian(most)
    from scipy.spatial import KDTree

    points = np.asarray(x / _spread(x.std(0)), float)
    some = np.random.default_rng(0).permutation(len(x))[:_SAMPLED]
    near = np.asarray(KDTree(points).query(points[some], k=2)[1])
    other = np.where(near[:, 1] == some, near[:, 0], near[:, 1])
    return Gaussian(np.clip(0.5 * np.mean((y[some] - y[other]) ** 2), least, most))


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
