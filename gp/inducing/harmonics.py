r"""Zonal functions as sums over levels of spherical harmonics.

.. math:: s(t) = \sum_l s_l N_l G_l(t), \qquad s_l = \int s(t) G_l(t)\, dμ(t)

with :math:`G_l = C_l^α / C_l^α(1)` the Gegenbauer polynomials that are one at one,
:math:`α = d/2 - 1`, :math:`N_l` the number of harmonics of a level on the unit sphere of d
dimensions, and μ the law of the cosine of the angle between a uniform direction and a fixed one.
"""

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_NODES = 64  # in each half of the angles, 0 to π/2 and π/2 to π


class Quadrature(NamedTuple):
    """Nodes in the angle, exact for functions smooth on either side of the equator."""

    cosines: np.ndarray
    squares: np.ndarray  # of chords, 2 (1 - cos θ) without cancellation
    weights: np.ndarray  # of μ
    table: np.ndarray  # G_l at nodes, (degree + 1, nodes)


def multiplicity(level: int, dimension: int) -> int:
    """How many spherical harmonics a level has."""
    if level == 0:
        return 1
    ways = math.comb(level + dimension - 3, level - 1)
    return (2 * level + dimension - 2) * ways // level


@functools.cache
def quadrature(degree: int, dimension: int) -> Quadrature:
    """Gauss-Legendre nodes, and the polynomials there."""
    node, weight = np.polynomial.legendre.leggauss(_NODES + degree)
    angle = np.concatenate([(node + 1) * np.pi / 4, (node + 3) * np.pi / 4])
    weights = np.tile(weight, 2) * np.sin(angle) ** (dimension - 2)
    cosines = np.cos(angle)
    table = np.stack(list(_recursion(cosines, degree, dimension)))
    return Quadrature(cosines, 4 * np.sin(angle / 2) ** 2, weights / weights.sum(), table)


def _recursion(t, degree, dimension):
    """G_0, ..., G_degree at points, of NumPy or JAX."""
    before, here = t**0, t
    yield before
    for level in range(1, degree + 1):
        yield here
        twice = 2 * level + dimension - 2
        before, here = here, (twice * t * here - level * before) / (level + dimension - 2)


def coefficients(values: Array, rule: Quadrature) -> Float[Array, " L"]:
    """s_l of a function with these values at the nodes."""
    return jnp.asarray(rule.table * rule.weights, values.dtype) @ values


def zonal_sum(
    levels: Float[Array, " L"], active: np.ndarray, cosines: Array, dimension: int
) -> Array:
    """Σ s_l N_l G_l(t) over the levels that are active."""
    total = jnp.zeros_like(cosines)
    for level, value in enumerate(_recursion(cosines, len(active) - 1, dimension)):
        if active[level]:
            total = total + levels[level] * multiplicity(level, dimension) * value
    return total
