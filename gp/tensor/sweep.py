"""Variational message passing over the factors of a tensor, and the gradient of its bound."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Float, Int

from gp.independent import with_functions
from gp.parameters import Values, constrained
from gp.sites import Sites
from gp.tensor.algebra import Core, core_moments, environment, value_moments
from vi.compile import quick_jit
from vi.module import module


class Factor(NamedTuple):
    """The law of a mode's components at its distinct coordinates, ``(n, R)``, and their sites."""

    mean: Float[Array, "n R"]
    variance: Float[Array, "n R"]
    sites: Sites
    kl: Float[Array, " R"]


class State(NamedTuple):
    """All that q is: factors, core, and the gamma law of the noise's precision."""

    factors: tuple[Factor, ...]
    core: Core | None
    shape: Float[Array, ""]
    rate: Float[Array, ""]


@module
class Problem:
    """What does not change: priors of the modes, entries, and the prior of the noise."""

    priors: tuple[Any, ...]
    index: tuple[Int[Array, " N"], ...]
    y: Float[Array, " N"]
    noise: tuple[Array, Array]  # shape and rate


def at_entries(problem: Problem, state: State) -> list[tuple[Array, Array]]:
    """Means and variances of all modes' components at each entry."""
    pairs = zip(state.factors, problem.index, strict=True)
    return [(factor.mean[i], factor.variance[i]) for factor, i in pairs]


def _with_kernels(problem: Problem, kernels: tuple) -> list:
    pairs = zip(problem.priors, kernels, strict=True)
    return [with_functions(prior, kernel, prior.mean) for prior, kernel in pairs]


def update_mode(problem: Problem, state: State, mode: int, prior: Any) -> State:
    r"""New laws of a mode's components, one after the other.

    Given the rest, the bound in component r is that of Gaussian regression: with a as of
    `environment`, its sites are sums over the entries of each coordinate of

    .. math:: λ_2 = E[τ]\, E[a_r^2], \qquad
              λ_1 = E[τ] \big( y\, E[a_r] - \sum_{s \ne r} E[a_r a_s]\, E[u_s] \big)
    """
    index, count = problem.index[mode], prior.x.shape[0]
    mean, second = environment(mode, at_entries(problem, state), state.core)
    tau = state.shape / state.rate
    gather = lambda a: jax.ops.segment_sum(a, index, count)

    def one(r: Array, factor: Factor) -> Factor:
        row = second[:, r]
        rest = jnp.sum(row * factor.mean[index], 1) - row[:, r] * factor.mean[index, r]
        sites = Sites(
            tau * gather(problem.y * mean[:, r] - rest),
            tau * jnp.maximum(gather(row[:, r]), jnp.finfo(rest.dtype).tiny),
        )
        q = prior.condition(sites)
        return Factor(
            factor.mean.at[:, r].set(q.mean),
            factor.variance.at[:, r].set(jnp.maximum(q.variance, 0.0)),
            Sites(*(a.at[:, r].set(b) for a, b in zip(factor.sites, sites, strict=True))),
            factor.kl.at[r].set(q.kl),
        )

    rank = mean.shape[1]
    new = jax.lax.fori_loop(0, rank, one, state.factors[mode])
    factors = (*state.factors[:mode], new, *state.factors[mode + 1 :])
    return state._replace(factors=factors)


def update_core(problem: Problem, state: State) -> State:
    """The new law of the core, whose prior is standard normal."""
    if state.core is None:
        return state
    both, linear = core_moments(at_entries(problem, state), problem.y)
    tau = state.shape / state.rate
    precision = jnp.eye(len(both), dtype=both.dtype) + tau * both
    tril = jnp.linalg.cholesky(precision)
    inverse = jax.scipy.linalg.cho_solve((tril, True), jnp.eye(len(both), dtype=both.dtype))
    mean = tau * inverse @ linear
    return state._replace(core=Core(mean.reshape(state.core.mean.shape), inverse))


def update_noise(problem: Problem, state: State) -> State:
    """The new gamma law of the noise's precision."""
    shape, rate = problem.noise
    error = squared_error(problem, state)
    return state._replace(shape=shape + 0.5 * len(problem.y), rate=rate + 0.5 * error)


def squared_error(problem: Problem, state: State) -> Float[Array, ""]:
    """The expected sum of squared errors, Σ E[(y_n - f_n)²] over all entries, shape ``()``."""
    mean, second = value_moments(at_entries(problem, state), state.core)
    return jnp.sum(problem.y**2 - 2 * problem.y * mean + second)


def elbo(problem: Problem, state: State) -> Float[Array, ""]:
    """The evidence lower bound, nats; all expectations are exact."""
    shape, rate = state.shape, state.rate
    log_tau, tau = digamma(shape) - jnp.log(rate), shape / rate
    count = len(problem.y)
    fit = 0.5 * count * (log_tau - jnp.log(2 * jnp.pi)) - 0.5 * tau * squared_error(problem, state)
    kl = sum(jnp.sum(factor.kl) for factor in state.factors)
    before, scale = problem.noise
    kl = kl + (shape - before) * digamma(shape) - gammaln(shape) + gammaln(before)
    kl = kl + before * (jnp.log(rate) - jnp.log(scale)) + shape * (scale - rate) / rate
    if state.core is not None:
        log_det = jnp.linalg.slogdet(state.core.covariance)[1]
        squares = jnp.sum(state.core.mean**2) + jnp.trace(state.core.covariance)
        kl = kl + 0.5 * (squares - state.core.mean.size - log_det)
    return fit - kl


def sweep(problem: Problem, state: State, kernels: tuple) -> State:
    """All laws anew, once; the bound does not fall."""
    for mode, prior in enumerate(_with_kernels(problem, kernels)):
        state = update_mode(problem, state, mode, prior)
    return update_noise(problem, update_core(problem, state))


def slopes(problem: Problem, state: State, kernels: tuple, values: Values) -> Values:
    """The bound's gradient in the kernels' hyperparameters, q held; see `gp.evidence`."""

    def surrogate(values: Values) -> Array:
        total = jnp.zeros(())
        new = _with_kernels(problem, constrained(kernels, values))
        for prior, factor in zip(new, state.factors, strict=True):
            total += jnp.sum(jax.vmap(prior.log_normalizer, 1)(factor.sites))
        return total

    return jax.grad(surrogate)(values)


@quick_jit(static_argnames=("num_sweeps",))
def run(
    problem: Problem, state: State, kernels: tuple, values: Values, rate: Array, num_sweeps: int
) -> tuple[State, Values, Float[Array, " T"]]:
    """Sweeps, each followed by a step of Adam in the hyperparameters if there are any.

    Returns:
      The state, the hyperparameters of it, and the bound after each sweep.
    """
    optimizer = optax.adam(1.0)

    def step(carry: tuple, _: None) -> tuple[tuple, Array]:
        state, values, _, opt = carry
        new = constrained(kernels, values)
        state = sweep(problem, state, new)
        value = elbo(problem, state)
        moved = values
        if values:
            down = jax.tree.map(jnp.negative, slopes(problem, state, new, values))
            updates, opt = optimizer.update(down, opt, values)
            moved = optax.apply_updates(values, jax.tree.map(lambda u: rate * u, updates))
        return (state, moved, values, opt), value

    carry = state, values, values, optimizer.init(values)
    (state, _, used, _), bounds = jax.lax.scan(step, carry, None, length=num_sweeps)
    return state, used, bounds
