"""Likelihoods of classes: ordered ones by one latent function, others by one for each."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gp.likelihoods.likelihood import Expectation, Likelihood, hermite, refuse
from vi.module import module, static

_GRID = 128  # points of the integral over the Gumbel variable
_AT_ONCE = 64  # data whose integrals are taken at once


def _check_classes(owner: str, y: np.ndarray, count: int) -> None:
    wrong = ~np.isin(y, np.arange(count))
    advice = f"Number the classes from 0, or give the likelihood more than {count}."
    refuse(owner, y, wrong, f"in 0, 1, ..., {count - 1}", advice)


@module
class Ordinal(Likelihood):
    r"""Ordered classes 0, ..., K - 1 by cutpoints on one latent function; made by `ordinal`.

    .. math:: P(y \le k) = σ(c_{k+1} - f), \qquad c_{k+1} = c_k + g_k

    Attributes:
      first: :math:`c_1`.
      gaps: g, shape ``(K - 2,)``.

    Reference: McCullagh (1980), "Regression models for ordinal data", section 2 (proportional
    odds).
    """

    positive: ClassVar[tuple[str, ...]] = ("gaps",)

    first: Float[Array, ""]
    gaps: Float[Array, " K-2"]

    @property
    def cutpoints(self) -> Float[Array, " K-1"]:
        """The boundaries between classes, in order."""
        start = jnp.asarray(self.first, self.gaps.dtype)[None]
        return jnp.concatenate([start, start + jnp.cumsum(self.gaps)])

    def log_prob(self, f: Float[Array, "*S N"], y: Float[Array, " N"]) -> Float[Array, "*S N"]:
        r"""Log p(y | f), by σ(a) - σ(b) = σ(a) σ(-b) (1 - e^{b-a})."""
        cuts, last = self.cutpoints, len(self.gaps) + 1
        k = y.astype(int)
        above, below = cuts[jnp.minimum(k, last - 1)], cuts[jnp.maximum(k - 1, 0)]
        inner = (k > 0) & (k < last)
        gap = jnp.where(inner, above - below, 1.0)
        return (
            jnp.where(k < last, jax.nn.log_sigmoid(above - f), 0.0)
            + jnp.where(k > 0, jax.nn.log_sigmoid(f - below), 0.0)
            + jnp.where(inner, jnp.log(-jnp.expm1(-gap)), 0.0)
        )

    def moments(self, f: Float[Array, "*S N"]) -> tuple[Array, Array]:
        """Probabilities of the classes, on a last axis, and p (1 - p)."""
        upper = jax.nn.sigmoid(self.cutpoints - f[..., None])
        ends = [(0, 0)] * f.ndim
        p = jnp.diff(jnp.pad(jnp.pad(upper, [*ends, (0, 1)], constant_values=1), [*ends, (1, 0)]))
        return p, p * (1 - p)

    def check(self, y: np.ndarray) -> None:
        """Raise a `ValueError` that names the first target that is no class."""
        _check_classes("Ordinal", y, len(self.gaps) + 2)


def ordinal(num_classes: int) -> Ordinal:
    r"""The likelihood of ordered classes, with cutpoints that make them equally likely at f = 0.

    Args:
      num_classes: K, at least two.

    Returns:
      The likelihood.

    Raises:
      ValueError: if there are fewer than two classes.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> p, _ = gp.ordinal(4).predict(jnp.zeros(1), jnp.zeros(1))
      >>> [round(float(x), 3) for x in p[0]]
      [0.25, 0.25, 0.25, 0.25]
    """
    if num_classes < 2:
        raise ValueError(f"ordinal: expected num_classes >= 2; got {num_classes}.")
    shares = np.arange(1, num_classes) / num_classes
    cuts = np.log(shares) - np.log1p(-shares)
    dtype = jnp.result_type(float)
    return Ordinal(jnp.asarray(cuts[0], dtype), jnp.asarray(np.diff(cuts), dtype))


@module
class Categorical(Likelihood):
    r"""Classes 0, ..., C - 1 by a softmax of C latent functions, :math:`P(y = c) \propto e^{f_c}`.

    The expected log normaliser has no closed form, but is an integral over one variable only: with
    :math:`φ_c(t) = E[\exp(-t e^{f_c})]` of independent latents,

    .. math:: E\left[\log \sum_c e^{f_c}\right] =
              \int_{-\infty}^\infty \Big(e^{-e^u} - \prod_c φ_c(e^u)\Big) du ,

    the expectation of :math:`\log a = \int (e^{-t} - e^{-at}) dt/t` with :math:`t = e^u`. Its
    derivatives in the means are the class probabilities :math:`E[p_c]` and
    :math:`E[p_c (1 - p_c)]`. No bound, no random draws: the trapezoidal rule converges
    geometrically here.

    Args:
      num_classes: C.

    Complexity:
      2560 exponentials for each datum and class.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> p, _ = gp.Categorical(3).predict(jnp.zeros((1, 3)), jnp.ones((1, 3)))
      >>> [round(float(x), 3) for x in p[0]]
      [0.333, 0.333, 0.333]
    """

    num_classes: int = static()

    @property
    def latents(self) -> int:
        """One for each class."""
        return self.num_classes

    def log_prob(self, f: Float[Array, "*S N C"], y: Float[Array, " N"]) -> Float[Array, "*S N"]:
        """Log p(y | f)."""
        return jnp.sum(jax.nn.log_softmax(f) * self._indicators(y), -1)

    def _indicators(self, y: Array) -> Array:
        dtype = y.dtype if jnp.issubdtype(y.dtype, jnp.floating) else None
        return jax.nn.one_hot(y.astype(int), self.num_classes, dtype=dtype)

    def moments(self, f: Float[Array, "*S N C"]) -> tuple[Array, Array]:
        """Probabilities of the classes and p (1 - p)."""
        p = jax.nn.softmax(f)
        return p, p * (1 - p)

    def check(self, y: np.ndarray) -> None:
        """Raise a `ValueError` that names the first target that is no class."""
        _check_classes("Categorical", y, self.num_classes)

    def start(self, y: Float[Array, " N"]) -> Float[Array, "N C"]:
        """Zeros."""
        return jnp.zeros((*y.shape, self.num_classes), y.dtype)

    def expect(
        self, mean: Float[Array, "N C"], variance: Float[Array, "N C"], y: Float[Array, " N"]
    ) -> Expectation:
        """By the integral."""
        normalizer, p, bend = _log_sum_exp(mean, variance)
        chosen = self._indicators(y)
        return Expectation(jnp.sum(chosen * mean, -1) - normalizer, chosen - p, bend)

    def predict(
        self, mean: Float[Array, "N C"], variance: Float[Array, "N C"]
    ) -> tuple[Array, Array]:
        """Probabilities of the classes, by the integral, and p (1 - p)."""
        _, p, _ = _log_sum_exp(mean, variance)
        return p, p * (1 - p)

    def log_predictive(
        self, mean: Float[Array, "N C"], variance: Float[Array, "N C"], y: Float[Array, " N"]
    ) -> Float[Array, " N"]:
        """Log of the class probability."""
        p, _ = self.predict(mean, variance)
        return jnp.log(jnp.sum(self._indicators(y) * p, -1))


def _log_sum_exp(mean: Array, variance: Array) -> tuple[Array, Array, Array]:
    """E[log Σ exp f] of independent normals, and its first and second derivatives in the means."""
    return jax.lax.map(lambda x: _integrals(*x), (mean, variance), batch_size=_AT_ONCE)


def _integrals(mean: Array, variance: Array) -> tuple[Array, Array, Array]:
    """Of one datum: trapezoids over u, Gauss-Hermite for each φ, u measured from a centre."""
    nodes, weights = hermite(mean.dtype)
    centre, spread = jax.scipy.special.logsumexp(mean), jnp.sqrt(jnp.max(variance))
    low, high = -22 - 6 * spread, 4 + 6 * spread
    step = (high - low) / (_GRID - 1)
    u = low + step * jnp.arange(_GRID, dtype=mean.dtype)
    f = mean[:, None] + jnp.sqrt(variance)[:, None] * nodes - centre
    g = jnp.exp(jnp.minimum(u[:, None, None] + f, 50.0))  # shape (u, classes, nodes)
    kernel = jnp.exp(-g)
    tiny = jnp.finfo(mean.dtype).tiny
    phi = jnp.maximum(kernel @ weights, tiny)
    log_phi = jnp.log(phi)
    others = jnp.exp(jnp.sum(log_phi, -1, keepdims=True) - log_phi)
    normalizer = centre + step * jnp.sum(jnp.exp(-jnp.exp(u)) - others[:, 0] * phi[:, 0])
    first = step * jnp.sum((g * kernel) @ weights * others, 0)
    second = step * jnp.sum((g * (1 - g) * kernel) @ weights * others, 0)
    return normalizer, first, second
