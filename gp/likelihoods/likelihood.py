"""What a likelihood is: p(y | f) datum by datum, and its expectations under Gaussian latents."""

import abc
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

NODES = 20  # of Gauss-Hermite quadrature


class Expectation(NamedTuple):
    r"""Expected log likelihood of each datum under N(m, v), and its derivatives.

    Attributes:
      value: E[log p(y | f)], shape ``(N,)``, nats.
      gradient: ∂/∂m of it, E[∂ log p/∂f]; shape ``(N,)``, or ``(N, L)`` with L latents.
      curvature: -2 ∂/∂v of it, E[-∂² log p/∂f²]; the same shape.
    """

    value: Float[Array, " N"]
    gradient: Float[Array, "N ..."]
    curvature: Float[Array, "N ..."]


class Likelihood(abc.ABC):
    r"""The law of one datum given the latent function there.

    A likelihood is a `vi.module.module` derived from this class; ``positive`` names the fields that
    must stay so. To write one of a single latent, give it `log_prob`, `moments` and `check`:
    expectations are then taken by Gauss-Hermite quadrature with 20 nodes, exact for polynomials in
    f of degree 39.
    """

    positive: ClassVar[tuple[str, ...]] = ()
    conjugate: ClassVar[bool] = False  # whether its sites are known without iterating

    @property
    def latents(self) -> int:
        """Number L of latent functions, independent in the prior."""
        return 1

    @abc.abstractmethod
    def log_prob(self, f: Float[Array, "*S N"], y: Float[Array, " N"]) -> Float[Array, "*S N"]:
        """Log p(y | f); with L > 1 latents f has a last axis of them."""
        ...

    @abc.abstractmethod
    def moments(self, f: Float[Array, "*S N"]) -> tuple[Array, Array]:
        """Mean and variance of y given f; of the indicators of classes, on a last axis."""
        ...

    @abc.abstractmethod
    def check(self, y: np.ndarray) -> None:
        """Raise a `ValueError` that names the first target outside the support."""
        ...

    def start(self, y: Float[Array, " N"]) -> Float[Array, "N ..."]:
        """Latent values at which to begin, which explain the data roughly."""
        return jnp.zeros_like(y)

    def spread(self, y: Float[Array, " N"]) -> Float[Array, "..."]:
        """The variance of such latent values, for each latent function; zero if not known."""
        return jnp.var(self.start(y), axis=0)

    def expect(
        self, mean: Float[Array, "N ..."], variance: Float[Array, "N ..."], y: Float[Array, " N"]
    ) -> Expectation:
        """Expected log likelihoods and their derivatives."""
        f, weights = _nodes(mean, variance)
        values, slopes, bends = _derivatives(lambda f: self.log_prob(f, y), f)
        return Expectation(weights @ values, weights @ slopes, -(weights @ bends))

    def predict(
        self, mean: Float[Array, "N ..."], variance: Float[Array, "N ..."]
    ) -> tuple[Array, Array]:
        """Mean and variance of a new datum; of the indicators of classes, on a last axis."""
        f, weights = _nodes(mean, variance)
        means, variances = self.moments(f)
        total = lambda x: jnp.tensordot(weights, x, 1)
        first = total(means)
        return first, total(variances + (means - first) ** 2)

    def log_predictive(
        self, mean: Float[Array, "N ..."], variance: Float[Array, "N ..."], y: Float[Array, " N"]
    ) -> Float[Array, " N"]:
        """Log E[p(y | f)], nats."""
        f, weights = _nodes(mean, variance)
        shifted = self.log_prob(f, y) + jnp.log(weights)[:, None]
        return jax.scipy.special.logsumexp(shifted, axis=0)


def hermite(dtype: np.dtype) -> tuple[Array, Array]:
    """Nodes of a standard normal, and weights that sum to one."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return jnp.asarray(nodes, dtype), jnp.asarray(weights / weights.sum(), dtype)


def _nodes(mean: Array, variance: Array) -> tuple[Array, Array]:
    """Latent values on a first axis of nodes, and the nodes' weights."""
    nodes, weights = hermite(mean.dtype)
    return mean + jnp.sqrt(variance) * nodes[:, None], weights


def _derivatives(function: object, f: Array) -> tuple[Array, Array, Array]:
    """Values, first and second derivatives of a function that acts entry by entry."""
    ones = jnp.ones_like(f)
    first = lambda f: jax.jvp(function, (f,), (ones,))
    (values, slopes), (_, bends) = jax.jvp(first, (f,), (ones,))
    return values, slopes, bends


def refuse(owner: str, y: np.ndarray, wrong: np.ndarray, requirement: str, advice: str) -> None:
    """Raise a `ValueError` that names the first wrong target, if there is one."""
    if wrong.any():
        i = int(np.argmax(wrong))
        more = f" and {int(wrong.sum()) - 1} more" if wrong.sum() > 1 else ""
        raise ValueError(
            f"{owner}: expected targets {requirement}; got y[{i}] = {y[i]}{more}. {advice}"
        )
