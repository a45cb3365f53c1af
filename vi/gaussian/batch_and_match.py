"""Batch and match: fit a Gaussian by matching scores on draws from it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vi.families.gaussian import Gaussian
from vi.gaussian.estimators import Density
from vi.gaussian.root import DenseRoot, DiagonalRoot
from vi.gaussian.whitening import replace, root_of, updates
from vi.module import module, static


class Scores(NamedTuple):
    """Draws from q and the scores of the target there: what `batch_and_match` learns from.

    Attributes:
      draws: from q.
      scores: gradients of the target's log density there.
    """

    draws: Float[Array, "S D"]
    scores: Float[Array, "S D"]


class BatchAndMatchState(NamedTuple):
    """State of `batch_and_match`."""

    count: Array  # shape=(), dtype=int32


@module
class ScoreSample:
    """Estimator that hands an optimizer draws and scores, in place of a gradient of the ELBO.

    ``num_samples`` draws and gradients a call, at least one; antithetic draws come in pairs, an
    odd last one alone.

    Attributes:
      num_samples: draws, and gradients, a call.
      antithetic: whether they come in pairs that mirror each other at the mean.
    """

    num_samples: int = static(default=32)
    antithetic: bool = static(default=True)

    def __call__(self, key: Array, q: Gaussian, target: Density) -> tuple[Array, Scores]:
        """Minus the ELBO on the draws, shape ``()``, and the draws with their scores."""
        if self.num_samples < 1:
            raise ValueError(
                f"ScoreSample: expected num_samples >= 1; got {self.num_samples}. "
                "Batch and match works best with a few dozen."
            )
        noise_key, batch_key = jax.random.split(key)
        if self.antithetic:
            half = q.noise(noise_key, (self.num_samples + 1) // 2)
            noise = jnp.concatenate([half, -half])[: self.num_samples]
        else:
            noise = q.noise(noise_key, self.num_samples)
        z, _ = q.draw(noise)
        values, scores = jax.vmap(jax.value_and_grad(lambda x: target.log_density(x, batch_key)))(z)
        return -jnp.mean(values) - q.entropy(), Scores(z, scores)


def batch_and_match(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    r"""Batch-and-match steps: a proximal update of the score-based divergence, in closed form.

    From draws z_b of q_t with scores g_b, their means z̄, ḡ and covariances C, Γ, and rate λ,

    .. math::

       U = λΓ + \tfrac{λ}{1+λ} ḡḡ^T, \quad
       V = Σ_t + λC + \tfrac{λ}{1+λ}(m_t - z̄)(m_t - z̄)^T, \\
       Σ_{t+1} U Σ_{t+1} + Σ_{t+1} = V, \qquad
       m_{t+1} = \tfrac{1}{1+λ} m_t + \tfrac{λ}{1+λ}(Σ_{t+1} ḡ + z̄)

    (Cai, Modi, Pillaud-Vivien, Margossian, Gower, Blei and Saul 2024, "Batch and match:
    black-box variational inference with a score-based divergence", Algorithm 1). The quadratic
    equation is solved as Σ = R 2 (I + (I + 4 RᵀUR)^½)⁻¹ Rᵀ with V = R Rᵀ, which is positive
    definite for any U. For a diagonal scale the same holds coordinate by coordinate. With a
    dense scale a Gaussian target is the fixed point. Elsewhere (other targets, or a diagonal
    scale and a correlated target) the fixed point minimises the score-based divergence, not
    KL(q‖p), so refine the result with `natural_gradient`.

    Args:
      learning_rate: λ, a number or an optax schedule. Constant for Gaussian targets; B·D/(t+1)
        with B draws otherwise.

    Returns:
      A transformation whose parameters are a `Gaussian` (diagonal or dense, linear) and whose
      updates are the `Scores` that `ScoreSample` gives.

    Raises:
      TypeError: at the first update, if parameters or updates are of another kind.

    Complexity:
      O(D³ + S D²) for a dense scale, O(S D) for a diagonal one.
    """

    def init(params: Gaussian) -> BatchAndMatchState:
        del params
        return BatchAndMatchState(jnp.zeros((), jnp.int32))

    def update(
        sample: Scores, state: BatchAndMatchState, params: Any = None, **extra: object
    ) -> tuple[Gaussian, BatchAndMatchState]:
        del extra
        if not isinstance(sample, Scores):
            raise TypeError(
                f"batch_and_match: expected Scores as updates; got {type(sample).__name__}. "
                "Use it with the estimator vi.gaussian.ScoreSample."
            )
        root = root_of(params, "batch_and_match")
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        rate = jnp.asarray(rate, params.loc.dtype)
        share = rate / (1 + rate)
        z_mean, g_mean = jnp.mean(sample.draws, axis=0), jnp.mean(sample.scores, axis=0)
        z = jnp.sqrt(rate / len(sample.draws)) * (sample.draws - z_mean)
        g = jnp.sqrt(rate / len(sample.draws)) * (sample.scores - g_mean)
        z = jnp.concatenate([z, jnp.sqrt(share) * (params.loc - z_mean)[None]])  # V = Σ + zᵀz
        g = jnp.concatenate([g, jnp.sqrt(share) * g_mean[None]])  # U = gᵀg
        if isinstance(root, DiagonalRoot):
            v = root.diagonal**2 + jnp.sum(z**2, axis=0)
            u = jnp.sum(g**2, axis=0)
            variance = 2 * v / (1 + jnp.sqrt(1 + 4 * u * v))
            new_root, pull = DiagonalRoot(jnp.sqrt(variance)), variance * g_mean
        elif isinstance(root, DenseRoot):
            upper = jnp.linalg.qr(jnp.concatenate([root.matrix.T, z]), mode="r")  # V = RᵀR
            values, vectors = jnp.linalg.eigh((upper @ g.T) @ (g @ upper.T))
            values = 2 / (1 + jnp.sqrt(1 + 4 * jnp.maximum(values, 0)))
            half = upper.T @ (vectors * jnp.sqrt(values))
            triangle = jnp.linalg.qr(half.T, mode="r")
            signs = jnp.where(jnp.diagonal(triangle) < 0, -1.0, 1.0)
            new_root = DenseRoot((triangle * signs[:, None]).T)
            pull = half @ (half.T @ g_mean)
        else:
            raise TypeError(
                "batch_and_match: expected a diagonal or dense scale; got BlockScale. "
                "Use natural_gradient for block scales."
            )
        loc = (params.loc + rate * (pull + z_mean)) / (1 + rate)
        new = replace(loc, new_root)
        return updates(new, params), BatchAndMatchState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)
