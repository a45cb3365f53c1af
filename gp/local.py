"""Local kriging: a prediction from the nearest data alone, by one small factorisation each."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from gp.sites import Sites
from vi.compile import quick_jit

BLOCK = 512  # predictions at once


def local_kriging(
    kernel: Any,
    mean: Any,
    x: Float[Array, "N D"],
    sites: Sites,
    x_new: Float[Array, "M D"],
    num_neighbors: int = 50,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Means and variances of the function from the k nearest sites of each new point.

    .. math:: m(x) = μ(x) + k_{xN} (K_{NN} + Λ_N^{-1})^{-1} (\tilde y_N - μ_N)

    Neighbours are nearest in the kernel's metric. Each prediction is exact for its own k data, and
    costs the same however many there are. Predictions of neighbouring points may jump where
    the set of neighbours changes, and have no joint law.

    Args:
      kernel: the kernel.
      mean: the mean function.
      x: inputs of the data.
      sites: what is known there.
      x_new: new inputs.
      num_neighbors: k; all data if there are fewer.

    Returns:
      Means and variances, each of shape ``(M,)``.

    Complexity:
      O(N log N + M k³) time, O(N + k²) memory.

    Reference: Datta, Banerjee, Finley and Gelfand (2016), "Hierarchical nearest-neighbor Gaussian
    process models for large geostatistical datasets", section 2, for the prediction.
    """
    from scipy.spatial import KDTree

    known = np.flatnonzero(np.asarray(sites.precision) > 0)
    points, count = np.asarray(kernel.metric(x), float)[known], min(num_neighbors, len(known))
    queries = np.asarray(kernel.metric(jnp.asarray(x_new)), float)
    _, near = KDTree(points).query(queries, k=count)
    near = known[near.reshape(len(queries), count)].astype(np.int32)
    parts = []
    for start in range(0, len(near), BLOCK):
        rows = slice(start, start + BLOCK)
        filled = (BLOCK if len(near) > BLOCK else len(near)) - len(near[rows])
        pad = lambda a, n=filled: np.concatenate([a, np.repeat(a[-1:], n, 0)])
        part = _krige(kernel, mean, x, sites, pad(np.asarray(x_new)[rows]), pad(near[rows]))
        parts.append([np.asarray(a)[: len(near[rows])] for a in part])
    means, variances = map(np.concatenate, zip(*parts, strict=True))
    return means, variances


@quick_jit
def _krige(
    kernel: Any, mean: Any, x: Array, sites: Sites, x_new: Array, near: Array
) -> tuple[Array, Array]:
    here, root = x[near], jnp.sqrt(sites.precision[near])
    at = x_new[:, None]
    scaled = root[:, :, None] * kernel(here, here) * root[:, None, :]
    tril = jnp.linalg.cholesky(jnp.eye(near.shape[1], dtype=x.dtype) + scaled)
    cross = (root[:, :, None] * kernel(here, at))[..., 0]
    u = root * (sites.centre[near] - mean(here))
    solve = jax.vmap(lambda tril, b: solve_triangular(tril, b, lower=True))
    half = solve(tril, jnp.stack([cross, u], -1))
    moved = jnp.sum(half[..., 0] * half[..., 1], 1)
    variance = kernel.diagonal(x_new) - jnp.sum(half[..., 0] ** 2, 1)
    return mean(x_new) + moved, jnp.maximum(variance, 0.0)
