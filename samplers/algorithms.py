"""What moves a chain: algorithms for `samplers.mcmc`, most of them blackjax's kernels.

All run in the coordinates of the noise of an approximation q, where q is a unit normal, so a step
size of order one and a unit mass matrix are right as far as q is.
"""

import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from samplers.coordinates import NoiseTarget
from samplers.kept import MAX_DOUBLINGS
from vi.module import module, static

State = Any  # blackjax's HMCState: position, log density and its gradient in the noise


class Step(NamedTuple):
    """What is told of one transition; each of shape ``()``.

    Attributes:
      acceptance: probability with which the proposal was accepted, or its mean along a trajectory.
      divergent: whether the error of the energy was too large, and the proposal not taken.
      evaluations: of the gradient; of the density where no gradient is used.
      energy: minus the log density of position and momentum, nats; NaN where
        velocities have length one.
    """

    acceptance: Any
    divergent: Any
    evaluations: Any
    energy: Any


class Algorithm:
    """A transition kernel with its settings; the leaves may change without a new compilation."""

    adaptive: ClassVar[bool] = True  # whether step size and metric are adapted
    in_turns: ClassVar[bool] = False  # one chain after another, as lengths differ; else by vmap
    exact: ClassVar[bool] = True  # the target is invariant, and states keep its value
    longest: ClassVar[float] = math.inf  # evaluations at which a transition is cut

    def transition(
        self, key: Array, state: State, target: NoiseTarget, step_size: Array, metric: Array
    ) -> tuple[State, Step]:
        """One transition of one chain."""
        raise TypeError(f"expected an algorithm of samplers; got {type(self).__name__}.")


def _step(info: Any) -> Step:
    return Step(info.acceptance_rate, info.is_divergent, info.num_integration_steps, info.energy)


@module
class NUTS(Algorithm):
    """The no-U-turn sampler: trajectories that end where they turn back.

    Reference: Hoffman and Gelman (2014), "The No-U-Turn Sampler: adaptively setting path lengths in
    Hamiltonian Monte Carlo", in blackjax's multinomial, iterative form.
    """

    in_turns: ClassVar[bool] = True
    longest: ClassVar[float] = 2**MAX_DOUBLINGS - 1

    def transition(
        self, key: Array, state: State, target: NoiseTarget, step_size: Array, metric: Array
    ) -> tuple[State, Step]:
        """One trajectory of at most 1023 steps."""
        from blackjax.mcmc import nuts

        kernel = nuts.build_kernel()
        state, info = kernel(key, state, target.log_density, step_size, metric, MAX_DOUBLINGS)
        return state, _step(info)


@module
class HMC(Algorithm):
    """Hamiltonian Monte Carlo with trajectories of random length, all chains side by side.

    Attributes:
      num_steps: a trajectory has from 1 to so many leapfrog steps, uniformly.

    Reference: Neal (2011), "MCMC using Hamiltonian dynamics".
    """

    num_steps: int | Array = 8

    def transition(
        self, key: Array, state: State, target: NoiseTarget, step_size: Array, metric: Array
    ) -> tuple[State, Step]:
        """One trajectory, accepted or refused."""
        from blackjax.mcmc import hmc

        length_key, key = jax.random.split(key)
        length = jax.random.randint(length_key, (), 1, self.num_steps + 1)
        kernel = hmc.build_kernel()
        state, info = kernel(key, state, target.log_density, step_size, metric, length)
        return state, _step(info)


@module
class MCLMC(Algorithm):
    """Microcanonical Langevin Monte Carlo: trajectories of constant speed, accepted or refused.

    The adjusted form, which leaves the target invariant; its velocity is drawn afresh for each
    trajectory.

    Attributes:
      num_steps: a trajectory has from 1 to so many steps of two gradients each, uniformly.

    Reference: Robnik, De Luca, Silverstein and Seljak (2023), "Microcanonical Hamiltonian Monte
    Carlo", as blackjax adjusts it.
    """

    num_steps: int | Array = 8

    def transition(
        self, key: Array, state: State, target: NoiseTarget, step_size: Array, metric: Array
    ) -> tuple[State, Step]:
        """One trajectory, accepted or refused."""
        from blackjax.mcmc import adjusted_mclmc

        length_key, key = jax.random.split(key)
        length = jax.random.randint(length_key, (), 1, self.num_steps + 1)
        kernel = adjusted_mclmc.build_kernel()
        size = step_size * state.position.size**0.5  # velocity has length one, not √D
        state, info = kernel(key, state, target.log_density, size, (length,), metric)
        return state, _step(info)._replace(evaluations=2 * length, energy=jnp.nan)


@module
class Independence(Algorithm):
    r"""Independence Metropolis: every proposal is a fresh draw of the approximation q.

    Accepted with probability :math:`\min(1, w(z') / w(z))`, w = p/q. Where p/q is bounded by M it
    forgets its start by a factor 1 - 1/M a step (Mengersen and Tweedie 1996, "Rates of convergence
    of the Hastings and Metropolis algorithms"); where q has lighter tails than p it sticks, which
    the verdict shows. One density evaluation a step, no gradient.
    """

    adaptive: ClassVar[bool] = False

    def transition(
        self, key: Array, state: State, target: NoiseTarget, step_size: Array, metric: Array
    ) -> tuple[State, Step]:
        """One proposal, accepted or refused."""
        from blackjax.mcmc.random_walk import RWState, build_irmh

        x = state.position
        draw = lambda key: jax.random.normal(key, x.shape, x.dtype)
        log_q = lambda start, end: -0.5 * jnp.sum(end.position**2)
        kernel = build_irmh()
        new, info = kernel(key, RWState(x, state.logdensity), target.log_density, draw, log_q)
        moved = state._replace(position=new.position, logdensity=new.logdensity)
        return moved, Step(info.acceptance_rate, False, 1, jnp.nan)  # noqa: FBT003


@module
class DelayedAcceptance(Algorithm):
    r"""A random walk on the approximation q, whose end the target accepts or refuses.

    Some Metropolis steps with q as their target, which cost nothing, lead from z to z'; it is
    accepted with probability :math:`\min(1, w(z') / w(z))`, w = p/q. With one step it is delayed
    acceptance (Christen and Fox 2005, "Markov chain Monte Carlo using an approximation"): what q
    refuses is never shown to the target. With many it goes over to `Independence`; fewer are better
    where q is only locally right. One density evaluation for each walk that moved, no gradient.

    Attributes:
      num_steps: steps of the walk.
      scale: of a step of the walk, in standard deviations of q, times :math:`2.4/\sqrt{D}`.
    """

    adaptive: ClassVar[bool] = False
    in_turns: ClassVar[bool] = True

    num_steps: int | Array = 50
    scale: float | Array = 1.0

    def transition(
        self, key: Array, state: State, target: NoiseTarget, step_size: Array, metric: Array
    ) -> tuple[State, Step]:
        """One walk, accepted or refused."""
        start = state.position
        walk_key, end_key = jax.random.split(key)
        size = jnp.asarray(self.scale * 2.4 / start.size**0.5, start.dtype)

        def walk(i: Array, x: Array) -> Array:
            move_key, accept_key = jax.random.split(jax.random.fold_in(walk_key, i))
            proposed = x + size * jax.random.normal(move_key, x.shape, x.dtype)
            log_ratio = 0.5 * jnp.sum(x**2 - proposed**2)
            u = jax.random.uniform(accept_key, (), x.dtype)
            return jnp.where(jnp.log(u) < log_ratio, proposed, x)

        end = jax.lax.fori_loop(0, self.num_steps, walk, start)
        moved = jnp.any(end != start)
        known = state.logdensity
        value = jax.lax.cond(moved, target.log_density, lambda _: known, end)
        log_ratio = value - known + 0.5 * jnp.sum(end**2 - start**2)
        rate = jnp.where(jnp.isnan(log_ratio), 0, jnp.exp(jnp.minimum(log_ratio, 0)))
        u = jax.random.uniform(end_key, (), start.dtype)
        new = state._replace(position=end, logdensity=value)
        new = jax.tree.map(lambda a, b: jnp.where(u < rate, a, b), new, state)
        return new, Step(rate, False, moved.astype(int), jnp.nan)  # noqa: FBT003


def _finite_or_before(new: Array, state: State, evaluations: int) -> tuple[State, Step]:
    """A position that is not finite is replaced by the one before, and counts as a divergence."""
    finite = jnp.all(jnp.isfinite(new))
    position = jnp.where(finite, new, state.position)
    return state._replace(position=position), Step(1.0, ~finite, evaluations, jnp.nan)


@module
class SGLD(Algorithm):
    r"""Stochastic-gradient Langevin dynamics, on minibatches where the model has them.

    .. math:: x \leftarrow x + ε ∇ \log \hat p(x) + \sqrt{2ε}\, ξ

    Nothing is refused: the draws are of a density that differs from the target's by O(ε), more
    where the gradients are noisy, and no diagnostic of chains sees that, so the grade is never
    better than fair. ``step_size`` is in squared standard deviations of q; at 0.02 a unit normal
    comes out 1 % too wide in variance.

    Attributes:
      step_size: ε.
      num_steps: steps for each draw that is kept, static.

    Reference: Welling and Teh (2011), "Bayesian learning via stochastic gradient Langevin
    dynamics", Equation 4 with ε for half of its step.
    """

    adaptive: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    step_size: float | Array = 0.02
    num_steps: int = static(default=50)

    def transition(
        self, key: Array, state: State, target: NoiseTarget, step_size: Array, metric: Array
    ) -> tuple[State, Step]:
        """``num_steps`` steps."""
        from blackjax.sgmcmc import sgld

        kernel, size = sgld.build_kernel(), jnp.asarray(self.step_size, state.position.dtype)

        def step(x: Array, key: Array) -> tuple[Array, None]:
            noise_key, batch_key = jax.random.split(key)
            return kernel(noise_key, x, jax.grad(target.log_density), batch_key, size), None

        x, _ = jax.lax.scan(step, state.position, jax.random.split(key, self.num_steps))
        return _finite_or_before(x, state, self.num_steps)


@module
class SGHMC(Algorithm):
    r"""Stochastic-gradient Hamiltonian Monte Carlo: Langevin dynamics with momentum and friction.

    A trajectory from a fresh momentum, each step on a minibatch of its own where the model has
    them. Biased as `SGLD` is, by O(ε) here too, and graded likewise.

    Attributes:
      step_size: ε, in standard deviations of q.
      friction: what the momentum loses, a unit of time.
      num_steps: steps of a trajectory, static.

    Reference: Chen, Fox and Guestrin (2014), "Stochastic gradient Hamiltonian Monte Carlo",
    with the noise of the gradient taken for zero.
    """

    adaptive: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    step_size: float | Array = 0.05
    friction: float | Array = 1.0
    num_steps: int = static(default=50)

    def transition(
        self, key: Array, state: State, target: NoiseTarget, step_size: Array, metric: Array
    ) -> tuple[State, Step]:
        """One trajectory."""
        x = state.position
        noise_key, batch_key = jax.random.split(key)
        friction, size = jnp.asarray(self.friction, x.dtype), jnp.asarray(self.step_size, x.dtype)
        count = self.num_steps

        def step(carry: tuple, keys: tuple) -> tuple[tuple, None]:
            x, v = carry
            x = x + size * v
            gradient = jax.grad(target.log_density)(x, keys[1])
            noise = jnp.sqrt(2 * friction * size) * jax.random.normal(keys[0], x.shape, x.dtype)
            return (x, (1 - friction * size) * v + size * gradient + noise), None

        momentum = jax.random.normal(jax.random.fold_in(noise_key, count), x.shape, x.dtype)
        keys = jax.random.split(noise_key, count), jax.random.split(batch_key, count)
        (new, _), _ = jax.lax.scan(step, (x, momentum), keys)
        return _finite_or_before(new, state, count)
