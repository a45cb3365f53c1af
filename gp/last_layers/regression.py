"""A Bayesian last layer for regression: exact for given features, and a bound to train them by."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gp.last_layers.rows import (
    Rows,
    check_features,
    check_one_prior,
    from_naturals,
    prior_naturals,
    scaled,
)
from vi.module import module
from vi.random import fast_key


@module
class Regression:
    r"""A Bayesian last layer for P outputs; made by `regression`.

    .. math:: y_{ik} = w_k^T φ(x_i) + N(0, σ_k^2), \qquad w_k \sim N(0, s I), \qquad
              q(w_k) = N(\bar w_k, S_k)

    Attributes:
      rows: q.
      log_noise: logarithms of the variances σ².
      log_prior: the logarithm of s.
    """

    rows: Rows
    log_noise: Float[Array, " P"]
    log_prior: Float[Array, ""]

    def elbo(
        self,
        features: Float[Array, "B D"],
        y: Float[Array, "B ..."],
        *,
        num_data: int | Array | None = None,
        prior: Rows | None = None,
        emphasis: float | Array = 1.0,
        profiled: bool = False,
    ) -> Float[Array, ""]:
        r"""The evidence lower bound, in closed form; maximise it over the layer and the network.

        .. math:: \frac NB \sum_{i,k} \Big( \log N(y_{ik}; \bar w_k^T φ_i, σ_k^2)
                  - \frac{φ_i^T S_k φ_i}{2 σ_k^2} \Big) - \sum_k KL(q(w_k) \| p(w_k))

        At the exact posterior, that of `posterior`, it is the log evidence.

        Args:
          features: φ of a batch.
          y: targets, shape ``(B, P)``, or ``(B,)`` for one output.
          num_data: N; the batch is all data if None.
          prior: instead of N(0, s I): the rows of an earlier posterior, for data in batches.
          emphasis: κ, by which the data count; with κ = D/N (D weights) it is the data-emphasised
            bound, by which hyperparameters of the features are learned where q is too poor for the
            evidence, as a diagonal or one scale for all. Then q itself is too sure: choose by it,
            predict by the posterior at κ = 1.
          profiled: take s at its best for q, the mean square of the weights, at every step.

        Returns:
          The bound, nats.

        Raises:
          ValueError: for other shapes.
        """
        features, y = self._checked(features, y, "Regression.elbo")
        check_one_prior(prior, "Regression.elbo", profiled=profiled)
        mean, variance = self.rows.moments(features)
        misfit = ((y - mean) ** 2 + variance) / jnp.exp(self.log_noise)
        fit = -0.5 * jnp.sum(misfit + self.log_noise + jnp.log(2 * jnp.pi), -1)
        wide = self.rows.best_prior if profiled else self._prior(prior)
        return emphasis * scaled(fit, num_data) - self.rows.divergence(wide)

    def posterior(
        self,
        features: Float[Array, "B D"],
        y: Float[Array, "B ..."],
        *,
        prior: Rows | None = None,
        emphasis: float | Array = 1.0,
    ) -> "Regression":
        r"""The layer with the exact posterior of its weights, given features and noise.

        .. math:: S_k^{-1} = S_{0k}^{-1} + Φ^T Φ / σ_k^2, \qquad
                  S_k^{-1} \bar w_k = S_{0k}^{-1} \bar w_{0k} + Φ^T y_k / σ_k^2

        Args:
          features: φ of the data.
          y: targets.
          prior: as of `elbo`. ``layer.posterior(φ, y, prior=layer.rows)`` is the update of a
            stream, and after all batches the posterior of all data.
          emphasis: κ, as of `elbo`, which this maximises over q.

        Returns:
          The layer.

        Complexity:
          O(B D² + P D³).
        """
        features, y = self._checked(features, y, "Regression.posterior")
        noise = jnp.exp(self.log_noise) / emphasis
        linear, precision = prior_naturals(self._prior(prior), self.rows)
        linear = linear + (y.T @ features) / noise[:, None]
        precision = precision + (features.T @ features) / noise[:, None, None]
        return dataclasses.replace(self, rows=from_naturals(linear, precision))

    def predict(self, features: Float[Array, "B D"]) -> tuple[Array, Array]:
        """Means and variances of new targets, noise included, shape ``(B, P)``."""
        owner = "Regression.predict"
        features = check_features(features, self.rows.mean.shape[1], owner)
        mean, variance = self.rows.moments(features)
        return mean, variance + jnp.exp(self.log_noise)

    def log_prob(
        self, features: Float[Array, "B D"], y: Float[Array, "B ..."]
    ) -> Float[Array, " B"]:
        """Log predictive density of new targets, nats."""
        features, y = self._checked(features, y, "Regression.log_prob")
        mean, variance = self.predict(features)
        return jnp.sum(jax.scipy.stats.norm.logpdf(y, mean, jnp.sqrt(variance)), -1)

    def _prior(self, prior: Rows | None) -> Rows | Array:
        return jnp.exp(self.log_prior) if prior is None else prior

    def _checked(self, features: Any, y: Any, owner: str) -> tuple[Array, Array]:
        outputs, size = self.rows.mean.shape
        features, y = check_features(features, size, owner), jnp.asarray(y)
        y = y[:, None] if y.ndim == 1 and outputs == 1 else y
        if y.shape != (len(features), outputs):
            raise ValueError(
                f"{owner}: expected targets of shape ({len(features)}, {outputs}); got {y.shape}."
            )
        return features, y


def regression(
    key: Array, num_features: int, num_outputs: int = 1, *, noise: float = 0.1, prior: float = 1.0
) -> Regression:
    """A Bayesian last layer for regression, to be trained with the network before it.

    Args:
      key: a key.
      num_features: D, of the network; append a one for a bias.
      num_outputs: P, each with noise of its own.
      noise: σ² to begin with, in the units of the targets squared.
      prior: s to begin with.

    Returns:
      The layer, a pytree of arrays that any optimizer may move.

    Complexity:
      O(B P D²) a batch, O(P D²) memory.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from gp import last_layers
      >>> features = jax.random.normal(jax.random.key(0), (50, 4))
      >>> y = features @ jnp.asarray([[1.0], [0.3], [-2.0], [0.5]])
      >>> layer = last_layers.regression(jax.random.key(1), 4, noise=0.01)
      >>> layer = layer.posterior(features, y)
      >>> [round(float(w), 1) for w in layer.rows.mean[0]]
      [1.0, 0.3, -2.0, 0.5]

    Reference: Harrison, Willes and Snoek (2024), "Variational Bayesian last layers", theorem 1;
    without its prior of the noise, and with divergence and likelihood both summed over outputs.
    ``emphasis`` is that of Harvey, Petrov and Hughes (2025), "Learning the regularization strength
    for deep fine-tuning via a data-emphasized variational objective".
    """
    rows = Rows.random(fast_key(key), num_outputs, num_features)
    dtype = rows.mean.dtype
    return Regression(
        rows, jnp.full(num_outputs, jnp.log(noise), dtype), jnp.asarray(jnp.log(prior), dtype)
    )
