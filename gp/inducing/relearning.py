"""Hyperparameters of a stream, learned again from the last batch and from memory."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from gp.inducing.streamed import StreamedPrior, each
from gp.model import Data, Model, expectations
from gp.parameters import Values, constrained, parameters, unconstrained
from gp.sites import Sites
from optim.tree import all_finite
from vi.compile import quick_jit

RATE = 0.01  # of Adam


def relearned(
    model: Model, prior: StreamedPrior, data: Data, sites: Sites, weights: Array, num_steps: int
) -> Model:
    r"""The model with hyperparameters that raise the bound of all data, as memory stands for them.

    .. math:: \sum_{\mathrm{new}} E_q[\log p(y_i | f_i)]
              + \frac{N_{\mathrm{old}}}{K} \sum_{\mathrm{memory}} E_q[\log p(y_i | f_i)]
              - KL(q_θ(u) ‖ p_θ(u))

    by Adam, with the sums and the sites held and q moving with θ in their dual coordinates.

    Args:
      model: to begin from.
      prior: of memory and batch, with the sums over what is forgotten.
      data: memory and batch.
      sites: theirs.
      weights: of each datum.
      num_steps: how many.

    Returns:
      The model; as it was, where a step is not finite.

    Complexity:
      O((B + K) M² + M³) a step.

    Reference: Chang, Verma, John, Solin and Khan (2023), "Memory-based dual Gaussian processes for
    sequential learning", section 3.
    """
    values = unconstrained(model, list(parameters(model)))
    return _steps(model, prior, data, sites, weights, values, jnp.int32(num_steps))


@quick_jit
def _steps(
    model: Model,
    prior: StreamedPrior,
    data: Data,
    sites: Sites,
    weights: Float[Array, " N"],
    values: Values,
    count: Array,
) -> Model:
    optimizer = optax.adam(RATE)
    latents = model.likelihood.latents

    def loss(values: Values) -> Array:
        here = constrained(model, values)
        moved = StreamedPrior(*functions(here), prior.x, prior.z, prior.base)
        q = moved.condition(sites)
        fit = expectations(here.likelihood, q.mean, q.variance, data).value
        divergence = each(lambda q: q.kl, latents)(q.factor[1])
        return jnp.sum(divergence) - jnp.sum(weights * fit)

    def step(_: Array, state: tuple) -> tuple:
        values, moments = state
        updates, after = optimizer.update(jax.grad(loss)(values), moments, values)
        new = optax.apply_updates(values, updates)
        good = all_finite(new)
        return jax.tree.map(lambda a, b: jnp.where(good, a, b), (new, after), (values, moments))

    start = values, optimizer.init(values)
    return constrained(model, jax.lax.fori_loop(0, count, step, start)[0])


def functions(model: Model) -> tuple[Any, Any]:
    """Kernel and mean with a first axis of latent functions."""
    both = model.kernel, model.mean
    wide = lambda a: jnp.asarray(a)[None]
    return both if model.likelihood.latents > 1 else jax.tree.map(wide, both)
