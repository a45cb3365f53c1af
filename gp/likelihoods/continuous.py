"""Likelihoods of real targets: Gaussian, Student's t, and Gaussian of unknown noise."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from gp.likelihoods.likelihood import Expectation, Likelihood, hermite, refuse
from gp.sites import Sites
from vi.module import module

_LOG_2PI = math.log(2 * math.pi)


def _normal(y: Array, mean: Array, variance: Array | float) -> Array:
    return -0.5 * (_LOG_2PI + jnp.log(variance) + (y - mean) ** 2 / variance)


def _check_real(owner: str, y: np.ndarray) -> None:
    refuse(owner, y, ~np.isfinite(y), "to be finite", "Drop them, or pass missing='ignore'.")


@module
class Gaussian(Likelihood):
    r"""Independent normal noise, :math:`y \sim N(f, σ^2)`; the posterior is then exact.

    Args:
      variance: σ², in squared units of the targets.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> likelihood = gp.Gaussian(variance=0.5)
      >>> mean, variance = likelihood.predict(jnp.zeros(1), jnp.ones(1))
      >>> float(variance[0])
      1.5
    """

    positive: ClassVar[tuple[str, ...]] = ("variance",)
    conjugate: ClassVar[bool] = True

    variance: Float[Array, ""] | float = 1.0

    def log_prob(self, f: Float[Array, "*S N"], y: Float[Array, " N"]) -> Float[Array, "*S N"]:
        """Log p(y | f)."""
        return _normal(y, f, self.variance)

    def moments(self, f: Float[Array, "*S N"]) -> tuple[Array, Array]:
        """Mean and variance of y given f."""
        return f, jnp.full_like(f, self.variance)

    def check(self, y: np.ndarray) -> None:
        """Raise a `ValueError` that names the first target that is not finite."""
        _check_real("Gaussian", y)

    def start(self, y: Float[Array, " N"]) -> Float[Array, " N"]:
        """The targets."""
        return y

    def sites(self, y: Float[Array, " N"]) -> Sites:
        """The likelihood itself, as sites."""
        return Sites(y / self.variance, jnp.full_like(y, 1 / self.variance))

    def expect(
        self, mean: Float[Array, " N"], variance: Float[Array, " N"], y: Float[Array, " N"]
    ) -> Expectation:
        """In closed form."""
        value = _normal(y, mean, self.variance) - 0.5 * variance / self.variance
        return Expectation(
            value, (y - mean) / self.variance, jnp.full_like(mean, 1 / self.variance)
        )

    def predict(
        self, mean: Float[Array, " N"], variance: Float[Array, " N"]
    ) -> tuple[Array, Array]:
        """In closed form."""
        return mean, variance + self.variance

    def log_predictive(
        self, mean: Float[Array, " N"], variance: Float[Array, " N"], y: Float[Array, " N"]
    ) -> Float[Array, " N"]:
        """In closed form."""
        return _normal(y, mean, variance + self.variance)


@module
class StudentT(Likelihood):
    r"""Noise with heavy tails, :math:`(y - f) / s \sim t_ν`: outliers are set aside.

    It is not log-concave: the curvature of a datum far off is negative, and the loop keeps its
    site's precision at a small positive floor. The ELBO may then have several optima.

    Args:
      scale: s, in units of the targets.
      df: ν, degrees of freedom.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> likelihood = gp.StudentT(scale=1.0, df=3.0)
      >>> far = likelihood.expect(jnp.zeros(1), jnp.ones(1), jnp.asarray([50.0]))
      >>> bool(far.curvature[0] < 0)
      True
    """

    positive: ClassVar[tuple[str, ...]] = ("scale", "df")

    scale: Float[Array, ""] | float = 1.0
    df: Float[Array, ""] | float = 4.0

    def log_prob(self, f: Float[Array, "*S N"], y: Float[Array, " N"]) -> Float[Array, "*S N"]:
        """Log p(y | f)."""
        half = 0.5 * (self.df + 1)
        constant = gammaln(half) - gammaln(0.5 * self.df)
        constant = constant - 0.5 * jnp.log(self.df * jnp.pi) - jnp.log(self.scale)
        return constant - half * jnp.log1p(((y - f) / self.scale) ** 2 / self.df)

    def moments(self, f: Float[Array, "*S N"]) -> tuple[Array, Array]:
        """Mean and variance of y given f; infinite for ν ≤ 2, the mean being the median then."""
        finite = self.df > 2
        ratio = jnp.where(finite, self.df / jnp.where(finite, self.df - 2, 1.0), jnp.inf)
        return f, jnp.full_like(f, self.scale**2 * ratio)

    def check(self, y: np.ndarray) -> None:
        """Raise a `ValueError` that names the first target that is not finite."""
        _check_real("StudentT", y)

    def start(self, y: Float[Array, " N"]) -> Float[Array, " N"]:
        """The targets."""
        return y


@module
class HeteroscedasticGaussian(Likelihood):
    r"""Normal noise whose size is a function too, :math:`y \sim N(f_1, e^{f_2})`.

    Two latent functions, independent in the prior; expectations are in closed form.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> likelihood = gp.HeteroscedasticGaussian()
      >>> mean, variance = likelihood.predict(jnp.zeros((1, 2)), jnp.zeros((1, 2)))
      >>> float(variance[0])
      1.0

    Reference: Lázaro-Gredilla and Titsias (2011), "Variational heteroscedastic Gaussian process
    regression", whose bound this is, without its restriction of the covariances.
    """

    @property
    def latents(self) -> int:
        """Two: the mean, and the logarithm of the variance."""
        return 2

    def log_prob(self, f: Float[Array, "*S N 2"], y: Float[Array, " N"]) -> Float[Array, "*S N"]:
        """Log p(y | f)."""
        return _normal(y, f[..., 0], jnp.exp(f[..., 1]))

    def moments(self, f: Float[Array, "*S N 2"]) -> tuple[Array, Array]:
        """Mean and variance of y given f."""
        return f[..., 0], jnp.exp(f[..., 1])

    def check(self, y: np.ndarray) -> None:
        """Raise a `ValueError` that names the first target that is not finite."""
        _check_real("HeteroscedasticGaussian", y)

    def start(self, y: Float[Array, " N"]) -> Float[Array, "N 2"]:
        """The targets' mean, and the log of a tenth of their variance."""
        spread = jnp.maximum(0.1 * jnp.var(y), jnp.finfo(y.dtype).tiny)
        overall = jnp.stack([jnp.mean(y), jnp.log(spread)])
        return jnp.broadcast_to(overall, (*y.shape, 2))

    def spread(self, y: Float[Array, " N"]) -> Float[Array, "2"]:
        """The targets' variance, and one."""
        return jnp.stack([jnp.var(y), jnp.ones((), y.dtype)])

    def expect(
        self, mean: Float[Array, "N 2"], variance: Float[Array, "N 2"], y: Float[Array, " N"]
    ) -> Expectation:
        """In closed form, by the mean of a lognormal."""
        off = y - mean[..., 0]
        precision = jnp.exp(0.5 * variance[..., 1] - mean[..., 1])
        square = (off**2 + variance[..., 0]) * precision
        value = -0.5 * (_LOG_2PI + mean[..., 1] + square)
        gradient = jnp.stack([off * precision, 0.5 * (square - 1)], -1)
        return Expectation(value, gradient, jnp.stack([precision, 0.5 * square], -1))

    def predict(
        self, mean: Float[Array, "N 2"], variance: Float[Array, "N 2"]
    ) -> tuple[Array, Array]:
        """In closed form."""
        noise = jnp.exp(mean[..., 1] + 0.5 * variance[..., 1])
        return mean[..., 0], variance[..., 0] + noise

    def log_predictive(
        self, mean: Float[Array, "N 2"], variance: Float[Array, "N 2"], y: Float[Array, " N"]
    ) -> Float[Array, " N"]:
        """By quadrature over the log variance alone."""
        nodes, weights = hermite(mean.dtype)
        noise = jnp.exp(mean[..., 1] + jnp.sqrt(variance[..., 1]) * nodes[:, None])
        shifted = _normal(y, mean[..., 0], variance[..., 0] + noise) + jnp.log(weights)[:, None]
        return jax.scipy.special.logsumexp(shifted, axis=0)
