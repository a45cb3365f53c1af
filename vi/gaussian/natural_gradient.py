"""Natural gradient ascent of the ELBO over a Gaussian: variational online Newton."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array

from vi.families.gaussian import Gaussian
from vi.gaussian.root import Root, squared_norm
from vi.gaussian.whitening import replace, updates, whiten


class NaturalGradientState(NamedTuple):
    """State of `natural_gradient`."""

    count: Array  # shape=(), dtype=int32


def limited_rate(rate: Array, excess: Root, max_change: Array | float) -> Array:
    """A rate at which ``rate * excess`` has a norm of at most ``max_change``."""
    size = rate * jnp.sqrt(squared_norm(excess))
    return rate * jnp.minimum(1.0, max_change / jnp.maximum(size, 1e-30))


def limited_move(move: Array) -> Array:
    """A whitened step of the location, no longer than √D standard deviations."""
    limit = move.shape[0] ** 0.5
    return move * jnp.minimum(1.0, limit / jnp.maximum(jnp.linalg.norm(move), 1e-30))


def natural_gradient(
    learning_rate: optax.ScalarOrSchedule, *, max_change: float = 1.0
) -> optax.GradientTransformationExtraArgs:
    r"""Natural-gradient steps that keep the covariance positive definite.

    In whitened coordinates, with A = Lᵀ E[-∇² log p] L, X = A - I and g = Lᵀ E[∇ log p],

    .. math::

       Λ_{new} = L^{-T} P L^{-1}, \quad P = \tfrac12\left(I + (I + ρX)^2\right), \qquad
       m_{new} = m + ρ L P^{-1} g .

    P agrees with the plain step I + ρX to first order and is at least I/2 whatever X is; it is
    the improved Bayesian learning rule for Gaussians (Lin, Schmidt and Khan 2020, "Handling the
    positive-definite constraint in the Bayesian learning rule"). The rate ρ is the
    learning rate, less if ρ‖X‖ would exceed ``max_change``; the location moves by at most √D
    standard deviations of the new q. The only fixed point is the best Gaussian.

    On a Gaussian target an uncut step of rate 1 takes an eigenvalue a of A to 2a/(1 + a²), so
    1 - a to (1 - a)²/(1 + a²): convergence is quadratic, from one side after the first step. The
    location covers the share 2a/(1 + a²) of its distance: all of it only where the variance is
    right already. From N(0, 1) to the target N(3, 0.25), a = 4, one step goes to variance 2/17
    and, cut to one standard deviation, to location 0.343.

    Args:
      learning_rate: ρ, a number or an optax schedule; 1 is Newton's step, less averages noise.
      max_change: bound on the change of the whitened precision in a step (Frobenius norm).

    Returns:
      A transformation whose parameters are a `Gaussian` (diagonal, dense or block, linear) and
      whose updates are gradients of the negative ELBO, by any estimator.

    Raises:
      TypeError: at the first update, if the parameters are not such a Gaussian.

    Complexity:
      O(D³) for a dense scale, O(D) for a diagonal one.

    Example:
      >>> import jax, jax.numpy as jnp, optax, vi
      >>> target = vi.target(lambda x: -0.5 * jnp.sum(jnp.array([1.0, 100.0]) * x**2), jnp.ones(2))
      >>> q, optimizer = vi.full_rank(2), vi.gaussian.natural_gradient(0.5, max_change=10.0)
      >>> state, estimator = optimizer.init(q), vi.gaussian.SphericalRadial()
      >>> for t in range(30):
      ...     loss, grads = estimator(jax.random.key(t), q, target)
      ...     change, state = optimizer.update(grads, state, q)
      ...     q = optax.apply_updates(q, change)
      >>> bool(jnp.allclose(q.variance(), jnp.array([1.0, 0.01]), rtol=1e-3))
      True
    """

    def init(params: Gaussian) -> NaturalGradientState:
        del params
        return NaturalGradientState(jnp.zeros((), jnp.int32))

    def update(
        grads: Gaussian,
        state: NaturalGradientState,
        params: Any = None,
        **extra: object,
    ) -> tuple[Gaussian, NaturalGradientState]:
        del extra
        root, gradient, excess = whiten(params, grads, "natural_gradient")
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        rate = limited_rate(jnp.asarray(rate, params.loc.dtype), excess, max_change)
        new_root, move, _ = root.natural_update(excess, gradient, rate)
        new = replace(params.loc + new_root.matmul(limited_move(move)), new_root)
        return updates(new, params), NaturalGradientState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)
