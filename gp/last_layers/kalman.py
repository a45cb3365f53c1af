"""A Bayesian last layer that forgets: a Kalman filter over weights, for streams that change."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from gp.last_layers.rows import check_features, check_labels
from vi.compile import quick_jit
from vi.module import module
from vi.random import fast_key


class Filtered(NamedTuple):
    """What a stream was, seen from before each of its data.

    Attributes:
      layer: after the last datum.
      mean: of the outputs before each target was seen, shape ``(T, P)``.
      variance: of each output, noise left out, shape ``(T,)``.
      log_prob: log predictive density of each target before it was seen; of classes, the log
        probability. The sum over regression targets is the log evidence.
      retention: γ in use at each datum.
    """

    layer: "KalmanLayer"
    mean: Float[Array, "T P"]
    variance: Float[Array, " T"]
    log_prob: Float[Array, " T"]
    retention: Float[Array, " T"]


@module
class KalmanLayer:
    r"""A last layer whose weights drift; made by `kalman`.

    .. math:: w_{t,k} = γ w_{t-1,k} + N(0, (1 - γ^2) s I), \qquad
              y_{tk} = w_{t,k}^T φ_t + N(0, σ^2)

    Classes are regressed on as indicators. All outputs share one covariance.

    Attributes:
      mean: of the weights, shape ``(P, D)``.
      covariance: of the weights of each output.
      log_noise: the logarithm of σ².
      log_prior: the logarithm of s.
      log_decay: the logarithm of :math:`-2 \log γ`; minus infinity for γ = 1.
      log_sharpness: the logarithm of β, by which outputs are multiplied to be logits of classes.
    """

    mean: Float[Array, "P D"]
    covariance: Float[Array, "D D"]
    log_noise: Float[Array, ""]
    log_prior: Float[Array, ""]
    log_decay: Float[Array, ""]
    log_sharpness: Float[Array, ""]

    @property
    def retention(self) -> Float[Array, ""]:
        """γ."""
        return jnp.exp(-0.5 * jnp.exp(self.log_decay))

    def drifted(self) -> "KalmanLayer":
        """The law of the weights one step later, without data."""
        gamma = self.retention
        fresh = -jnp.expm1(-jnp.exp(self.log_decay)) * jnp.exp(self.log_prior)
        eye = jnp.eye(len(self.covariance), dtype=self.covariance.dtype)
        covariance = gamma**2 * self.covariance + fresh * eye
        return dataclasses.replace(self, mean=gamma * self.mean, covariance=covariance)

    def updated(self, feature: Float[Array, " D"], target: Float[Array, " P"]) -> "KalmanLayer":
        """The law of the weights given one more datum, at the same time."""
        gain = self.covariance @ feature
        spread = jnp.exp(self.log_noise) + feature @ gain
        off = target - self.mean @ feature
        return dataclasses.replace(
            self,
            mean=self.mean + off[:, None] * gain / spread,
            covariance=self.covariance - gain[:, None] * gain / spread,
        )

    def filter(
        self,
        features: Float[Array, "T D"],
        targets: Any,
        *,
        key: Array | None = None,
        learning_rate: float | Array = 0.0,
        num_samples: int = 64,
    ) -> Filtered:
        r"""Predict each datum of a stream, then learn from it.

        For classes the probability is :math:`E[\mathrm{softmax}(β y)]` over the predicted outputs,
        by draws that all steps share. With a learning rate the decay and, for classes, β
        follow the gradient of the log probability of each target before it is used, so that the
        layer finds out how fast the stream changes.

        Args:
          features: φ in the order of time.
          targets: numbers, shape ``(T, P)``, or integer classes, ``(T,)``.
          key: a key, for classes.
          learning_rate: of `log_decay` and `log_sharpness`, by ascent along gradients clipped to
            one; 0.05 to 1, the more the shorter the stream. A γ of one stays one.
          num_samples: draws for classes.

        Returns:
          What was predicted, and the layer after all data.

        Raises:
          ValueError: for other shapes, or classes without a key.

        Complexity:
          O(T (D² + P D)) time, twice that with a learning rate; O(D² + P D) memory.
        """
        owner = "KalmanLayer.filter"
        features = check_features(features, self.mean.shape[1], owner)
        targets = jnp.asarray(targets)
        if jnp.issubdtype(targets.dtype, jnp.integer):
            if key is None:
                raise ValueError(f"{owner}: expected a key for classes; got None.")
            labels = check_labels(targets, features, owner, len(self.mean))
            shape = num_samples, len(self.mean)
            noise = jax.random.normal(fast_key(key), shape, features.dtype)
            hot = jax.nn.one_hot(labels, len(self.mean), dtype=features.dtype)
        else:
            hot, noise = targets, None
            if hot.shape != (len(features), len(self.mean)):
                raise ValueError(
                    f"{owner}: expected targets of shape {(len(features), len(self.mean))}, or "
                    f"integer classes of shape ({len(features)},); got {hot.dtype}"
                    f"{list(hot.shape)}."
                )
        return _filter(self, features, hot, noise, jnp.asarray(learning_rate, features.dtype))


@quick_jit
def _filter(
    layer: KalmanLayer, features: Array, targets: Array, noise: Array | None, rate: Array
) -> Filtered:
    def look(free: tuple, layer: KalmanLayer, feature: Array, target: Array) -> tuple:
        layer = dataclasses.replace(layer, log_decay=free[0], log_sharpness=free[1])
        ahead = layer.drifted()
        mean, variance = ahead.mean @ feature, feature @ ahead.covariance @ feature
        if noise is None:
            spread = jnp.sqrt(variance + jnp.exp(layer.log_noise))
            value = jnp.sum(jax.scipy.stats.norm.logpdf(target, mean, spread))
        else:
            least = jnp.finfo(variance.dtype).eps ** 2  # the root has no slope at zero
            spread = jnp.sqrt(jnp.maximum(variance, least))
            logits = jnp.exp(layer.log_sharpness) * (mean + spread * noise)
            each = jax.nn.log_softmax(logits, -1) @ target
            value = logsumexp(each) - jnp.log(len(noise))
        return value, (ahead, mean, variance)

    def step(layer: KalmanLayer, now: tuple) -> tuple[KalmanLayer, tuple]:
        free = layer.log_decay, layer.log_sharpness
        (value, (ahead, mean, variance)), slopes = jax.value_and_grad(look, has_aux=True)(
            free, layer, *now
        )
        pull = lambda g: jnp.where(rate > 0, rate * jnp.clip(g, -1.0, 1.0), 0.0)
        moved = [a + pull(g) for a, g in zip(free, slopes, strict=True)]
        new = dataclasses.replace(ahead.updated(*now), log_decay=moved[0], log_sharpness=moved[1])
        return new, (mean, variance, value, layer.retention)

    last, found = jax.lax.scan(step, layer, (features, targets))
    return Filtered(last, *found)


def kalman(
    num_features: int,
    num_outputs: int,
    *,
    noise: float = 0.1,
    prior: float = 1.0,
    retention: float = 0.999,
    sharpness: float = 5.0,
    dtype: Any = None,
) -> KalmanLayer:
    """A last layer that forgets, at its prior.

    Args:
      num_features: D, of features that are fixed: those of a trained network, or random ones.
      num_outputs: P, or the number of classes.
      noise: σ².
      prior: s.
      retention: γ in (0, 1]; with 1 nothing drifts, and the filter is Bayesian linear regression.
      sharpness: β.
      dtype: of the arrays; JAX's default if None.

    Returns:
      The layer.

    Raises:
      ValueError: if γ is not in (0, 1], or a scale is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from gp import last_layers
      >>> features = jax.random.normal(jax.random.key(0), (100, 4))
      >>> labels = (features[:, 0] > 0).astype(int)
      >>> layer = last_layers.kalman(4, 2)
      >>> found = layer.filter(features, labels, key=jax.random.key(1))
      >>> bool(jnp.mean(jnp.argmax(found.mean[50:], 1) == labels[50:]) > 0.8)
      True

    Reference: Titsias, Galashov, Rannen-Triki, Pascanu, Teh and Bornschein (2024), "Kalman filter
    for online classification of non-stationary data", section 3, for fixed features.
    """
    if not 0 < retention <= 1 or min(noise, prior, sharpness) <= 0:
        raise ValueError(
            "kalman: expected 0 < retention <= 1 and positive noise, prior and sharpness; got "
            f"{retention}, {noise}, {prior}, {sharpness}."
        )
    eye = jnp.eye(num_features, dtype=dtype)
    log = lambda value: jnp.log(jnp.asarray(value, eye.dtype))
    return KalmanLayer(
        jnp.zeros((num_outputs, num_features), eye.dtype),
        prior * eye,
        log(noise),
        log(prior),
        jnp.log(-2 * log(retention)),
        log(sharpness),
    )
