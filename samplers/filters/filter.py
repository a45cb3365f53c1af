"""The particle filter: bootstrap or guided, differentiable."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from samplers.filters.resampling import Resampling, Transport


@dataclasses.dataclass(frozen=True)
class StateSpace:
    """A state-space model, of NumPyro distributions or others with ``sample`` and ``log_prob``.

    What is differentiated may be closed over by the functions: make the model inside of the loss.

    Attributes:
      initial: distribution of the first state, of event shape ``(D,)``.
      transition: ``(z, t) -> distribution`` of the state at time t, given the one before.
      observation: ``(z, t) -> distribution`` of what is seen at time t, given the state.
    """

    initial: Any
    transition: Callable[[Array, Array], Any]
    observation: Callable[[Array, Array], Any]


class Filtered(NamedTuple):
    """What a filter found; weights are before resampling, and sum to one at each time.

    Attributes:
      log_evidence: logarithm of an unbiased estimate of :math:`p(y_{1:T})`, nats.
      particles: of the hidden state, at each time.
      log_weights: their logarithms.
      effective: effective number of particles, at each time.
    """

    log_evidence: Float[Array, ""]
    particles: Float[Array, "T N D"]
    log_weights: Float[Array, "T N"]
    effective: Float[Array, " T"]

    def last(self, time: int | Array) -> "Before":
        """What the filter of the observations from ``time`` on goes on from.

        Args:
          time: of the next observation: the number of those so far.
        """
        return Before(self.particles[-1], self.log_weights[-1], jnp.asarray(time))

    def mean(self) -> Float[Array, "T ..."]:
        """Means of the states given what was seen until their time."""
        return jnp.einsum("tn,tn...->t...", jnp.exp(self.log_weights), self.particles)


class Before(NamedTuple):
    """Particles of a stream at the time before the next observation, and that one's time.

    Attributes:
      particles: of the hidden state.
      log_weights: their logarithms; they sum to one.
      time: of the next observation, from 0, shape ``()``.
    """

    particles: Float[Array, "N D"]
    log_weights: Float[Array, " N"]
    time: Array


def _draw(key: Array, law: Any) -> tuple[Array, Array]:
    """A draw and its log density, for gradients by paths or, where there are none, by scores.

    Without a path the draw and the density it came from are constants, so that the model's density
    over it carries the gradient.
    """
    z = law.sample(key)
    if getattr(law, "has_rsample", True):
        return z, law.log_prob(z)
    z = jax.lax.stop_gradient(z)
    return z, jax.lax.stop_gradient(law.log_prob(z))


def particle_filter(
    key: Array,
    observations: Any,
    model: StateSpace,
    *,
    num_particles: int = 100,
    proposal: Callable[[Array, Any, Array], Any] | None = None,
    initial_proposal: Callable[[Any], Any] | None = None,
    resampling: Resampling | Transport | None = None,
    threshold: float | Array = 0.5,
    before: Before | None = None,
) -> Filtered:
    r"""Filter a series of observations by particles, and estimate its evidence.

    .. math:: w_t^i = \frac{p(z_t^i \mid z_{t-1}^i)\, p(y_t \mid z_t^i)}
        {q(z_t^i \mid z_{t-1}^i, y_t)}, \qquad \hat Z = \prod_t \sum_i W_{t-1}^i w_t^i

    Without a proposal it is the bootstrap filter, q = p. Ẑ is unbiased for p(y), so the mean of
    ``log_evidence`` is a lower bound on log p(y), the objective of variational sequential Monte
    Carlo: give its gradient to an optimizer to fit model and proposal. How that gradient sees the
    resampling, and which kinds are biased, says `Resampling`; states without reparameterisation
    (discrete ones) get score terms.

    A stream is filtered in windows: each goes on from ``found.last(time)`` of the one before. The
    evidence is then that of the window given what came before. `online_filter` learns on the way.

    Args:
      key: a key.
      observations: y, a pytree of arrays with leading axis T.
      model: the state-space model.
      num_particles: N.
      proposal: ``(z, y, t) -> distribution`` of the state at time t, given the one before and what
        is seen then.
      initial_proposal: ``y -> distribution`` of the first state.
      resampling: a `Resampling` or `Transport`; by default systematic, with unbiased gradients.
      threshold: resample where the effective number of particles is below this share of N; 1
        resamples at every step, 0 never.
      before: the particles to go on from, N of them; if not given, the first observation is of the
        first state.

    Returns:
      Evidence, particles and weights at every time.

    Raises:
      ValueError: if a distribution's log density of a state or observation is not a scalar.

    Complexity:
      O(T N) evaluations of the model; O(T N D) memory. `Transport` costs O(N²) a step of Sinkhorn.

    Reference: Gordon, Salmond and Smith (1993), "Novel approach to nonlinear/non-Gaussian Bayesian
    state estimation"; Naesseth, Linderman, Ranganath and Blei (2018), "Variational sequential Monte
    Carlo".

    Example:
      >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
      >>> from samplers.filters import StateSpace, particle_filter
      >>> walk = StateSpace(
      ...     dist.Normal(jnp.zeros(1), 1.0).to_event(1),
      ...     lambda z, t: dist.Normal(z, 0.5).to_event(1),
      ...     lambda z, t: dist.Normal(z, 1.0).to_event(1),
      ... )
      >>> y = jnp.linspace(0.0, 3.0, 20)[:, None]
      >>> found = particle_filter(jax.random.key(0), y, walk, num_particles=200)
      >>> found.mean().shape, bool(2.0 < found.mean()[-1, 0] < 3.2)
      ((20, 1), True)
    """
    resampling = Resampling() if resampling is None else resampling
    n = num_particles

    def weigh(law: Any, prior: Any, y: Any, t: Array, key: Array) -> tuple[Array, Array]:
        z, log_q = _draw(key, law)
        seen = model.observation(z, t).log_prob(y)
        log_w = prior.log_prob(z) - log_q + seen
        if jnp.ndim(log_w) or jnp.ndim(seen):
            raise ValueError(
                "particle_filter: expected distributions whose log densities of one state and of "
                f"one observation are scalars; got shape {jnp.shape(log_w)}. Use .to_event(1)."
            )
        return z, log_w

    def first(key: Array, y: Any) -> tuple[Array, Array]:
        law = model.initial if initial_proposal is None else initial_proposal(y)
        return weigh(law, model.initial, y, jnp.asarray(0), key)

    def later(key: Array, z: Array, y: Any, t: Array) -> tuple[Array, Array]:
        prior = model.transition(z, t)
        law = prior if proposal is None else proposal(z, y, t)
        return weigh(law, prior, y, t, key)

    def told(z: Array, log_joint: Array) -> tuple[Array, tuple]:
        """Increment of the evidence, and what is kept."""
        increment = jax.nn.logsumexp(log_joint)
        log_w = log_joint - jnp.where(jnp.isfinite(increment), increment, 0)
        effective = jnp.exp(-jax.nn.logsumexp(2 * log_w))
        return increment, (z, log_w, jax.lax.stop_gradient(effective))

    def step(carry: tuple, given: tuple) -> tuple[tuple, tuple]:
        z, log_w, effective, log_z = carry
        t, y, key = given
        choose_key, move_key = jax.random.split(key)
        fewer = effective < threshold * n
        chosen = resampling(choose_key, z, log_w)
        z, log_w = jax.tree.map(lambda a, b: jnp.where(fewer, a, b), chosen, (z, log_w))
        z, increment = jax.vmap(later, (0, 0, None, None))(jax.random.split(move_key, n), z, y, t)
        gained, kept = told(z, log_w + increment)
        return (*kept, log_z + gained), kept

    def through(carry: tuple, times: Array, y: Any, key: Array) -> tuple[tuple, tuple]:
        keys = jax.random.split(key, len(times))
        return jax.lax.scan(step, carry, (times, y, keys))

    length = len(jax.tree.leaves(observations)[0])
    if before is not None:
        z, log_w, first_time = before
        if len(log_w) != n:
            raise ValueError(
                f"particle_filter: expected before to have num_particles = {n} particles; got "
                f"{len(log_w)}."
            )
        effective = jnp.exp(-jax.nn.logsumexp(2 * log_w))
        start = (z, log_w, effective, jnp.zeros((), log_w.dtype))
        (*_, log_z), kept = through(start, first_time + jnp.arange(length), observations, key)
        return Filtered(log_z, *kept)
    key, start_key = jax.random.split(key)
    at = lambda t: jax.tree.map(lambda y: y[t], observations)
    z, log_w = jax.vmap(first, (0, None))(jax.random.split(start_key, n), at(0))
    log_z, kept = told(z, log_w - jnp.log(n))
    rest = jax.tree.map(lambda y: y[1:], observations)
    (*_, log_z), later_kept = through((*kept, log_z), jnp.arange(1, length), rest, key)
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), kept, later_kept)
    return Filtered(log_z, *joined)
