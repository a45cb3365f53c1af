"""The Wasserstein geometry of Gaussians: distances, maps, barycentres, and a low-rank loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _power(matrix: Array, exponent: float) -> Array:
    """A power of a positive semi-definite matrix; if negative, of its pseudo-inverse."""
    values, vectors = jnp.linalg.eigh(0.5 * (matrix + matrix.T))
    floor = len(matrix) * jnp.finfo(matrix.dtype).eps * jnp.maximum(values[-1], 0)
    kept = values > floor
    powers = jnp.where(kept, jnp.where(kept, values, 1) ** exponent, 0)
    return (vectors * powers) @ vectors.T


def _root_trace(matrix: Array) -> Array:
    """The trace of the square root; eigenvalues that are rounding errors count as zero."""
    values = jnp.linalg.eigvalsh(matrix)
    floor = len(matrix) * jnp.finfo(matrix.dtype).eps * jnp.maximum(values[-1], 0)
    return jnp.sum(jnp.sqrt(jnp.where(values > floor, values, 0)))


def _map_through(root: Array, other: Array) -> Array:
    """``B½ (B½ A B½)^-½ B½`` for a root B½ and A = ``other``: the optimal map from A to B."""
    return root @ _power(root @ other @ root, -0.5) @ root


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

    Complexity:
      Two eigendecompositions, O(D³); two more for a gradient.

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
    root = _power(first, 0.5)
    fidelity = _root_trace(root @ second @ root)
    return jnp.maximum(jnp.trace(first) + jnp.trace(second) - 2 * fidelity, 0)


@bures.defjvp
def _bures_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    first, second = primals
    d_first, d_second = tangents
    eye = jnp.eye(len(first), dtype=first.dtype)
    to_second = _map_through(_power(second, 0.5), first)
    to_first = _map_through(_power(first, 0.5), second)
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

    Complexity:
      As `bures`.
    """
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
    shares = shares / jnp.sum(shares)

    def step(s: Array, _: None) -> tuple[Array, None]:
        root, inverse = _power(s, 0.5), _power(s, -0.5)
        mean = jnp.einsum(
            "k,kij->ij", shares, jax.vmap(lambda c: _power(root @ c @ root, 0.5))(covariances)
        )
        half = mean @ inverse
        return half.T @ half, None

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
    :math:`|W|^2 + \operatorname{tr} Σ - 2 \operatorname{tr}(W^T Σ W)^{1/2}`, which needs products
    with Σ only, and whose derivative in W leaves out the directions that W lacks where its rank is
    not full. A perturbation τ > 0 makes the loss smooth everywhere; its
    minimum over W is then that of the R largest eigenvalues of Σ - τI.

    The minimum over W of rank R, at τ = 0, spans the R leading eigenvectors and has as its value
    the sum of the other eigenvalues.

    Args:
      factor: W.
      covariance: Σ, symmetric positive semi-definite.
      perturbation: τ ≥ 0, squared units. The Python number 0 takes the cheap form.

    Returns:
      Shape ``()``, squared units.

    Raises:
      ValueError: if shapes do not fit.

    Complexity:
      O(D² R + R³); O(D³) with a perturbation.

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
    gram = factor.T @ covariance @ factor
    fidelity = _root_trace(gram)
    return jnp.maximum(jnp.sum(factor**2) + jnp.trace(covariance) - 2 * fidelity, 0)


@_factor_loss.defjvp
def _factor_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    factor, covariance = primals
    d_factor, d_covariance = tangents
    moved = covariance @ factor
    inverse_root = _power(factor.T @ moved, -0.5)
    mapped = factor @ inverse_root
    change = 2 * jnp.sum((factor - moved @ inverse_root) * d_factor)
    change = change + jnp.trace(d_covariance) - jnp.sum((mapped @ factor.T) * d_covariance)
    return _factor_loss(factor, covariance), change
