"""Draws that carry the gradient of their law: by acceptance, by the cdf, by relaxation."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer
from jax.scipy.special import gammaln, logit
from jaxtyping import Array

from vi.program.estimators import AcceptReject, Implicit, Relaxed
from vi.program.rules import unwrap
from vi.program.surrogate import only_gradient, stop

ACCEPT_REJECT = (dist.Gamma, dist.Beta, dist.Dirichlet, dist.VonMises)
BERNOULLI = (dist.BernoulliProbs, dist.BernoulliLogits)
MULTINOMIAL = (dist.MultinomialProbs, dist.MultinomialLogits)


# ---- acceptance-rejection ----------------------------------------------------------------------


def accepted(
    drawn: Array,
    forward: Callable[[Array], Array],
    inverse: Callable[[Array], Array],
    log_prob: Callable[[Array], Array],
) -> tuple[Array, Array]:
    """A draw again, as a function of its noise, and the log density of noise that is accepted.

    Args:
      drawn: a draw, made in any way.
      forward: h, from noise to draws, element by element.
      inverse: of ``forward``.
      log_prob: log density of draws.

    Returns:
      ``h(ε)`` and ``log q(h(ε)) + log |h'(ε)|`` at ``ε = inverse(drawn)`` held fixed.
    """
    noise = stop(inverse(stop(drawn)))
    value, slope = jax.jvp(forward, (noise,), (jnp.ones_like(noise),))
    return value, log_prob(value) + jnp.log(jnp.abs(slope))


def accept_reject(fn: Any, how: AcceptReject, key: Array) -> tuple[Array, Array]:
    """A draw by acceptance-rejection, and the log density of the noise that was accepted."""
    base: Any = unwrap(fn)
    if how.transform is not None:
        forward, inverse = how.transform
        ahead, back = lambda e: forward(base, e), lambda z: inverse(base, z)
        return accepted(fn.sample(key), ahead, back, base.log_prob)
    if isinstance(base, dist.VonMises):
        return _von_mises(base, fn.sample(key))
    lead = fn.shape()[: len(fn.shape()) - len(base.event_shape)]
    if isinstance(base, dist.Gamma):
        log_value, log_pi = _log_gamma(key, jnp.broadcast_to(base.concentration, lead), how.augment)
        rate: Any = base.rate
        return _inside(jnp.exp(log_value) / rate), log_pi
    if isinstance(base, dist.Beta):
        shape = jnp.stack(
            [jnp.broadcast_to(x, lead) for x in (base.concentration1, base.concentration0)], -1
        )
    else:
        shape = jnp.broadcast_to(base.concentration, fn.shape())
    log_value, log_pi = _log_gamma(key, shape, how.augment)
    value = _inside(jax.nn.softmax(log_value, -1), 1 - jnp.finfo(log_value.dtype).eps)
    log_pi = log_pi.sum(-1)
    return (value[..., 0] if isinstance(base, dist.Beta) else value), log_pi


def _log_gamma(key: Array, shape: Array, augment: int) -> tuple[Array, Array]:
    """Log gamma draws of unit rate by Marsaglia and Tsang's map, the shape raised by ``augment``.

    Logarithms, since draws of small shapes underflow.
    """
    draw_key, uniform_key = jax.random.split(key)
    raised = shape + augment
    b = raised - 1 / 3
    c = 1 / jnp.sqrt(9 * b)
    z, log_pi = accepted(
        jax.random.gamma(draw_key, raised),
        lambda noise: b * (1 + c * noise) ** 3,
        lambda z: (jnp.cbrt(z / b) - 1) / c,
        lambda z: (raised - 1) * jnp.log(z) - z - gammaln(raised),
    )
    uniform = jax.random.uniform(uniform_key, (augment, *shape.shape), shape.dtype, minval=1e-30)
    steps = jnp.arange(augment, dtype=shape.dtype).reshape(-1, *(1,) * shape.ndim)
    return jnp.log(z) + jnp.sum(jnp.log(uniform) / (shape + steps), 0), log_pi


def _inside(drawn: Array, upper: float = math.inf) -> Array:
    """Draws inside an open support, whose ends those of small shapes are rounded to."""
    return jnp.clip(drawn, jnp.finfo(drawn.dtype).tiny, upper)


def _von_mises(base: Any, drawn: Array) -> tuple[Array, Array]:
    """Best and Fisher's map: the wrapped Cauchy angle of the same noise, ``|ε| <= π``."""
    loc, kappa = base.loc, base.concentration
    tau = 1 + jnp.sqrt(1 + 4 * kappa**2)
    rho = 2 * kappa / (tau + jnp.sqrt(2 * tau))  # of the wrapped Cauchy law
    slope = (1 - rho) / (1 + rho)
    wrap = lambda x: (x + math.pi) % (2 * math.pi) - math.pi
    turn = lambda x, by: 2 * jnp.arctan2(by * jnp.sin(x / 2), jnp.cos(x / 2))
    angle, log_pi = accepted(
        drawn,
        lambda noise: loc + turn(noise, slope),
        lambda z: turn(wrap(z - loc), 1 / slope),
        lambda z: base.log_prob(wrap(z)),
    )
    return wrap(angle), log_pi


# ---- the cdf -----------------------------------------------------------------------------------


def has_cdf(base: Any) -> bool:
    """Whether a distribution is continuous, of scalars, and has a cdf."""
    if base.event_shape or base.support.is_discrete:
        return False
    try:
        jax.eval_shape(base.cdf, jax.ShapeDtypeStruct(base.shape(), jnp.result_type(float)))
    except NotImplementedError:
        return False
    return True


def implicit(base: Any, cdf: Callable | None, value: Array) -> Array:
    """A value that does not move, moved with its quantile by the parameters of its law."""
    level = base.cdf(value) if cdf is None else cdf(base, value)
    return value - only_gradient(level) / stop(jnp.exp(base.log_prob(value)))


def path(fn: Any, value: Array) -> Array | None:
    """A value that does not move as a draw of a law, moved by the law's parameters; None if not.

    For a scalar law there is one increasing path, whatever the noise: that of the quantile.
    """
    base: Any = unwrap(fn)
    if isinstance(base, dist.Normal):
        loc, scale = jnp.asarray(base.loc), jnp.asarray(base.scale)
        return loc + scale * stop((value - loc) / scale)
    return implicit(base, None, value) if has_cdf(base) else None


def draw_implicit(fn: Any, how: Implicit, key: Array) -> Array:
    """A draw, moved by the parameters of its law."""
    return implicit(unwrap(fn), how.cdf, stop(fn.sample(key)))


# ---- relaxations -------------------------------------------------------------------------------


def is_one_hot(base: Any) -> bool:
    """Whether a distribution is a multinomial of one trial, and known to be."""
    if not isinstance(base, MULTINOMIAL):
        return False
    if base.total_count_max is not None:
        return base.total_count_max == 1
    if isinstance(base.total_count, Tracer):
        return False
    return bool(np.all(np.asarray(base.total_count) == 1))


def relaxed(fn: Any, how: Relaxed, key: Array) -> Array:
    """A draw of the concrete distribution, rounded if asked for."""
    base: Any = unwrap(fn)
    has_logits = isinstance(base, (dist.BernoulliLogits, dist.MultinomialLogits))
    if isinstance(base, BERNOULLI):
        logits = jnp.broadcast_to(base.logits if has_logits else logit(base.probs), fn.shape())
        noise = jax.random.logistic(key, logits.shape, logits.dtype)
        soft = jax.nn.sigmoid((logits + noise) / how.temperature)
        hard = jnp.round(soft)
    else:
        logits = jnp.broadcast_to(base.logits if has_logits else jnp.log(base.probs), fn.shape())
        noise = jax.random.gumbel(key, logits.shape, logits.dtype)
        soft = jax.nn.softmax((logits + noise) / how.temperature)
        hard = jax.nn.one_hot(jnp.argmax(soft, -1), soft.shape[-1], dtype=soft.dtype)
    return stop(hard) + only_gradient(soft) if how.straight_through else soft
