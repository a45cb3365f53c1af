"""Squared distances between blocks of points, and profiles that are smooth functions of them."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_UNROLLED = 16  # coordinates up to which one vectorised pass each beats a reduction over the last


def squared_distance(a: Float[Array, "*B N D"], b: Float[Array, "*B M D"]) -> Array:
    """``‖a_i − b_j‖²`` by differences, exact to rounding for near points in any precision.

    Args:
      a: points.
      b: points, with the same leading axes or ones that broadcast.

    Returns:
      Shape ``(*B, N, M)``.

    Complexity:
      O(N M D).
    """
    if a.shape[-1] > _UNROLLED:
        return jnp.sum((a[..., :, None, :] - b[..., None, :, :]) ** 2, -1)
    parts = [(a[..., :, None, i] - b[..., None, :, i]) ** 2 for i in range(a.shape[-1])]
    return functools.reduce(jnp.add, parts)


@jax.custom_jvp
def safe_sqrt(x: Array) -> Array:
    """The square root, with derivative 0 at 0 in place of infinity.

    The usual pair of nested selects is not safe: compilers may compute x twice, with and without a
    fused multiplication, and find the one copy zero and the other positive.
    """
    return jnp.sqrt(jnp.maximum(x, 0.0))


@safe_sqrt.defjvp
def _safe_sqrt_jvp(primals: tuple, tangents: tuple) -> tuple:
    root = safe_sqrt(primals[0])
    return root, tangents[0] * _inverse(root)


def _inverse(root: Array) -> Array:
    """Half of the inverse of a root, 0 where it is 0."""
    positive = root > 0
    return jnp.where(positive, 0.5 / jnp.where(positive, root, 1.0), 0.0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def matern_profile(order: int, square: Array) -> Array:
    r"""The Matérn correlation of half-integer ν = p + ½ as a function of :math:`s^2 = 2ν r^2`.

    .. math:: M_ν(s) = e^{-s} \frac{p!}{(2p)!} \sum_{i=0}^p \frac{(p+i)!}{i!\,(p-i)!} (2s)^{p-i}

    Its derivative :math:`dM_ν / d(s^2) = -M_{ν-1}(s) / (4(ν-1))` has no root in it for p > 0, so
    gradients of all orders that exist are exact at s = 0. For p = 0 the derivative at 0 is infinite
    and 0 is taken, the value on the diagonal.

    Args:
      order: p.
      square: s².

    Returns:
      Correlations of the same shape.
    """
    s = safe_sqrt(square)
    total = jnp.zeros_like(s)
    for i in range(order + 1):  # Horner, from the highest power
        power = math.factorial(order + i) / (math.factorial(i) * math.factorial(order - i))
        total = total * (2 * s) + power * math.factorial(order) / math.factorial(2 * order)
    return jnp.exp(-s) * total


@matern_profile.defjvp
def _matern_jvp(order: int, primals: tuple, tangents: tuple) -> tuple:
    (square,), (move,) = primals, tangents
    value = matern_profile(order, square)
    if order == 0:
        slope = -value * _inverse(safe_sqrt(square))
    else:
        slope = -matern_profile(order - 1, square) / (4 * order - 2)
    return value, slope * move


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def arc_cosine_profile(order: int, square: Array) -> Array:
    r"""The angular part of the arc-cosine kernel of order 0, 1 or 2, one for equal directions.

    With θ the angle between directions whose chord has the square :math:`c = 2(1 - \cos θ)`,

    .. math::

       J_0 = 1 - \tfrac{θ}{π}, \quad
       J_1 = \tfrac1π (\sin θ + (π - θ) \cos θ), \quad
       J_2 = \tfrac1{3π} (3 \sin θ \cos θ + (π - θ)(1 + 2 \cos^2 θ)).

    Derivatives: :math:`dJ_1/dc = -J_0/2` and :math:`dJ_2/dc = -\tfrac23 J_1`, without a root; that
    of :math:`J_0` is infinite at 0, where 0 is taken.

    Args:
      order: 0, 1 or 2.
      square: c, from 0 to 4.

    Returns:
      Values from 0 to 1, of the same shape.
    """
    half = safe_sqrt(jnp.clip(square, 0.0, 4.0)) / 2
    angle = 2 * jnp.arcsin(half)
    rest, cos = jnp.pi - angle, 1 - 2 * half**2
    sin = 2 * half * safe_sqrt(1 - half**2)
    if order == 0:
        return rest / jnp.pi
    if order == 1:
        return (sin + rest * cos) / jnp.pi
    return (3 * sin * cos + rest * (1 + 2 * cos**2)) / (3 * jnp.pi)


@arc_cosine_profile.defjvp
def _arc_cosine_jvp(order: int, primals: tuple, tangents: tuple) -> tuple:
    (square,), (move,) = primals, tangents
    value = arc_cosine_profile(order, square)
    if order == 0:
        # dθ/dc = 1 / (2 sin θ), of which sin θ = ½ √(c (4 − c)).
        slope = -2 / jnp.pi * _inverse(safe_sqrt(square * (4 - square)))
    else:
        slope = -arc_cosine_profile(order - 1, square) * (0.5 if order == 1 else 2 / 3)
    return value, slope * move
