"""The loop over sites: natural-gradient ascent of the ELBO, for any likelihood and back-end."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gp.model import Data, natural_target
from gp.prior import Conditional, Prior
from gp.sites import Sites

_LEAST_RATE = 2.0**-10
_NEAR = 1.0  # nats, within which a fall is taken for a parabola of the rate


class Ascent(NamedTuple):
    """How the sites were found.

    Attributes:
      sites: the best.
      elbo: there, nats.
      q: the prior conditioned on them.
      steps: evaluations of the ELBO, each of one conditioning of the prior.
      converged: whether the last step changed it by less than the tolerance.
    """

    sites: Sites
    elbo: Float[Array, ""]
    q: Conditional
    steps: Int[Array, ""]
    converged: Array


class _State(NamedTuple):
    sites: Sites
    target: Sites
    q: Conditional
    elbo: Array
    rate: Array
    fall: Array  # of the ELBO at a step just taken back, nats; else infinite
    steps: Array
    converged: Array


def start_sites(likelihood: Any, data: Data) -> Sites:
    """Sites of each target by itself, at latent values that explain it roughly."""
    start = likelihood.start(data.y)
    found = likelihood.expect(start, jnp.zeros_like(start), data.y)
    floor = 1e-3 * jnp.mean(jnp.abs(found.curvature), axis=0)
    curvature = jnp.maximum(found.curvature, floor)
    linear = jnp.where(curvature > 0, curvature * start + found.gradient, 0.0)
    return Sites(data.collect(linear), data.collect(curvature))


def ascend(
    prior: Prior,
    likelihood: Any,
    data: Data,
    sites: Sites,
    *,
    tolerance: float = 1e-4,
    max_steps: int = 100,
) -> Ascent:
    r"""Maximise the ELBO over sites by natural gradients.

    .. math::

       \mathrm{ELBO} = \sum_i E_q[\log p(y_i | f_i)] - KL(q \| p), \qquad
       λ \leftarrow (1 - ρ) λ + ρ\, (λ_2 m + E_q[∂ \log p],\; E_q[-∂^2 \log p])

    The rate ρ begins at one, which for a Gaussian likelihood is exact in one step. A step after
    which the ELBO is lower, or not finite, is taken back and its rate halved; after one that was
    not, the rate doubles up to one. A small fall that less than quarters as the rate is halved
    would be one at any rate, and ends the loop: so it comes to be where precisions are held at
    their floor, outliers' under `gp.StudentT`, since this is then no gradient. Jittable;
    memory is two copies of sites and conditional.

    Args:
      prior: any back-end.
      likelihood: any likelihood.
      data: targets.
      sites: where to begin.
      tolerance: nats; a step that raises the ELBO by less times its rate ends the loop, and one
        that is taken back for a fall of less; or by 32 units of its rounding.
      max_steps: evaluations at most.

    Returns:
      The ascent.

    Complexity:
      One `Prior.condition` a step, about ten steps from the start.

    Reference: Khan and Lin (2017), "Conjugate-computation variational inference", algorithm 1; its
    step in natural parameters, here with an ascent test.
    """

    def look(sites: Sites) -> tuple[Array, Sites, Conditional]:
        q = prior.condition(sites)
        target, fit = natural_target(likelihood, q.mean, q.variance, data)
        return fit - q.kl, target, q

    def step(state: _State) -> _State:
        move = lambda a, b: (1 - state.rate) * a + state.rate * b
        sites = Sites(*map(move, state.sites, state.target))
        elbo, target, q = look(sites)
        slack = 32 * jnp.finfo(elbo.dtype).eps * jnp.abs(elbo)
        rise = elbo - state.elbo
        good = (rise >= -slack) & jnp.isfinite(elbo)
        good = good | (jnp.isfinite(elbo) & ~jnp.isfinite(state.elbo))
        pick = lambda new, old: jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
        sites, target, q, elbo = pick(
            (sites, target, q, elbo), (state.sites, state.target, state.q, state.elbo)
        )
        rate = jnp.where(good, jnp.minimum(1.0, 2 * state.rate), 0.5 * state.rate)
        small = jnp.abs(rise) < tolerance * jnp.where(good, state.rate, 1.0) + slack
        vain = ~good & (-4 * rise >= state.fall) & (state.fall < _NEAR)
        fall = jnp.where(good, jnp.inf, -rise)
        return _State(sites, target, q, elbo, rate, fall, state.steps + 1, small | vain)

    def on(state: _State) -> Array:
        return ~state.converged & (state.steps < max_steps) & (state.rate >= _LEAST_RATE)

    # The first step looks at the start itself, so that only one look is compiled.
    kinds = jax.eval_shape(look, sites)
    zero, _, q = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), kinds)
    none = jnp.int32(0)
    never = jnp.asarray(False)  # noqa: FBT003
    first = _State(sites, sites, q, zero - jnp.inf, zero + 1, zero + jnp.inf, none, never)
    last = jax.lax.while_loop(on, step, first)
    return Ascent(last.sites, last.elbo, last.q, last.steps, last.converged)
