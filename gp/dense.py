"""The dense back-end: the exact prior, by one Cholesky factorisation of N rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from gp.cholesky import safe_cholesky
from gp.prior import Conditional
from gp.sites import Sites, misfits
from vi.compile import quick_jit
from vi.module import module
from vi.random import fast_key


class DenseFactor(NamedTuple):
    """What predictions of the dense process are made from; S² is the diagonal of precisions λ₂.

    Attributes:
      tril: Cholesky factor of B = I + S K S, shape ``(N, N)``.
      root: the diagonal of S, shape ``(N,)``.
      weights: K⁻¹ (m - μ), shape ``(N,)``: means elsewhere are μ plus covariances times these.
    """

    tril: Array  # of B = I + S K S, with S² the sites' precisions
    root: Array  # the diagonal of S
    weights: Array  # K⁻¹ (m - μ)


@module
class DensePrior:
    r"""The Gaussian process itself at N inputs, :math:`f \sim N(μ, K)`.

    With :math:`S = \mathrm{diag}(\sqrt{λ_2})`, :math:`B = I + S K S` and
    :math:`u = S (λ_1/λ_2 - μ)`,

    .. math::

       m = μ + K S B^{-1} u, \qquad Σ = K - K S B^{-1} S K, \qquad
       \log Z = -\tfrac12 u^T B^{-1} u - \tfrac12 \log |B| .

    B is well conditioned unless the noise is tiny, so that no jitter is needed where K itself
    is singular; where rounding makes B indefinite, K gets the least jitter that helps.

    Attributes:
      kernel: k.
      mean: μ(x).
      x: inputs.

    Complexity:
      O(N³) time, O(N²) memory.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> from gp.dense import DensePrior
      >>> prior = DensePrior(gp.Matern(), gp.Zero(), jnp.linspace(0.0, 1.0, 5)[:, None])
      >>> q = prior.condition(gp.Sites(jnp.ones(5), jnp.ones(5)))
      >>> q.mean.shape, bool(q.kl > 0)
      ((5,), True)

    Reference: Rasmussen and Williams (2006), section 3.4.3.
    """

    kernel: Any
    mean: Any
    x: Float[Array, "N D"]

    exact = True  # with a Gaussian likelihood: the posterior is, and the ELBO is the log evidence

    def _moments(self) -> tuple[Array, Array]:
        return self.mean(self.x), self.kernel(self.x, self.x)

    def condition(self, sites: Sites) -> Conditional:
        """q(f) at the data; see `gp.prior.Prior`."""
        mu, covariance = self._moments()
        root, u = _standardised(sites, mu)
        tril, jitter = _factorise(covariance, root)
        half = solve_triangular(tril, u, lower=True)
        weights = root * solve_triangular(tril, half, lower=True, trans=1)
        variances = jnp.diagonal(covariance)
        added = jitter * jnp.mean(variances)
        mean = mu + covariance @ weights + added * weights
        cross = root[:, None] * (covariance + added * jnp.eye(len(root), dtype=root.dtype))
        spread = solve_triangular(tril, cross, lower=True)
        variance = jnp.maximum(variances + added - jnp.sum(spread**2, 0), 0.0)
        log_normalizer = -0.5 * jnp.sum(half**2) - jnp.sum(jnp.log(jnp.diagonal(tril)))
        misfit = jnp.sum(sites.precision * ((mean - sites.centre) ** 2 + variance))
        kl = -0.5 * misfit - log_normalizer
        return Conditional(
            mean, variance, kl, log_normalizer, added, DenseFactor(tril, root, weights)
        )

    def log_normalizer(self, sites: Sites) -> Float[Array, ""]:
        """The pseudo-evidence, its derivatives by a closed form; see `gp.prior.Prior`."""
        return _evidence(*self._moments(), sites)

    def predict(
        self, conditional: Conditional, x_new: Float[Array, "M D"], *, full_cov: bool = False
    ) -> tuple[Array, Array]:
        """Means and variances, or the covariance, of the function; O(N² M)."""
        return _predict(self, conditional.factor, x_new, full_cov=full_cov)

    def sample(
        self, key: Array, conditional: Conditional, x_new: Float[Array, "M D"], num_samples: int
    ) -> Float[Array, "S M"]:
        """Joint draws of the function; O(N² M + M³)."""
        noise = jax.random.normal(fast_key(key), (num_samples, len(x_new)), x_new.dtype)
        return _draw(self, conditional.factor, x_new, noise)

    def anchored(
        self, key: Array, conditional: Conditional, sites: Sites, path: Callable
    ) -> tuple[Array, Array]:
        """How data move draws of the prior; see `gp.prior.Prior`."""
        tril, root, _ = conditional.factor
        rest = misfits(key, sites, self.mean(self.x) + path(self.x))
        half = solve_triangular(tril, root[:, None] * rest.T, lower=True)
        weights = root[:, None] * solve_triangular(tril, half, lower=True, trans=1)
        return self.x, weights.T


def _moments(
    prior: DensePrior, factor: DenseFactor, x_new: Array, *, full_cov: bool
) -> tuple[Array, Array]:
    tril, root, weights = factor
    cross = prior.kernel(prior.x, x_new)
    mean = prior.mean(x_new) + weights @ cross
    half = solve_triangular(tril, root[:, None] * cross, lower=True)
    if full_cov:
        return mean, prior.kernel(x_new, x_new) - half.T @ half
    return mean, jnp.maximum(prior.kernel.diagonal(x_new) - jnp.sum(half**2, 0), 0.0)


_predict = quick_jit(_moments, static_argnames="full_cov")


@quick_jit
def _draw(prior: DensePrior, factor: DenseFactor, x_new: Array, noise: Array) -> Array:
    mean, covariance = _moments(prior, factor, x_new, full_cov=True)
    variance = jnp.mean(prior.kernel.diagonal(x_new))
    tril, _ = safe_cholesky(covariance, jnp.full_like(mean, variance))
    return mean + noise @ tril.T


def _standardised(sites: Sites, mu: Array) -> tuple[Array, Array]:
    """S and u."""
    root = jnp.sqrt(sites.precision)
    return root, root * (sites.centre - mu)


def _factorise(covariance: Array, root: Array) -> tuple[Array, Array]:
    """The Cholesky factor of B and the jitter relative to the mean variance."""
    matrix = jnp.eye(len(root), dtype=root.dtype) + root[:, None] * covariance * root
    return safe_cholesky(matrix, jnp.mean(jnp.diagonal(covariance)) * root**2)


@jax.custom_vjp
def _evidence(mu: Array, covariance: Array, sites: Sites) -> Array:
    root, u = _standardised(sites, mu)
    tril, _ = _factorise(covariance, root)
    half = solve_triangular(tril, u, lower=True)
    return -0.5 * jnp.sum(half**2) - jnp.sum(jnp.log(jnp.diagonal(tril)))


def _evidence_forward(mu: Array, covariance: Array, sites: Sites) -> tuple[Array, tuple]:
    r"""The value and its derivatives.

    With α = S B⁻¹ u and P = S B⁻¹ S: ∂/∂K = ½ (α αᵀ - P), ∂/∂μ = α, ∂/∂(λ₁/λ₂) = -α and, at fixed
    λ₁/λ₂, ∂/∂λ₂ = -½ E_q[(f - λ₁/λ₂)²], of which λ₂²(λ₁/λ₂ - m)² = α² and λ₂ - λ₂² v = diag P.
    """
    root, u = _standardised(sites, mu)
    tril, _ = _factorise(covariance, root)
    inverse = solve_triangular(tril, jnp.eye(len(root), dtype=root.dtype), lower=True)
    half = inverse @ u
    value = -0.5 * jnp.sum(half**2) - jnp.sum(jnp.log(jnp.diagonal(tril)))
    scaled = inverse * root
    weights, precision = half @ scaled, scaled.T @ scaled
    into_covariance = 0.5 * (weights[:, None] * weights - precision)
    known = sites.precision > 0
    safe = jnp.where(known, sites.precision, 1.0)
    square = (weights**2 + sites.precision - jnp.diagonal(precision)) / safe**2
    into_precision = -0.5 * square + weights * sites.linear / safe**2
    into_sites = Sites(*(jnp.where(known, g, 0.0) for g in (-weights / safe, into_precision)))
    return value, (weights, into_covariance, into_sites)


def _evidence_backward(slopes: tuple, bar: Array) -> tuple:
    return jax.tree.map(lambda g: bar * g, slopes)


_evidence.defvjp(_evidence_forward, _evidence_backward)
