"""Averaging of iterates as a wrapper around any optax transformation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from optim.solution import eval_params
from optim.steps import no_steps, settle, with_extra_args
from optim.tree import needs_params, wide


class PolynomialAverageState(NamedTuple):
    """State of `polynomial_average`.

    Attributes:
      count: steps taken, shape ``()``.
      skipped: steps whose update was not finite, shape ``()``.
      average: of the iterates; at least float32, where parameters are floating.
      inner: state of the optimizer that is averaged.
    """

    count: Array
    skipped: Array
    average: optax.Params
    inner: optax.OptState

    @property
    def solution(self) -> optax.Params:
        """The average."""
        return self.average


def polynomial_average(
    inner: optax.GradientTransformation, power: float = 8.0
) -> optax.GradientTransformationExtraArgs:
    r"""Keep a polynomial-decay average of the iterates of another transformation.

    .. math:: \bar x_t = (1 - w_t)\,\bar x_{t-1} + w_t x_t, \qquad w_t = \frac{γ + 1}{γ + t}

    with x_t the parameters after step t, or the solution there (`eval_params`) if ``inner`` has
    its answer elsewhere: the last 1/(γ + 1) of the steps get most of the weight, whatever the
    number of steps. The updates are those of ``inner``, unchanged, but one that is not finite is
    skipped. `eval_params` and `average_params` give the average.

    Reference: Shamir and Zhang (2013), "Stochastic gradient descent for non-smooth optimization:
    convergence results and optimal averaging schemes", Section 4.

    Args:
      inner: any transformation.
      power: γ ≥ 0; 0 is the plain average, large is the last iterate.

    Returns:
      A transformation that needs ``params`` and passes extra arguments on to ``inner``.

    Complexity:
      One more copy of the parameters.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from optim import average_params, polynomial_average
      >>> optimizer, x = polynomial_average(optax.sgd(0.5)), jnp.ones(2)
      >>> state = optimizer.init(x)
      >>> for _ in range(20):
      ...     updates, state = optimizer.update(x, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(jnp.all(jnp.abs(average_params(state, x)) < 1e-2))
      True
    """
    inner = with_extra_args(inner)

    def init(params: optax.Params) -> PolynomialAverageState:
        return PolynomialAverageState(**no_steps(), average=wide(params), inner=inner.init(params))

    def update(
        updates: optax.Updates,
        state: PolynomialAverageState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, PolynomialAverageState]:
        params = needs_params("polynomial_average", params)
        steps, inner_state = inner.update(updates, state.inner, params, **extra)
        count = state.count + 1
        weight = (power + 1) / (power + count.astype(jnp.float32))

        def mix(average: Array, new: Array) -> Array:
            return average + weight.astype(average.dtype) * (new - average)

        moved = jax.tree.map(jnp.add, wide(params), wide(steps))
        average = jax.tree.map(mix, state.average, wide(eval_params(inner_state, moved)))
        new = state._replace(average=average, inner=inner_state)
        return settle(state, new, updates, steps, own=average)

    return optax.GradientTransformationExtraArgs(init, update)


def average_params(state: optax.OptState, params: optax.Params) -> optax.Params:
    """The averaged parameters, in the dtypes of ``params``.

    Args:
      state: a state of `polynomial_average`.
      params: the current parameters, for structure and dtypes.

    Returns:
      The average; before the first step, the initial parameters.

    Raises:
      TypeError: if the state is another transformation's.
    """
    if not isinstance(state, PolynomialAverageState):
        raise TypeError(
            "average_params: expected the state of polynomial_average; got "
            f"{type(state).__name__}. Wrap the optimizer in polynomial_average."
        )
    return jax.tree.map(lambda a, p: a.astype(jnp.result_type(p)), state.average, params)
