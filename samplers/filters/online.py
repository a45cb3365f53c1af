"""Learning a particle filter's model and proposal on a stream, while it filters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from optim.tree import all_finite
from samplers.filters.filter import Before, Filtered, StateSpace, particle_filter
from samplers.filters.resampling import Resampling, Transport


class OnlineFilterState(NamedTuple):
    """What is known between windows.

    Attributes:
      params: of model and proposal, a pytree.
      before: particles at the end of the last window.
      optimizer: state of the optimizer.
      skipped: windows whose gradient was not finite and was not followed.
    """

    params: Any
    before: Before
    optimizer: Any
    skipped: Int[Array, ""]


class OnlineFilter(NamedTuple):
    """What `online_filter` returns.

    Attributes:
      init: from a key, parameters and the first window to the first state, and what the filter
        found there.
      update: from a key, a state and the next window to the next state, and what the filter found
        there.
    """

    init: Callable[[Array, Any, Any], tuple[OnlineFilterState, Filtered]]
    update: Callable[[Array, OnlineFilterState, Any], tuple[OnlineFilterState, Filtered]]


def online_filter(
    model: Callable[[Any], StateSpace],
    optimizer: optax.GradientTransformation,
    *,
    proposal: Callable[[Any], Callable[[Array, Any, Array], Any]] | None = None,
    num_particles: int = 100,
    resampling: Resampling | Transport | None = None,
    threshold: float | Array = 0.5,
) -> OnlineFilter:
    r"""A particle filter that learns its parameters on a stream, a window at a time.

    .. math:: θ \leftarrow θ + \text{step of } ∇_θ \log \hat p_θ(y_{t+1:t+L} \mid y_{1:t})

    Each window of observations is filtered by the parameters so far, from the particles that the
    last window left, which are constants to the gradient; then the parameters move. It needs no
    states to learn from, forgets nothing but by its steps, and follows a stream that changes, at
    the speed of the optimizer. The gradient leaves out how earlier parameters made the particles;
    what `Resampling` says of bias holds within a window.

    Args:
      model: from parameters to the state-space model.
      optimizer: any optax transformation, on the gradient of minus the log evidence.
      proposal: from parameters to a proposal, as for `particle_filter`; by default the transition.
      num_particles: N.
      resampling: as for `particle_filter`.
      threshold: as for `particle_filter`.

    Returns:
      ``init(key, params, observations)``, which filters the first window, and
      ``update(key, state, observations)`` for each later one; both return the state and what the
      filter found *before* it learnt from the window, so its evidence is a fair score. Both run
      under `jax.jit`. A gradient that is not finite is not followed, and counted; so is a window
      that no particle explains, or that is not finite: the particles before it are kept.

    Complexity:
      That of `particle_filter` on a window, and its gradient.

    Reference: Li, Chen and Li (2023), "Learning differentiable particle filter on the fly",
    Algorithm 1.

    Example:
      >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, optax
      >>> from samplers.filters import StateSpace, online_filter
      >>> walk = lambda log_step: StateSpace(
      ...     dist.Normal(jnp.zeros(1), 1.0).to_event(1),
      ...     lambda z, t: dist.Normal(z, jnp.exp(log_step)).to_event(1),
      ...     lambda z, t: dist.Normal(z, 0.3).to_event(1),
      ... )
      >>> learner = online_filter(walk, optax.adam(0.1), num_particles=50)
      >>> y = jnp.cumsum(2.0 * jax.random.normal(jax.random.key(0), (300, 1)), 0)
      >>> state, _ = learner.init(jax.random.key(1), jnp.asarray(-1.0), y[:10])
      >>> update = jax.jit(learner.update)
      >>> for t in range(10, 300, 10):
      ...     state, found = update(jax.random.key(t), state, y[t : t + 10])
      >>> bool(state.params > 0)  # steps were of exp(0.7)
      True
    """
    settings: dict[str, Any] = {
        "num_particles": num_particles,
        "resampling": resampling,
        "threshold": threshold,
    }

    def run(key: Array, params: Any, observations: Any, before: Before | None) -> Filtered:
        how = {} if proposal is None else {"proposal": proposal(params)}
        return particle_filter(key, observations, model(params), before=before, **how, **settings)

    def length(observations: Any) -> int:
        return len(jax.tree.leaves(observations)[0])

    def init(key: Array, params: Any, observations: Any) -> tuple[OnlineFilterState, Filtered]:
        found = run(key, params, observations, None)
        before = found.last(length(observations))
        state = OnlineFilterState(params, before, optimizer.init(params), jnp.zeros((), jnp.int32))
        return state, found

    def update(
        key: Array, state: OnlineFilterState, observations: Any
    ) -> tuple[OnlineFilterState, Filtered]:
        before = jax.lax.stop_gradient(state.before)

        def loss(params: Any) -> tuple[Array, Filtered]:
            found = run(key, params, observations, before)
            return -found.log_evidence, found

        gradient, found = jax.grad(loss, has_aux=True)(state.params)
        steps, moved = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, steps)
        last = found.last(before.time + length(observations))
        alive = jnp.isfinite(found.log_evidence) & all_finite(last)
        # A window that no particle explains says nothing: those before it go on.
        stay = before._replace(time=last.time)
        last = jax.tree.map(lambda a, b: jnp.where(alive, a, b), last, stay)
        finite = all_finite(params) & alive
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        new = OnlineFilterState(
            keep(params, state.params),
            last,
            keep(moved, state.optimizer),
            state.skipped + ~finite,
        )
        return new, found

    return OnlineFilter(init, update)
