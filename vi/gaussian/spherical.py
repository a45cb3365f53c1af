r"""The spherical-radial rule: gradients only, exact on quadratics, one rotation of noise.

For q = N(m, L Lᵀ), a random rotation with rows u₁..u_D and a radius r, the rule

.. math::

   \hat{\mathbb E}_q[f] = (1 - D/r^2) f(m)
       + \frac{1}{2r^2} \sum_{i=1}^D [f(m + r L u_i) + f(m - r L u_i)]

is unbiased when r is chi-distributed with D + 2 degrees of freedom (Genz and Monahan 1998,
"Stochastic integration rules for infinite regions", degree three). With the fixed radius
r = √(D + 2) it is, in the mean over rotations, exact for polynomials of degree five, and
its noise is lower. The derivatives of the rule in m and L, in whitened coordinates, are

.. math::

   \hat g = L^T \hat{\mathbb E}[\nabla f], \qquad
   \hat A = -\frac{1}{2r} \sum_i u_i\, [L^T\nabla f(m + r L u_i) - L^T\nabla f(m - r L u_i)]^T,

the second an estimate of Lᵀ E[-∇²f] L by Stein's identity: 2D + 1 gradients, no Hessian.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi.gaussian.root import SearchRoot, minus_identity, squared_norm

ValuesAndGrads = Callable[[Array], tuple[Array, Array]]


class Estimate(NamedTuple):
    """What one rotation tells about a Gaussian approximation."""

    elbo: Float[Array, ""]
    score: Float[Array, " D"]  # gradient of the expected log density
    gradient: Float[Array, " D"]  # the same, whitened
    excess: (
        Any  # a root's sparsity: whitened curvature less the identity: zero at the best Gaussian
    )
    finite: Array  # whether every evaluation was


def directions_of(normal: Any) -> Any:
    """Orthonormal rows, uniformly distributed, from ``(..., D, R)`` matrices of unit normals.

    Works on NumPy and JAX arrays alike: drawing rotations on the host costs no compilation.
    """
    xp = np if isinstance(normal, np.ndarray) else jnp
    q, r = xp.linalg.qr(normal)
    flip = xp.diagonal(r, axis1=-2, axis2=-1) < 0
    return xp.swapaxes(xp.where(flip[..., None, :], -q, q), -2, -1)


def estimate(
    values_and_grads: ValuesAndGrads,
    loc: Float[Array, " D"],
    root: SearchRoot,
    log_det: Float[Array, ""],
    directions: Float[Array, "R D"],
    radius: Float[Array, ""] | float,
) -> Estimate:
    """Apply the rule to a log density.

    Args:
      values_and_grads: of the log density at many points, shapes ``(S,)`` and ``(S, D)``.
      loc: m, shape ``(D,)``.
      root: the root L.
      log_det: ``log |det L|``, for the entropy.
      directions: R ≤ D orthonormal rows; with fewer than D the estimates stay unbiased.
      radius: the radius r.

    Returns:
      The estimate. Gradient and excess are those of the ELBO as this rule sees it, so that
      steps along them raise the ELBO on the same directions.

    Complexity:
      2R + 1 gradients; O(R D²) time for a dense root, O(R D) for a diagonal one.
    """
    num, dim = directions.shape
    offsets = radius * root.matmul(directions)
    points = jnp.concatenate([loc[None], loc + offsets, loc - offsets])
    values, gradients = values_and_grads(points)
    finite = jnp.all(jnp.isfinite(values)) & jnp.all(jnp.isfinite(gradients))
    share = dim / radius**2  # the rule's total weight off the centre
    ring = 0.5 * (values[1 : num + 1] + values[num + 1 :])
    energy = values[0] + share * jnp.mean(ring - values[0])
    plus, minus = gradients[1 : num + 1], gradients[num + 1 :]
    score = gradients[0] + share * jnp.mean(0.5 * (plus + minus) - gradients[0], axis=0)
    steepening = root.transpose_matmul(minus - plus) * (0.5 * dim / (num * radius))
    curvature = root.outer(directions, steepening)
    entropy = log_det + 0.5 * dim * (1 + math.log(2 * math.pi))
    return Estimate(
        elbo=energy + entropy,
        score=score,
        gradient=root.transpose_matmul(score),
        excess=minus_identity(curvature),
        finite=finite,
    )


def distance(found: Estimate) -> Float[Array, ""]:
    """Second-order estimate of how many nats of ELBO a natural-gradient step would gain."""
    return 0.5 * jnp.sum(found.gradient**2) + 0.25 * squared_norm(found.excess)
