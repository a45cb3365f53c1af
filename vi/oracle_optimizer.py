"""Optimizers that ask for curvature, in NumPyro's SVI."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array
from numpyro.optim import _NumPyroOptim

from optim import Oracle
from optim.steps import with_extra_args


class OracleOptimizer(_NumPyroOptim):
    """An optax transformation as a NumPyro optimizer that passes it an oracle of the loss.

    ``numpyro.infer.SVI`` fixes the key of a step, so all evaluations in a step share their
    randomness; it does not give out the key, so ``fresh`` is missing from the oracle. States are
    those of ``numpyro.optim.optax_to_numpyro``.

    Args:
      transformation: any optax transformation.

    Example:
      >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, optax
      >>> from numpyro.infer import SVI, Trace_ELBO
      >>> from numpyro.infer.autoguide import AutoDelta
      >>> from vi.oracle_optimizer import OracleOptimizer
      >>> def model(y):
      ...     mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
      ...     numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
      >>> svi = SVI(model, AutoDelta(model), OracleOptimizer(optax.lbfgs()), Trace_ELBO())
      >>> params = svi.run(jax.random.key(0), 10, 3.0, progress_bar=False).params
      >>> round(float(params["mu_auto_loc"]), 3)
      1.5
    """

    def __init__(self, transformation: optax.GradientTransformation):
        self._optimizer = with_extra_args(transformation)
        self.get_params_fn = lambda state: state[0]
        self.init_fn = lambda params: (params, transformation.init(params))
        self.update_with_value = True

    def update(self, g: Any, state: Any, value: Array | None = None, **extra: Any) -> Any:
        """A step from a gradient, the loss and, where there is one, its oracle."""
        count, (params, inner) = state
        updates, inner = self._optimizer.update(g, inner, params, value=value, grad=g, **extra)
        return count + 1, (optax.apply_updates(params, updates), inner)

    def eval_and_update(
        self, fn: Callable, state: Any, *, forward_mode_differentiation: bool = False
    ) -> tuple:
        """As NumPyro's, with an oracle."""
        (value, aux), grad, oracle = self._evaluate(fn, state, forward_mode_differentiation)
        return (value, aux), self.update(grad, state, value=value, value_fn=oracle)

    def eval_and_stable_update(
        self, fn: Callable, state: Any, *, forward_mode_differentiation: bool = False
    ) -> tuple:
        """As NumPyro's, with an oracle: a step whose loss or gradient is not finite is skipped."""
        (value, aux), grad, oracle = self._evaluate(fn, state, forward_mode_differentiation)
        finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves((value, grad))]
        value, state = jax.lax.cond(
            jnp.all(jnp.stack(finite)),
            lambda: (value, self.update(grad, state, value=value, value_fn=oracle)),
            lambda: (jnp.full_like(value, jnp.nan), state),
        )
        return (value, aux), state

    def _evaluate(self, fn: Callable, state: Any, forward: bool) -> tuple:  # noqa: FBT001
        params = self.get_params(state)
        if forward:

            def twice(x: Any) -> tuple:
                value, aux = fn(x)
                return value, (value, aux)

            grad, result = jax.jacfwd(twice, has_aux=True)(params)
        else:
            result, grad = jax.value_and_grad(fn, has_aux=True)(params)
        return result, grad, Oracle(lambda x: fn(x)[0]).restrict(params)
