r"""What the noise of a gradient should be: closed forms for quadratic energies, and a bound."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vi.families import Gaussian
from vi.families.scale import DenseScale, DiagonalScale


class ReferenceNoise(NamedTuple):
    """Variances of a gradient estimate, summed over parameters, to compare `gradient_noise` with.

    Attributes:
      quadratic: what pathwise gradients with the entropy in closed form have where the log
        density is the quadratic that has the target's value, gradient and Hessian at the location.
      bound: no more than this for any log density of that smoothness and that stationary point;
        for location and scale matrix, or its lower triangle.
    """

    quadratic: float
    bound: float


def reference_noise(q: Gaussian, target: Any, *, num_particles: int = 1) -> ReferenceNoise:
    r"""Reference lines for the noise of ELBO gradients at a Gaussian.

    With :math:`z = m + C u`, f the negative log density, L the largest eigenvalue of its Hessian
    in absolute value and :math:`\bar z` its stationary point, both of the quadratic at m,

    .. math:: E\|\nabla f(m + C u)\|^2
        \le L^2 \big((d + 1) \|m - \bar z\|^2 + (d + 3) \|C\|_F^2\big)

    for the gradient in m and a dense C of one draw. Fewer entries of C take part in the gradient
    of a lower triangle or a diagonal, and the closed form counts them. It is that of `vi.elbo` with
    ``analytic="entropy"`` and `Pathwise`. A variance far above it on a smooth target says that the
    estimator is to blame; one near it, that only more particles or another family will help.

    Args:
      q: a mean-field or full-rank Gaussian with ``positive="linear"``.
      target: the target.
      num_particles: draws in one estimate.

    Returns:
      The two variances.

    Raises:
      ValueError: for another family or parameterisation.

    Complexity: one dense Hessian, D Hessian-vector products, and O(D³).

    Reference: Kim, Wu, Oh and Gardner (2023), "Practical and matching gradient variance bounds for
    black-box variational Bayesian inference".

    Example:
      >>> import jax, jax.numpy as jnp, vi
      >>> target = vi.target(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(3))
      >>> q = vi.mean_field(3, scale=0.5)
      >>> reference = vi.reference_noise(q, target)
      >>> bound = vi.elbo(analytic="entropy")
      >>> noise = vi.gradient_noise(bound, jax.random.key(0), q, target, num_samples=4096)
      >>> bool(abs(noise.variance / reference.quadratic - 1) < 0.2)
      True
    """
    scale = q.scale
    if not isinstance(scale, (DiagonalScale, DenseScale)) or scale.positive != "linear":
        raise ValueError(
            f"reference_noise: expected a mean-field or full-rank Gaussian with "
            f"positive='linear'; got {q!r}."
        )
    hessian = -target.hessian(q.loc)
    slope = -jax.grad(target.log_density)(q.loc)
    offset = jnp.linalg.solve(hessian, slope)  # m - z̄
    dim = q.dim
    if isinstance(scale, DiagonalScale):
        root, mask = jnp.diag(scale.diagonal), jnp.eye(dim)
    else:
        root, mask = scale.tril, jnp.tril(jnp.ones((dim, dim)))
    moved = hessian @ root  # the gradient at m + C u is slope + moved @ u
    own = jnp.sum((moved * mask) ** 2)
    taken = mask.sum(1)  # products with u in each row
    rows = slope**2 + jnp.sum(moved**2, 1)
    quadratic = jnp.sum(taken * rows) + jnp.sum(moved**2) + own
    smoothness = jnp.max(jnp.abs(jnp.linalg.eigvalsh(hessian)))
    square = (dim + 1) * jnp.sum(offset**2) + (dim + 3) * jnp.sum(root**2)
    bound = smoothness**2 * square
    return ReferenceNoise(float(quadratic) / num_particles, float(bound) / num_particles)
