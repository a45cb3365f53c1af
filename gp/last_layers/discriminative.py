"""A Bayesian last layer for classes: Gaussian weights under a softmax, by a closed-form bound."""

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from gp.last_layers.rows import Rows, check_features, check_labels, check_one_prior, scaled
from vi.module import module
from vi.random import fast_key


@module
class Discriminative:
    r"""A Bayesian last layer for C classes; made by `discriminative`.

    .. math:: p(y = k \mid x, W) \propto e^{w_k^T φ(x)}, \qquad w_k \sim N(0, s I), \qquad
              q(w_k) = N(\bar w_k, S_k)

    Attributes:
      rows: q.
      log_prior: the logarithm of s.
    """

    rows: Rows
    log_prior: Float[Array, ""]

    def elbo(
        self,
        features: Float[Array, "B D"],
        labels: Int[Array, " B"],
        *,
        num_data: int | Array | None = None,
        prior: Rows | None = None,
        emphasis: float | Array = 1.0,
        profiled: bool = False,
    ) -> Float[Array, ""]:
        r"""A lower bound on the evidence in closed form, below the ELBO by Jensen's inequality.

        .. math:: \frac NB \sum_i \Big( \bar w_{y_i}^T φ_i - \log \sum_k
                  e^{\bar w_k^T φ_i + φ_i^T S_k φ_i / 2} \Big) - \sum_k KL(q(w_k) \| p(w_k))

        Args:
          features: φ of a batch.
          labels: classes from 0.
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
          ValueError: for other shapes, or labels that are no integers.
        """
        owner = "Discriminative.elbo"
        features = check_features(features, self.rows.mean.shape[1], owner)
        labels = check_labels(labels, features, owner, len(self.rows.mean))
        check_one_prior(prior, owner, profiled=profiled)
        mean, variance = self.rows.moments(features)
        own = jnp.take_along_axis(mean, labels[:, None], 1)[:, 0]
        fit = own - logsumexp(mean + 0.5 * variance, -1)
        wide = jnp.exp(self.log_prior) if prior is None else prior
        wide = self.rows.best_prior if profiled else wide
        return emphasis * scaled(fit, num_data) - self.rows.divergence(wide)

    def log_probabilities(
        self, features: Float[Array, "B D"], *, key: Array, num_samples: int = 64
    ) -> Float[Array, "B C"]:
        r"""Log probabilities of classes, :math:`\log E_q[\mathrm{softmax}(W φ)]`, by draws.

        The logits of an input are independent normals, which are drawn as such: O(B C D²) for
        their variances, then O(B C) a draw.

        Args:
          features: φ.
          key: a key.
          num_samples: draws.

        Returns:
          Shape ``(B, C)``; each row's probabilities sum to one.
        """
        owner = "Discriminative.log_probabilities"
        features = check_features(features, self.rows.mean.shape[1], owner)
        mean, variance = self.rows.moments(features)
        noise = jax.random.normal(fast_key(key), (num_samples, *mean.shape), mean.dtype)
        logits = mean + jnp.sqrt(variance) * noise
        return logsumexp(jax.nn.log_softmax(logits, -1), 0) - jnp.log(num_samples)


def discriminative(
    key: Array, num_features: int, num_classes: int, *, prior: float = 1.0
) -> Discriminative:
    """A Bayesian last layer for classification, to be trained with the network before it.

    Args:
      key: a key.
      num_features: D, of the network; append a one for a bias.
      num_classes: C.
      prior: s to begin with.

    Returns:
      The layer, a pytree of arrays that any optimizer may move.

    Complexity:
      O(B C D²) a batch, O(C D²) memory.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from gp import last_layers
      >>> features = jax.random.normal(jax.random.key(0), (50, 4))
      >>> labels = jnp.argmax(features[:, :3], 1)
      >>> layer = last_layers.discriminative(jax.random.key(1), 4, 3)
      >>> bool(layer.elbo(features, labels) < 0)
      True
      >>> layer.log_probabilities(features, key=jax.random.key(2)).shape
      (50, 3)

    Reference: Harrison, Willes and Snoek (2024), "Variational Bayesian last layers", theorem 2;
    without noise in the logits, for which the bound is best at zero.
    """
    rows = Rows.random(fast_key(key), num_classes, num_features)
    return Discriminative(rows, jnp.asarray(jnp.log(prior), rows.mean.dtype))
