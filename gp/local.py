"""Local kriging: a prediction from the nearest data alone, by one small factorisation each."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int

from gp.cholesky import cholesky
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
    known = np.flatnonzero(np.asarray(sites.precision) > 0)
    queries = np.asarray(kernel.metric(jnp.asarray(x_new)), float)
    near = known[_nearest(np.asarray(kernel.metric(x), float)[known], queries, num_neighbors)]
    return _in_blocks(kernel, mean, x, np.asarray(x_new), near, *_of_sites(sites, near))


def local_left_out(
    kernel: Any,
    mean: Any,
    x: Float[Array, "N D"],
    sites: Sites,
    own: Sites,
    index: Int[np.ndarray, " K"],
    num_neighbors: int = 50,
) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances at the inputs of some targets, from all sites near but their own.

    Args:
      kernel: the kernel.
      mean: the mean function.
      x: inputs of the data.
      sites: what is known there.
      own: what each of the targets says, a part of the site of its input.
      index: the row of each target's input.
      num_neighbors: sites that count, beside other targets of the same input.

    Returns:
      Means and variances, each of shape ``(K,)``; as of `local_kriging`.

    Complexity:
      O(N log N + K k³) time, O(N + K k) memory.
    """
    points = np.asarray(kernel.metric(x), float)
    near = _nearest(points, points[index], num_neighbors + 1)
    first = np.argmax(near == index[:, None], axis=1)  # 0 also where others are as near
    near[np.arange(len(near)), first] = near[:, 0]
    near[:, 0] = index
    linear, precision = _of_sites(sites, near)
    linear[:, 0] -= np.asarray(own.linear)
    precision[:, 0] = np.maximum(precision[:, 0] - np.asarray(own.precision), 0)
    precision[:, 0][precision[:, 0] < 1e-9 * np.asarray(own.precision)] = 0  # rounding
    return _in_blocks(kernel, mean, x, np.asarray(x)[index], near, linear, precision)


def _nearest(points: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    from scipy.spatial import KDTree

    count = min(count, len(points))
    _, near = KDTree(points).query(queries, k=count)
    return near.reshape(len(queries), count).astype(np.int32)


def _of_sites(sites: Sites, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.array(sites.linear)[near], np.array(sites.precision)[near]


def _in_blocks(kernel: Any, mean: Any, x: Array, x_new: np.ndarray, *rows: np.ndarray) -> tuple:
    """Predictions at points by the rows of their sites, `BLOCK` at a time."""
    parts = []
    for start in range(0, len(x_new), BLOCK):
        some = [a[start : start + BLOCK] for a in (x_new, *rows)]
        count = len(some[0])
        filled = (BLOCK if len(x_new) > BLOCK else count) - count
        part = _krige(
            kernel, mean, x, *(np.concatenate([a, a[-1:].repeat(filled, 0)]) for a in some)
        )
        parts.append([np.asarray(a)[:count] for a in part])
    means, variances = map(np.concatenate, zip(*parts, strict=True))
    return means, variances


@quick_jit
def _krige(
    kernel: Any, mean: Any, x: Array, x_new: Array, near: Array, linear: Array, precision: Array
) -> tuple[Array, Array]:
    here, root = x[near], jnp.sqrt(precision)
    at = x_new[:, None]
    scaled = root[:, :, None] * kernel(here, here) * root[:, None, :]
    tril = jax.vmap(cholesky)(jnp.eye(near.shape[1], dtype=x.dtype) + scaled)
    cross = (root[:, :, None] * kernel(here, at))[..., 0]
    u = root * (Sites(linear, precision).centre - mean(here))
    solve = jax.vmap(lambda tril, b: solve_triangular(tril, b, lower=True))
    half = solve(tril, jnp.stack([cross, u], -1))
    moved = jnp.sum(half[..., 0] * half[..., 1], 1)
    variance = kernel.diagonal(x_new) - jnp.sum(half[..., 0] ** 2, 1)
    return mean(x_new) + moved, jnp.maximum(variance, 0.0)
