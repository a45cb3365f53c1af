"""The spectrum of a Hessian, and what it says of learning rates, damping and batch size."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from optim.lanczos import lanczos
from optim.oracle import as_oracle
from optim.tree import divide


class SpectralDensity(NamedTuple):
    """A quadrature of a Hessian's spectrum: nodes, and weights that sum to 1.

    Attributes:
      nodes: where there are eigenvalues.
      weights: shares of all eigenvalues, which sum to 1.
      dim: D, of the Hessian.
    """

    nodes: Float[Array, " K"]
    weights: Float[Array, " K"]
    dim: int

    def trace(self, f: Callable[[Array], Array]) -> Float[Array, ""]:
        """Estimate of the trace of f(H), for a function of eigenvalues."""
        terms = jnp.where(self.weights > 0, self.weights * f(self.nodes), 0)
        return self.dim * jnp.sum(terms)


def spectral_density(
    key: Array, loss: Any, params: Any, *, num_products: int = 20, num_probes: int = 4
) -> SpectralDensity:
    r"""Stochastic Lanczos quadrature of the Hessian's spectral density.

    .. math:: \frac1D \operatorname{tr} f(H) ≈ \frac1P \sum_p \sum_i τ_{pi}^2 f(θ_{pi})

    with the Ritz values θ of Lanczos' iteration from a random start and τ the components of the
    start along the Ritz vectors. For polynomials of degree below 2 ``num_products`` the only
    error is that of the starts.

    Args:
      key: for the starts.
      loss: an `Oracle`, or a function of the parameters.
      params: where.
      num_products: dimension of the Krylov space of each start.
      num_probes: P, number of starts.

    Returns:
      Nodes and weights of all starts.

    Raises:
      ImportError: if matfree is not installed.

    Complexity:
      P (``num_products`` + 1) products of one linearisation; memory of P ``num_products`` vectors.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from optim import spectral_density
      >>> loss = lambda x: jnp.sum(jnp.array([1.0, 1.0, 4.0, 4.0]) * x**2) / 2
      >>> density = spectral_density(jax.random.key(0), loss, jnp.ones(4), num_probes=1000)
      >>> bool(abs(density.trace(jnp.log) - 2 * jnp.log(4.0)) < 0.1)
      True

    Reference: Ubaru, Chen and Saad (2017), "Fast estimation of tr(f(A)) via stochastic Lanczos
    quadrature", Algorithm 1.
    """
    x, oracle = as_oracle(loss, "spectral_density").flat(params)
    product = oracle.linearize(x)[1]

    def one(key: Array) -> tuple[Array, Array]:
        start = jax.random.normal(key, x.shape, x.dtype)
        start = start / jnp.linalg.norm(start)
        ritz = lanczos(product, start, num_products)
        return ritz.values, (ritz.vectors @ start) ** 2

    nodes, weights = jax.vmap(one)(jax.random.split(key, num_probes))
    weights = weights / jnp.sum(weights)
    return SpectralDensity(nodes.reshape(-1), weights.reshape(-1), len(x))


class BatchCurvature(NamedTuple):
    """How the top of a minibatch's Hessian divides into signal and noise.

    Attributes:
      largest: eigenvalue of the mean Hessian; 0 if it drowns in the noise.
      noise: s; the noise fills the interval from -2s to 2s.
    """

    largest: Float[Array, ""]
    noise: Float[Array, ""]

    def top(self, factor: Array | float = 1.0) -> Float[Array, ""]:
        """Largest eigenvalue of the Hessian of a batch ``factor`` times as large."""
        s = self.noise / jnp.sqrt(factor)
        return jnp.where(self.largest > s, self.largest + divide(s**2, self.largest), 2 * s)

    def learning_rate(self, factor: Array | float = 1.0) -> Float[Array, ""]:
        """Rate for gradient descent, 1 / `top`; twice that is where it becomes unstable."""
        return 1 / self.top(factor)

    def damping(self, factor: Array | float = 1.0) -> Float[Array, ""]:
        """Least damping of a second-order method: half the width of the noise, 2s."""
        return 2 * self.noise / jnp.sqrt(factor)


def batch_curvature(
    key: Array, loss: Any, params: Any, *, num_products: int = 20, num_probes: int = 4
) -> BatchCurvature:
    r"""Separate the largest curvature of the mean loss from a minibatch's noise.

    A minibatch's Hessian is modelled as H + E with E of independent entries of standard
    deviation σ / √b (b the batch size), so that E's spectrum is a semicircle on [-2s, 2s] with
    s = σ √(D / b), and an eigenvalue λ of H appears as

    .. math:: λ_b = λ + s^2 / λ \quad (λ > s), \qquad \text{or not at all} \quad (λ \le s).

    s comes from two minibatches, :math:`s^2 = E\|(H_1 - H_2) u\|^2 / 2` for random unit u, and λ
    from the top Ritz value by the formula above. The learning rate that the result gives grows
    with the batch size as long as the noise is on top, and is constant from there.

    Args:
      key: for the second minibatch and the starts.
      loss: an `Oracle` that declares ``fresh``.
      params: where.
      num_products: of Lanczos' iteration.
      num_probes: number of u.

    Returns:
      λ and s, with rates and damping for this batch size and multiples of it.

    Raises:
      ImportError: if matfree is not installed.
      MissingOracleError: if the loss does not declare ``fresh``.

    Complexity:
      ``num_products`` + 1 + 2 ``num_probes`` Hessian-vector products.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from optim import batch_curvature, stochastic_oracle
      >>> def loss(key, x):  # the mean Hessian is 4 I, a minibatch's is another
      ...     noise = jax.random.normal(key, (100, 100)) / 100
      ...     return 2 * x @ x + x @ (noise + noise.T) @ x / 4
      >>> oracle = stochastic_oracle(loss)(jax.random.key(0))
      >>> found = batch_curvature(jax.random.key(1), oracle, jnp.ones(100))
      >>> bool(0.2 < found.learning_rate() <= found.learning_rate(16.0) < 0.3)
      True
      >>> bool(jnp.isclose(found.damping(4.0), found.damping() / 2))
      True

    Reference: Granziol, Zohren and Roberts (2022), "Learning rates as a function of batch size:
    a random matrix theory approach to neural network training", Section 3.
    """
    x, oracle = as_oracle(loss, "batch_curvature", ("fresh",)).flat(params)
    start_key, probe_key, batch_key = jax.random.split(key, 3)
    product = oracle.linearize(x)[1]
    other = oracle.fresh(batch_key).linearize(x)[1]
    probes = jax.random.normal(probe_key, (num_probes, len(x)), x.dtype)
    probes = probes / jnp.linalg.norm(probes, axis=1, keepdims=True)
    difference = jax.vmap(lambda u: product(u) - other(u))(probes)
    s = jnp.sqrt(jnp.mean(jnp.sum(difference**2, axis=1)) / 2)
    top = jnp.max(lanczos(product, jax.random.normal(start_key, x.shape, x.dtype), num_products)[0])
    inside = jnp.maximum(top**2 - 4 * s**2, 0)
    largest = jnp.where(top > 2 * s, (top + jnp.sqrt(inside)) / 2, 0)
    return BatchCurvature(largest, s)
