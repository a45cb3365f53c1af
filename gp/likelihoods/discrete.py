"""Likelihoods of labels, counts and proportions, through a link."""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, log_ndtr, ndtr
from jaxtyping import Array, Float

from gp.likelihoods.likelihood import Expectation, Likelihood, refuse
from vi.module import module, static


@module
class Bernoulli(Likelihood):
    r"""Labels 0 and 1, :math:`P(y = 1) = σ(f)` or :math:`Φ(f)`.

    Args:
      link: ``"logit"`` or ``"probit"``.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> probability, _ = gp.Bernoulli().predict(jnp.zeros(1), jnp.ones(1))
      >>> round(float(probability[0]), 4)
      0.5
    """

    link: Literal["logit", "probit"] = static(default="logit")

    def log_prob(self, f: Float[Array, "*S N"], y: Float[Array, " N"]) -> Float[Array, "*S N"]:
        """Log p(y | f)."""
        signed = (2 * y - 1) * f
        return jax.nn.log_sigmoid(signed) if self.link == "logit" else log_ndtr(signed)

    def moments(self, f: Float[Array, "*S N"]) -> tuple[Array, Array]:
        """The probability of label 1, and p (1 - p)."""
        p = jax.nn.sigmoid(f) if self.link == "logit" else ndtr(f)
        return p, p * (1 - p)

    def predict(
        self, mean: Float[Array, " N"], variance: Float[Array, " N"]
    ) -> tuple[Array, Array]:
        """The probability of label 1, in closed form for probit, and p (1 - p)."""
        if self.link == "logit":
            return super().predict(mean, variance)
        p = ndtr(mean / jnp.sqrt(1 + variance))
        return p, p * (1 - p)

    def check(self, y: np.ndarray) -> None:
        """Raise a `ValueError` that names the first target other than 0 and 1."""
        if self.link not in ("logit", "probit"):
            raise ValueError(f"Bernoulli: expected link 'logit' or 'probit'; got {self.link!r}.")
        advice = "Labels of -1 and 1 become (y + 1) / 2; more classes need gp.Categorical."
        refuse("Bernoulli", y, ~np.isin(y, (0, 1)), "0 or 1", advice)


@module
class Poisson(Likelihood):
    r"""Counts, :math:`y \sim \mathrm{Poisson}(e^f)`; expectations are in closed form.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> found = gp.Poisson().expect(jnp.zeros(1), jnp.zeros(1), jnp.asarray([3.0]))
      >>> float(found.gradient[0])
      2.0
    """

    def log_prob(self, f: Float[Array, "*S N"], y: Float[Array, " N"]) -> Float[Array, "*S N"]:
        """Log p(y | f)."""
        return y * f - jnp.exp(f) - gammaln(y + 1)

    def moments(self, f: Float[Array, "*S N"]) -> tuple[Array, Array]:
        """The rate, twice."""
        rate = jnp.exp(f)
        return rate, rate

    def expect(
        self, mean: Float[Array, " N"], variance: Float[Array, " N"], y: Float[Array, " N"]
    ) -> Expectation:
        """In closed form, by the mean of a lognormal."""
        rate = jnp.exp(mean + 0.5 * variance)
        return Expectation(y * mean - rate - gammaln(y + 1), y - rate, rate)

    def predict(
        self, mean: Float[Array, " N"], variance: Float[Array, " N"]
    ) -> tuple[Array, Array]:
        """In closed form."""
        rate = jnp.exp(mean + 0.5 * variance)
        return rate, rate + rate**2 * jnp.expm1(variance)

    def check(self, y: np.ndarray) -> None:
        """Raise a `ValueError` that names the first target that is no count."""
        _check_counts("Poisson", y)

    def start(self, y: Float[Array, " N"]) -> Float[Array, " N"]:
        """Log counts."""
        return jnp.log(y + 0.5)


@module
class NegativeBinomial(Likelihood):
    r"""Counts that vary more than Poisson's: mean :math:`μ = e^f`, variance :math:`μ + μ^2/r`.

    Args:
      concentration: r; large is Poisson.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> mean, variance = gp.NegativeBinomial(2.0).moments(jnp.zeros(1))
      >>> float(variance[0])
      1.5
    """

    positive: ClassVar[tuple[str, ...]] = ("concentration",)

    concentration: Float[Array, ""] | float = 1.0

    def log_prob(self, f: Float[Array, "*S N"], y: Float[Array, " N"]) -> Float[Array, "*S N"]:
        """Log p(y | f)."""
        r = self.concentration
        odds = f - jnp.log(r)
        constant = gammaln(y + r) - gammaln(r) - gammaln(y + 1)
        return constant - r * jax.nn.softplus(odds) - y * jax.nn.softplus(-odds)

    def moments(self, f: Float[Array, "*S N"]) -> tuple[Array, Array]:
        """Mean and variance of y given f."""
        rate = jnp.exp(f)
        return rate, rate + rate**2 / self.concentration

    def check(self, y: np.ndarray) -> None:
        """Raise a `ValueError` that names the first target that is no count."""
        _check_counts("NegativeBinomial", y)

    def start(self, y: Float[Array, " N"]) -> Float[Array, " N"]:
        """Log counts."""
        return jnp.log(y + 0.5)


def _check_counts(owner: str, y: np.ndarray) -> None:
    wrong = ~(np.isfinite(y) & (y >= 0) & (y == np.round(y)))
    refuse(owner, y, wrong, "to be counts 0, 1, 2, ...", "For other targets take gp.Gaussian.")


@module
class Beta(Likelihood):
    r"""Proportions between 0 and 1, of mean :math:`μ = σ(f)`.

    .. math:: y \sim \mathrm{Beta}(μ φ, (1 - μ) φ), \qquad \mathrm{Var}(y) = μ(1 - μ)/(1 + φ)

    Args:
      precision: φ.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> mean, variance = gp.Beta(precision=4.0).moments(jnp.zeros(1))
      >>> round(float(variance[0]), 4)
      0.05

    Reference: Ferrari and Cribari-Neto (2004), "Beta regression for modelling rates and
    proportions", equation 4.
    """

    positive: ClassVar[tuple[str, ...]] = ("precision",)

    precision: Float[Array, ""] | float = 10.0

    def log_prob(self, f: Float[Array, "*S N"], y: Float[Array, " N"]) -> Float[Array, "*S N"]:
        """Log p(y | f)."""
        a, b = (jax.nn.sigmoid(g) * self.precision for g in (f, -f))
        kernel = (a - 1) * jnp.log(y) + (b - 1) * jnp.log1p(-y)
        return kernel + gammaln(jnp.asarray(self.precision, f.dtype)) - gammaln(a) - gammaln(b)

    def moments(self, f: Float[Array, "*S N"]) -> tuple[Array, Array]:
        """Mean and variance of y given f."""
        p = jax.nn.sigmoid(f)
        return p, p * (1 - p) / (1 + self.precision)

    def check(self, y: np.ndarray) -> None:
        """Raise a `ValueError` that names the first target not strictly between 0 and 1."""
        advice = "Move zeros and ones inside, for instance by (y (N - 1) + 1/2) / N."
        refuse("Beta", y, ~((y > 0) & (y < 1)), "between 0 and 1", advice)

    def start(self, y: Float[Array, " N"]) -> Float[Array, " N"]:
        """Log odds."""
        return jnp.log(y) - jnp.log1p(-y)
