"""The Wasserstein geometry of Gaussians: distances, maps, barycentres, and a low-rank loss."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _root(matrix: Array) -> Array:
    """The square root of a positive semi-definite matrix, without what is a rounding error."""
    values, vectors = jnp.linalg.eigh(0.5 * (matrix + matrix.T))
    floor = len(matrix) * jnp.finfo(matrix.dtype).eps * jnp.maximum(values[-1], 0)
    return (vectors * jnp.sqrt(jnp.where(values > floor, values, 0))) @ vectors.T


def _inverses(values: Array, size: int) -> Array:
    """Of singular values, largest first; those that are rounding errors count as zero."""
    kept = values > size * jnp.finfo(values.dtype).eps * values[0]
    return jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)


def _coupling(first: Array, second: Array) -> tuple[Array, Array, Array]:
    """The trace of ``(A½ B A½)½``, and the optimal maps from A to B and from B to A.

    From the singular values of B½ A½: those of its square would lose the small half of the digits.
    """
    if first.ndim != 2 or first.shape != second.shape or len(first) != first.shape[1]:
        raise ValueError(
            "bures: expected two covariances of one shape (D, D); got shapes "
            f"{first.shape} and {second.shape}."
        )
    first_root, second_root = _root(first), _root(second)
    left, values, right = jnp.linalg.svd(second_root @ first_root)
    scales = jnp.sqrt(_inverses(values, len(first)))
    forth, back = second_root @ left * scales, first_root @ right.T * scales
    return jnp.sum(values), forth @ forth.T, back @ back.T


@jax.custom_jvp
def bures(first: Float[Array, "D D"], second: Float[Array, "D D"]) -> Float[Array, ""]:
    r"""The squared Bures-Wasserstein distance between two covariances.

    .. math:: B^2(A, B) = \operatorname{tr} A + \operatorname{tr} B
        - 2 \operatorname{tr} (A^{1/2} B A^{1/2})^{1/2}

    Its gradient in A is I - T with T the optimal map from N(0, A) to N(0, B), by a rule of its
    own: exact, and finite at equal eigenvalues. Where A is rank-deficient the distance has no
    derivative in directions that raise the rank; the pseudo-inverse leaves them out.

    Args:
      first: A, symmetric positive semi-definite.
      second: B, likewise.

    Returns:
      Shape ``()``, squared units; not negative.

    Raises:
      ValueError: if the shapes are not one (D, D).

    Complexity:
      Two eigendecompositions and one of singular values, O(D³), and again for a gradient.

    Reference: Bhatia, Jain and Lim (2019), "On the Bures-Wasserstein distance between positive
    definite matrices"; gradient as in Bréchet, Papagiannouli, An and Montúfar (2023), "Critical
    points and convergence analysis of generative deep linear networks trained with
    Bures-Wasserstein loss".

    Example:
      >>> import jax.numpy as jnp
      >>> from vi.distances import bures
      >>> float(bures(jnp.diag(jnp.array([4.0, 1.0])), jnp.eye(2)))
      1.0
    """
    fidelity, _, _ = _coupling(first, second)
    return jnp.maximum(jnp.trace(first) + jnp.trace(second) - 2 * fidelity, 0)


@bures.defjvp
def _bures_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    first, second = primals
    d_first, d_second = tangents
    eye = jnp.eye(len(first), dtype=first.dtype)
    _, to_second, to_first = _coupling(first, second)
    change = jnp.sum((eye - to_second) * d_first) + jnp.sum((eye - to_first) * d_second)
    return bures(first, second), change


def gaussian_wasserstein(
    first_loc: Float[Array, " D"],
    first_covariance: Float[Array, "D D"],
    second_loc: Float[Array, " D"],
    second_covariance: Float[Array, "D D"],
) -> Float[Array, ""]:
    r"""The squared Wasserstein distance of order 2 between two Gaussians.

    .. math:: W_2^2 = |m_1 - m_2|^2 + B^2(Σ_1, Σ_2)

    with B² of `bures`. It is also a lower bound on W_2² between any two distributions of these
    moments (Gelbrich 1990, "On a formula for the L2 Wasserstein metric between measures on
    Euclidean and Hilbert spaces").

    Args:
      first_loc: mean.
      first_covariance: covariance.
      second_loc: mean.
      second_covariance: covariance.

    Returns:
      Shape ``()``, squared units.

    Raises:
      ValueError: if shapes do not fit.

    Complexity:
      As `bures`.
    """
    if not (first_loc.shape == second_loc.shape == (len(first_covariance),)):
        raise ValueError(
            "gaussian_wasserstein: expected means (D,) of covariances (D, D); got shapes "
            f"{first_loc.shape}, {second_loc.shape} and {first_covariance.shape}."
        )
    return jnp.sum((first_loc - second_loc) ** 2) + bures(first_covariance, second_covariance)


def bures_barycenter(
    covariances: Float[Array, "K D D"],
    weights: Float[Array, " K"] | None = None,
    *,
    num_steps: int = 30,
) -> Float[Array, "D D"]:
    r"""The covariance of least weighted mean `bures` to given ones: a barycentre of Gaussians.

    By the fixed-point iteration

    .. math:: S \leftarrow S^{-1/2}\Big(\sum_k w_k (S^{1/2} Σ_k S^{1/2})^{1/2}\Big)^2 S^{-1/2},

    a unit gradient step in Bures-Wasserstein space, which converges from any positive definite
    start; with commuting covariances in one step. The mean of the barycentre is the weighted mean.

    Args:
      covariances: Σ, symmetric, positive definite.
      weights: not negative, need not sum to one; equal if not given.
      num_steps: steps of the iteration; its error falls geometrically.

    Returns:
      The barycentre's covariance.

    Raises:
      ValueError: if shapes do not fit.

    Complexity:
      O(num_steps K D³) time.

    Reference: Álvarez-Esteban, del Barrio, Cuesta-Albertos and Matrán (2016), "A fixed-point
    approach to barycenters in Wasserstein space"; Altschuler, Chewi, Gerber and Stromme
    (2021), "Averaging on the Bures-Wasserstein manifold: dimension-free convergence of gradient
    descent".

    Example:
      >>> import jax.numpy as jnp
      >>> from vi.distances import bures_barycenter
      >>> float(bures_barycenter(jnp.array([[[1.0]], [[9.0]]]))[0, 0])
      4.0
    """
    k = len(covariances)
    shares = jnp.full(k, 1 / k, covariances.dtype) if weights is None else weights
    if covariances.ndim != 3 or shares.shape != (k,):
        raise ValueError(
            "bures_barycenter: expected covariances (K, D, D) and weights (K,); got shapes "
            f"{covariances.shape} and {shares.shape}."
        )
    return _fixed_point(covariances, shares / jnp.sum(shares), num_steps=num_steps)


@partial(jax.jit, static_argnames=("num_steps",))
def _fixed_point(covariances: Array, shares: Array, *, num_steps: int) -> Array:
    def step(s: Array, _: None) -> tuple[Array, None]:
        maps = jax.vmap(lambda c: _coupling(s, c)[1])(covariances)
        mean = jnp.einsum("k,kij->ij", shares, maps)
        return mean @ s @ mean, None

    start = jnp.einsum("k,kij->ij", shares, covariances)
    return jax.lax.scan(step, start, length=num_steps)[0]


def bures_factor(
    factor: Float[Array, "D R"],
    covariance: Float[Array, "D D"],
    *,
    perturbation: float | Array = 0.0,
) -> Float[Array, ""]:
    r"""The squared Bures-Wasserstein distance of a low-rank covariance from a given one.

    .. math:: B^2(W W^T + τ I, Σ), \qquad
        ∇_W = 2 (I - T) W

    with T the optimal map of `bures`. Without perturbation it is
    :math:`|W|^2 + \operatorname{tr} Σ - 2 \operatorname{tr}(W^T Σ W)^{1/2}`, whose derivative in W
    leaves out the directions that W lacks where its rank is not full. A perturbation τ > 0 makes
    the loss smooth everywhere; its minimum over W is then that of the R largest eigenvalues of
    Σ - τI.

    The minimum over W of rank R, at τ = 0, spans the R leading eigenvectors and has as its value
    the sum of the other eigenvalues.

    Args:
      factor: W.
      covariance: Σ, symmetric positive semi-definite.
      perturbation: τ ≥ 0, squared units.

    Returns:
      Shape ``()``, squared units.

    Raises:
      ValueError: if shapes do not fit.

    Complexity:
      O(D³), of an eigendecomposition of Σ.

    Reference: Bréchet, Papagiannouli, An and Montúfar (2023), "Critical points and convergence
    analysis of generative deep linear networks trained with Bures-Wasserstein loss"; the
    perturbation by τI is of this form there, to keep the Hessian bounded.

    Example:
      >>> import jax.numpy as jnp
      >>> from vi.distances import bures_factor
      >>> float(bures_factor(jnp.array([[2.0], [0.0]]), jnp.diag(jnp.array([4.0, 1.0]))))
      1.0
    """
    if factor.ndim != 2 or covariance.shape != (len(factor), len(factor)):
        raise ValueError(
            "bures_factor: expected a factor (D, R) and a covariance (D, D); got shapes "
            f"{factor.shape} and {covariance.shape}."
        )
    if isinstance(perturbation, (int, float)) and perturbation == 0:
        return _factor_loss(factor, covariance)
    eye = jnp.eye(len(factor), dtype=factor.dtype)
    return bures(factor @ factor.T + perturbation * eye, covariance)


@jax.custom_jvp
def _factor_loss(factor: Array, covariance: Array) -> Array:
    values = jnp.linalg.svd(_root(covariance) @ factor, compute_uv=False)
    fidelity = jnp.sum(values)
    return jnp.maximum(jnp.sum(factor**2) + jnp.trace(covariance) - 2 * fidelity, 0)


@_factor_loss.defjvp
def _factor_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    factor, covariance = primals
    d_factor, d_covariance = tangents
    root = _root(covariance)
    left, values, right = jnp.linalg.svd(root @ factor, full_matrices=False)
    inverses = _inverses(values, len(factor))
    mapped = (root @ left * (inverses > 0)) @ right  # T W
    back = factor @ right.T * jnp.sqrt(inverses)
    change = 2 * jnp.sum((factor - mapped) * d_factor)
    change = change + jnp.trace(d_covariance) - jnp.sum((back @ back.T) * d_covariance)
    return _factor_loss(factor, covariance), change
