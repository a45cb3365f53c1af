"""The pseudo-evidence of a chain, its derivatives by a closed form, and the smoothed function."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gp.state_space.blocks import (
    Chain,
    Future,
    Law,
    congruence,
    entering,
    filtered,
    leaving,
    multiply,
    outer,
    smoothed,
    summarise,
    times,
    transposed,
)


class Smoothed(NamedTuple):
    """All that filter and smoother know; arrays are ``(T, ..., B)``."""

    log_normalizer: Float[Array, ""]
    before: Law  # the law of the state before each block
    predicted: Law  # of the state before each datum, given those before
    after: Law  # of the state after each datum
    future: Future  # what the data from each on do to the state before it
    mean: Float[Array, "T B"]  # of the function
    variance: Float[Array, "T B"]


def _start(stationary: Array) -> Law:
    return Law(jnp.zeros_like(stationary[0]), stationary)


def smooth(chain: Chain, stationary: Array, observed: tuple[int, ...]) -> Smoothed:
    """Filter and smooth a chain that begins in its stationary law.

    Args:
      chain: steps and data; the first step is none.
      stationary: the covariance of the state.
      observed: components of the function.

    Complexity:
      O(N s³) time and O(N s²) memory; three passes of T steps over B blocks and two over B.
    """
    summary = summarise(chain, observed)
    before, value = entering(summary, _start(stationary))
    predicted, after = filtered(chain, before, observed)
    ahead = leaving(summary, before)
    future, mean, variance = smoothed(chain, predicted, after, ahead, observed)
    return Smoothed(value, before, predicted, after, future, mean, jnp.maximum(variance, 0.0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def log_normalizer(
    chain: Chain, stationary: Float[Array, "s s"], observed: tuple[int, ...]
) -> Float[Array, ""]:
    r"""The log evidence of pseudo-observations, without the factors :math:`\sqrt{λ/2π}`.

    .. math:: -\tfrac12 \sum_t \Big( \log (1 + λ_t d_t) + w_t e_t^2 \Big)

    The derivatives are those of the smoother: with r and N of what the data from t on do to the
    state before t, of law N(m, P), and :math:`G_t = \tfrac12 (r_t r_t^T - N_t)`,

    .. math::

       \bar Q_t = G_t, \qquad \barΦ_t = r_t m_{t-1}^T + 2 G_t Φ_t P_{t-1}, \qquad
       \bar c_t = λ_t (E[f_t] - c_t), \qquad \barλ_t = -\tfrac12 E[(f_t - c_t)^2],

    where :math:`m_{t-1}, P_{t-1}` are of the state after the datum before.

    Args:
      chain: steps and data; the first step is none.
      stationary: P∞.
      observed: components of the function.

    Returns:
      Shape ``()``, nats.

    Complexity:
      O(N s³) time in one pass, with derivatives three; O(N s²) memory with them.

    Reference: Särkkä and García-Fernández (2021), "Temporal parallelization of Bayesian
    smoothers", section IV, for blocks as elements; Koopman and Shephard (1992), "Exact score for
    time series models in state space form", for derivatives.
    """
    return entering(summarise(chain, observed), _start(stationary))[1]


def _forward(chain: Chain, stationary: Array, observed: tuple[int, ...]) -> tuple[Array, tuple]:
    found = smooth(chain, stationary, observed)
    r, n = found.future
    g = 0.5 * (outer(r, r) - n)
    # The laws from which each step was taken: after the datum before, or before the block.
    earlier = jax.tree.map(
        lambda a, b: jnp.concatenate([b[None], a[:-1]]), found.after, found.before
    )
    moved = multiply(chain.transition, earlier.covariance)
    into_transition = outer(r, earlier.mean) + 2 * multiply(g, moved)
    off = found.mean - chain.centre
    known = chain.precision > 0
    into_precision = jnp.where(known, -0.5 * (off**2 + found.variance), 0.0)
    into_chain = Chain(into_transition, g, into_precision, chain.precision * off)
    first = congruence(transposed(chain.transition[0]), g[0])[..., 0]
    return found.log_normalizer, (into_chain, first)


def _backward(observed: tuple[int, ...], slopes: tuple, bar: Array) -> tuple:
    del observed
    return jax.tree.map(lambda slope: bar * slope, slopes)


log_normalizer.defvjp(_forward, _backward)


def between(
    transitions: tuple[Array, Array],
    noises: Array,
    law: Law,
    future: Future,
) -> tuple[Law, Future]:
    """The predicted law of a state between two data, and what the data after it do to it.

    Args:
      transitions: Φ from the datum before, and to the datum after; ``(s, s, M)``.
      noises: Q of the first.
      law: after the datum before.
      future: of the state before the datum after.
    """
    to, on = transitions
    predicted = Law(times(to, law.mean), congruence(to, law.covariance) + noises)
    back = transposed(on)
    return predicted, Future(times(back, future.slope), congruence(back, future.bend))
