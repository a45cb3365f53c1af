"""Training steps that pass an oracle to the optimizer: plain, and for Flax's train states."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import optax
from jaxtyping import Array, Float

from optim.oracle import Oracle, as_oracle
from optim.steps import with_extra_args

T = TypeVar("T")


def make_step(
    oracles: Callable[..., Oracle], optimizer: optax.GradientTransformation
) -> Callable[..., tuple[Any, optax.OptState, Array]]:
    """A training step for any optimizer, those that ask for curvature included.

    Args:
      oracles: ``(key, *args) -> Oracle``, for instance by `stochastic_oracle`; it may also
        return a plain function of the parameters.
      optimizer: any optax transformation.

    Returns:
      ``step(key, params, state, *args) -> (params, state, loss before the step)``, to be jitted
      or scanned.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from optim import make_step, stochastic_oracle
      >>> loss = lambda key, x, y: jnp.sum((x - y) ** 2)
      >>> optimizer = optax.lbfgs()
      >>> step = jax.jit(make_step(stochastic_oracle(loss), optimizer))
      >>> x = jnp.zeros(2)
      >>> state = optimizer.init(x)
      >>> for t in range(5):
      ...     x, state, value = step(jax.random.key(t), x, state, jnp.ones(2))
      >>> bool(jnp.allclose(x, 1.0)), float(value) < 1e-6
      (True, True)
    """
    optimizer = with_extra_args(optimizer)

    def step(
        key: Array, params: Any, state: optax.OptState, *args: Any
    ) -> tuple[Any, optax.OptState, Float[Array, ""]]:
        return _step(as_oracle(oracles(key, *args), "make_step"), optimizer, params, state)

    return step


def _step(
    oracle: Oracle, optimizer: optax.GradientTransformationExtraArgs, params: Any, state: Any
) -> tuple[Any, Any, Array]:
    value, grad = oracle.value_and_grad(params)
    updates, state = optimizer.update(
        grad, state, params, value=value, grad=grad, value_fn=oracle.restrict(params)
    )
    return optax.apply_updates(params, updates), state, value


def apply_oracle(train_state: T, oracle: Oracle) -> tuple[T, Float[Array, ""]]:
    """One step of a Flax ``TrainState``, whose own ``apply_gradients`` passes no oracle.

    Args:
      train_state: has ``step``, ``params``, ``opt_state``, ``tx`` and ``replace``, as
        ``flax.training.train_state.TrainState`` has.
      oracle: the loss at this step's randomness, as a function of ``train_state.params``.

    Returns:
      The new train state, and the loss before the step.
    """
    old: Any = train_state
    optimizer = with_extra_args(old.tx)
    params, opt_state, value = _step(oracle, optimizer, old.params, old.opt_state)
    return old.replace(step=old.step + 1, params=params, opt_state=opt_state), value


def apply_nnx_oracle(
    optimizer: Any, model: Any, loss: Callable[[Any], Array], **declared: Any
) -> Float[Array, ""]:
    """One step of a Flax ``nnx.Optimizer``, in place, with an oracle.

    The oracle rebuilds the module from its parameters, with everything else the module holds
    (random streams, running statistics) as it was before the step. That rest moves on once a
    step, as in a plain evaluation of the loss.

    Args:
      optimizer: an ``nnx.Optimizer`` of the model.
      model: an ``nnx.Module``; changed.
      loss: ``model -> scalar``.
      **declared: arguments of `Oracle`, as functions of the module's parameters.

    Returns:
      The loss before the step.
    """
    from flax import nnx  # pyright: ignore[reportMissingImports]

    graph, params, rest = nnx.split(model, optimizer.wrt, ...)

    def evaluate(params: Any) -> tuple[Array, Any]:
        module = nnx.merge(graph, params, rest, copy=True)
        value = loss(module)
        return value, nnx.split(module, optimizer.wrt, ...)[2]

    oracle = Oracle(lambda params: evaluate(params)[0], **declared)
    (value, after), grad = jax.value_and_grad(evaluate, has_aux=True)(params)
    optimizer.update(model, grad, value=value, grad=grad, value_fn=oracle.restrict(params))
    nnx.update(model, after)
    return value
