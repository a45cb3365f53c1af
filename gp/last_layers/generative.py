"""A Bayesian last layer of class densities: a Gaussian of features for each class."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln, logsumexp
from jaxtyping import Array, Float, Int

from gp.last_layers.rows import check_features, check_labels, scaled
from vi.module import module
from vi.random import fast_key


@module
class Generative:
    r"""A Bayesian last layer of class densities; made by `generative`.

    .. math:: φ \mid y \sim N(μ_y, Σ), \qquad y \sim π, \qquad μ_k \sim N(0, s I), \qquad
              q = \prod_k N(μ_k; \bar μ_k, S_k)\; \mathrm{Dir}(π; α)

    with diagonal Σ and S. The prior of π is uniform.

    Attributes:
      mean: of q.
      log_variance: logarithms of the diagonals of S.
      log_concentration: logarithms of α.
      log_noise: of the diagonal of Σ.
      log_prior: the logarithm of s.
    """

    mean: Float[Array, "C D"]
    log_variance: Float[Array, "C D"]
    log_concentration: Float[Array, " C"]
    log_noise: Float[Array, " D"]
    log_prior: Float[Array, ""]

    def elbo(
        self,
        features: Float[Array, "B D"],
        labels: Int[Array, " B"],
        *,
        num_data: int | Array | None = None,
        prior: "Generative | None" = None,
        joint: bool = False,
    ) -> Float[Array, ""]:
        r"""A lower bound on the log evidence of classes given features, in closed form.

        .. math::

           \frac NB \sum_i \Big( \log N(φ_i; \bar μ_{y_i}, Σ) - \tfrac12 \mathrm{tr}\,Σ^{-1} S_{y_i}
           + ψ(α_{y_i}) - ψ(α_*) + \log α_*
           - \log \sum_k α_k N(φ_i; \bar μ_k, Σ + S_k) \Big) - KL(q \| p)

        Args:
          features: φ of a batch.
          labels: classes from 0.
          num_data: N; the batch is all data if None.
          prior: a layer whose q is the prior, for data in batches.
          joint: bound the log evidence of features and classes instead, which leaves out the last
            logarithm and :math:`\log α_*`. It is the log evidence at the posterior of `posterior`,
            and must not be used to train features, which it lets collapse.

        Returns:
          The bound, nats.

        Raises:
          ValueError: for other shapes, or labels that are no integers.
        """
        owner = "Generative.elbo"
        features = check_features(features, self.mean.shape[1], owner)
        labels = check_labels(labels, features, owner, len(self.mean))
        noise = jnp.exp(self.log_noise)
        own = jax.scipy.stats.norm.logpdf(features, self.mean[labels], jnp.sqrt(noise)).sum(-1)
        trace = jnp.sum(jnp.exp(self.log_variance) / noise, -1)
        alpha = jnp.exp(self.log_concentration)
        total = jnp.sum(alpha)
        fit = own - 0.5 * trace[labels] + digamma(alpha)[labels] - digamma(total)
        if not joint:
            fit = fit - self.log_density(features)
        return scaled(fit, num_data) - self._divergence(prior)

    def posterior(
        self,
        features: Float[Array, "B D"],
        labels: Int[Array, " B"],
        *,
        prior: "Generative | None" = None,
    ) -> "Generative":
        """The layer with the exact posterior of class means and frequencies, given Σ.

        Args:
          features: φ of the data.
          labels: classes from 0.
          prior: as of `elbo`. ``layer.posterior(φ, y, prior=layer)`` is the update of a stream,
            and after all batches the posterior of all data.

        Returns:
          The layer.

        Complexity:
          O((B + C) D).
        """
        owner = "Generative.posterior"
        features = check_features(features, self.mean.shape[1], owner)
        labels = check_labels(labels, features, owner, len(self.mean))
        count = jax.ops.segment_sum(jnp.ones(len(labels), features.dtype), labels, len(self.mean))
        total = jax.ops.segment_sum(features, labels, len(self.mean))
        mean, log_variance, alpha = self._prior(prior)
        precision = jnp.exp(-log_variance) + count[:, None] / jnp.exp(self.log_noise)
        linear = mean * jnp.exp(-log_variance) + total / jnp.exp(self.log_noise)
        return dataclasses.replace(
            self,
            mean=linear / precision,
            log_variance=-jnp.log(precision),
            log_concentration=jnp.log(alpha + count),
        )

    def log_probabilities(self, features: Float[Array, "B D"]) -> Float[Array, "B C"]:
        r"""Log probabilities of classes, :math:`\propto α_k N(φ; \bar μ_k, Σ + S_k)`."""
        return jax.nn.log_softmax(self._log_joint(features), -1)

    def log_density(self, features: Float[Array, "B D"]) -> Float[Array, " B"]:
        """Log predictive density of features, nats: low for inputs unlike all classes."""
        return logsumexp(self._log_joint(features), -1)

    def _log_joint(self, features: Array) -> Array:
        features = check_features(features, self.mean.shape[1], "Generative")
        spread = jnp.exp(self.log_noise) + jnp.exp(self.log_variance)
        off = features[:, None, :] - self.mean
        density = -0.5 * jnp.sum(off**2 / spread + jnp.log(2 * jnp.pi * spread), -1)
        return density + jax.nn.log_softmax(self.log_concentration)

    def _prior(self, prior: "Generative | None") -> tuple[Array, Array, Array]:
        """Means, log variances and concentrations of the prior."""
        if prior is not None:
            return prior.mean, prior.log_variance, jnp.exp(prior.log_concentration)
        ones = jnp.ones_like(self.log_concentration)
        return jnp.zeros_like(self.mean), jnp.full_like(self.log_variance, self.log_prior), ones

    def _divergence(self, prior: "Generative | None") -> Array:
        mean, log_variance, beta = self._prior(prior)
        ratio = self.log_variance - log_variance
        squares = jnp.exp(ratio) + (self.mean - mean) ** 2 * jnp.exp(-log_variance)
        alpha = jnp.exp(self.log_concentration)
        log_beta = lambda a: jnp.sum(gammaln(a)) - gammaln(jnp.sum(a))
        tilt = jnp.sum((alpha - beta) * (digamma(alpha) - digamma(jnp.sum(alpha))))
        return 0.5 * jnp.sum(squares - 1 - ratio) + log_beta(beta) - log_beta(alpha) + tilt


def generative(
    key: Array, num_features: int, num_classes: int, *, noise: float = 1.0, prior: float = 1.0
) -> Generative:
    """A Bayesian last layer of class densities, to be trained with the network before it.

    Classes that are added, and batches of a stream, are updates in closed form.

    Args:
      key: a key.
      num_features: D, of the network.
      num_classes: C.
      noise: the diagonal of Σ to begin with.
      prior: s to begin with.

    Returns:
      The layer, a pytree of arrays that any optimizer may move.

    Complexity:
      O(B C D) a batch, O(C D) memory.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from gp import last_layers
      >>> labels = jnp.arange(60) % 3
      >>> centres = jnp.asarray([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
      >>> features = centres[labels] + jax.random.normal(jax.random.key(0), (60, 2))
      >>> layer = last_layers.generative(jax.random.key(1), 2, 3, prior=9.0)
      >>> layer = layer.posterior(features, labels)
      >>> guess = layer.log_probabilities(centres).argmax(1)
      >>> guess.tolist()
      [0, 1, 2]

    Reference: Harrison, Willes and Snoek (2024), "Variational Bayesian last layers", theorem 3;
    with a fixed prior of the noise replaced by its value.
    """
    mean = jax.random.normal(fast_key(key), (num_classes, num_features))
    full = lambda value, shape: jnp.full(shape, jnp.log(value), mean.dtype)
    return Generative(
        mean,
        full(0.1, mean.shape),
        full(1.0, (num_classes,)),
        full(noise, (num_features,)),
        full(prior, ()),
    )
