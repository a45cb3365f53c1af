"""The oracle: one loss at fixed randomness, with every derivative an optimizer may ask for."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from optim.tree import fill, is_masked, ravel, wide

OPTIONAL = (
    "outputs",
    "row_loss",
    "remainder",
    "per_example",
    "fresh",
    "constraints",
    "lower_bound",
)

_BUILD = {
    "outputs": "Build the loss with optim.Oracle.composite(outputs, row_loss, remainder).",
    "row_loss": "Build the loss with optim.Oracle.composite(outputs, row_loss, remainder).",
    "remainder": "Build the loss with optim.Oracle.composite(outputs, row_loss, remainder).",
    "per_example": "Pass per_example=, a function from parameters to a vector of losses.",
    "fresh": "Pass fresh=, a function from a key to the oracle at other randomness, as "
    "optim.stochastic_oracle does; or choose curvature='lagged', which needs none.",
    "constraints": "Pass constraints=, a function from parameters to the residuals c(x) = 0.",
    "lower_bound": "Pass lower_bound=, a number the loss cannot fall below. A negative ELBO has "
    "none in general.",
}


class MissingOracleError(ValueError):
    """An optimizer needs something of the loss that was not given; the message says what."""


class Oracle:
    r"""A loss f at fixed randomness, as a function of the parameters, with its derivatives.

    Every evaluation is at the same minibatch and the same random draws, so differences of values
    and of gradients are exact. It is passed to an optimizer as ``value_fn``, the name that optax
    gives it, and works wherever optax expects a function. Make it inside the jitted step; it
    holds functions, so it is never part of a state or an argument of a jitted function.

    Whatever autodiff can derive needs no declaration: ``value_and_grad``, ``grad``, ``hvp``,
    ``linearize``, ``quad``, ``dense_hessian``. What only the objective knows is declared:

    Args:
      loss: from parameters to a scalar.
      value_and_grad: from parameters to the pair, if the gradient is another estimate than the
        derivative of ``loss``. Hessians are always those of ``loss``.
      outputs: from parameters to model outputs, shape ``(R,)`` or ``(R, C)``; row r is one datum.
      row_loss: from outputs to the losses of the rows, shape ``(R,)``, row by row.
      remainder: from parameters to the scalar f - mean(row_loss(outputs)).
      per_example: from parameters to a vector of losses whose mean is f, up to a term that all
        share.
      fresh: from a key to this loss at other randomness.
      constraints: from parameters to the residuals of c(x) = 0.
      lower_bound: a number below which f cannot fall.
      max_dense_dim: largest dimension for which ``dense_hessian`` is allowed.

    Example:
      >>> import jax.numpy as jnp
      >>> from optim import Oracle
      >>> oracle = Oracle(lambda x: jnp.sum(jnp.array([1.0, 4.0]) * x**2) / 2)
      >>> oracle.hvp(jnp.ones(2), jnp.array([0.0, 1.0])).tolist()
      [0.0, 4.0]
      >>> float(oracle.quad(jnp.ones(2), jnp.ones(2)))
      5.0
    """

    def __init__(
        self,
        loss: Callable[[Any], Array],
        *,
        value_and_grad: Callable[[Any], tuple[Array, Any]] | None = None,
        outputs: Callable[[Any], Array] | None = None,
        row_loss: Callable[[Array], Array] | None = None,
        remainder: Callable[[Any], Array] | None = None,
        per_example: Callable[[Any], Array] | None = None,
        fresh: Callable[[Array], "Oracle"] | None = None,
        constraints: Callable[[Any], Any] | None = None,
        lower_bound: Array | float | None = None,
        max_dense_dim: int = 4096,
    ):
        self._loss, self._value_and_grad = loss, value_and_grad
        given = (outputs, row_loss, remainder, per_example, fresh, constraints, lower_bound)
        self._given = {
            name: value for name, value in zip(OPTIONAL, given, strict=True) if value is not None
        }
        self.max_dense_dim = max_dense_dim

    @classmethod
    def composite(
        cls,
        outputs: Callable[[Any], Array],
        row_loss: Callable[[Array], Array],
        remainder: Callable[[Any], Array] | None = None,
        **declared: Any,
    ) -> "Oracle":
        r"""The loss of a model with outputs, which Gauss-Newton methods can use.

        .. math:: f(θ) = \frac{1}{R} \sum_r ℓ_r(h_r(θ)) + \mathrm{remainder}(θ)

        Args:
          outputs: h, as in `Oracle`.
          row_loss: ℓ, as in `Oracle`; data belong to its closure.
          remainder: a prior, a KL divergence; zero if None.
          **declared: other arguments of `Oracle`; ``per_example`` defaults to the rows' losses.
        """
        rest = remainder or (lambda params: jnp.zeros(()))
        declared.setdefault("per_example", lambda params: row_loss(outputs(params)))

        def loss(params: Any) -> Array:
            return jnp.mean(row_loss(outputs(params))) + rest(params)

        return cls(loss, outputs=outputs, row_loss=row_loss, remainder=rest, **declared)

    @property
    def has(self) -> frozenset[str]:
        """Names of what is declared."""
        return frozenset(self._given)

    def _get(self, name: str) -> Any:
        if name not in self._given:
            raise MissingOracleError(
                f"Oracle.{name}: expected a loss that declares it; this one declares "
                f"{sorted(self.has) or 'nothing'}. {_BUILD[name]}"
            )
        return self._given[name]

    def __call__(self, params: Any) -> Float[Array, ""]:
        """The loss."""
        return self._loss(params)

    def value_and_grad(self, params: Any) -> tuple[Float[Array, ""], Any]:
        """The loss and its gradient, a pytree like ``params``."""
        if self._value_and_grad is not None:
            return self._value_and_grad(params)
        return jax.value_and_grad(self._loss)(params)

    def grad(self, params: Any) -> Any:
        """The gradient, a pytree like ``params``."""
        return self.value_and_grad(params)[1]

    def hvp(self, params: Any, v: Any) -> Any:
        """The product of the Hessian with ``v``, a pytree like ``params``; 2 to 3 gradients."""
        return jax.jvp(jax.grad(self._loss), (params,), (v,))[1]

    def linearize(self, params: Any) -> tuple[Any, Callable[[Any], Any]]:
        """The derivative of the loss, and v -> Hv, whose further products cost less than `hvp`."""
        return jax.linearize(jax.grad(self._loss), params)

    def quad(self, params: Any, v: Any) -> Float[Array, ""]:
        """vᵀHv, by two nested forward passes: no memory for a reverse pass."""
        slope = lambda x: jax.jvp(self._loss, (x,), (v,))[1]
        return jax.jvp(slope, (params,), (v,))[1]

    def dense_hessian(self, params: Any) -> Float[Array, "D D"]:
        """The Hessian over the raveled parameters, at least float32; D Hessian-vector products.

        Raises:
          ValueError: if there are more than ``max_dense_dim`` parameters.
        """
        x, flat = self.flat(params)
        if len(x) > self.max_dense_dim:
            raise ValueError(
                f"Oracle.dense_hessian: expected at most max_dense_dim={self.max_dense_dim} "
                f"parameters; got {len(x)}. Use a method that needs products only (psgd, oasis, "
                "fosi, saddle_free_newton with krylov_dim), or raise max_dense_dim."
            )
        product = flat.linearize(x)[1]
        identity = jnp.eye(len(x), dtype=x.dtype)
        if len(x) <= _ROWS:
            hessian = jax.vmap(product)(identity)
        else:
            hessian = jax.lax.map(product, identity, batch_size=_ROWS)
        return (hessian + hessian.T) / 2

    def outputs(self, params: Any) -> Array:
        """Model outputs, shape ``(R,)`` or ``(R, C)``."""
        return self._get("outputs")(params)

    def row_loss(self, outputs: Array) -> Float[Array, " R"]:
        """Losses of the rows of outputs."""
        return self._get("row_loss")(outputs)

    def remainder(self, params: Any) -> Float[Array, ""]:
        """What the loss adds to the mean of the rows' losses."""
        return self._get("remainder")(params)

    def per_example(self, params: Any) -> Float[Array, " N"]:
        """Losses of the examples (data, or Monte Carlo draws)."""
        return self._get("per_example")(params)

    def per_example_grads(self, params: Any) -> Float[Array, "N D"]:
        """Gradients of `per_example` over the raveled parameters; N reverse passes."""
        losses, pull = jax.vjp(self._get("per_example"), params)
        if losses.ndim != 1:
            raise ValueError(
                "Oracle.per_example: expected a vector of losses, one for each example; got shape "
                f"{losses.shape}."
            )
        basis = jnp.eye(len(losses), dtype=losses.dtype)
        return jax.vmap(lambda e: ravel(pull(e)[0])[0])(basis)

    def fresh(self, key: Array) -> "Oracle":
        """The same loss at other randomness."""
        return self._get("fresh")(key)

    def constraints(self, params: Any) -> Any:
        """Residuals of c(x) = 0."""
        return self._get("constraints")(params)

    @property
    def lower_bound(self) -> Array:
        """A number below which the loss cannot fall."""
        return wide(self._get("lower_bound"))

    def restrict(self, params: Any) -> "Oracle":
        """The loss as a function of a part of the parameters, the others fixed.

        ``optax.masked`` and ``optax.partition`` show a transformation its part only, with
        ``optax.MaskedNode`` in place of the rest. The restricted oracle takes such a part, and
        fills the gaps from ``params``; it also takes full parameters, so a training loop can
        always pass ``oracle.restrict(params)``.

        Args:
          params: full parameters.
        """

        def keep(part: Any, grad: Any) -> Any:
            choose = lambda x, g: x if is_masked(x) else g
            return jax.tree.map(choose, part, grad, is_leaf=is_masked)

        return self.after(lambda part: fill(part, params), keep)

    def flat(self, params: Any) -> tuple[Float[Array, " D"], "Oracle"]:
        """The raveled parameters, at least float32, and the loss as a function of such vectors."""
        x, unravel = ravel(params)
        return x, self.after(unravel, lambda _, grad: ravel(grad)[0])

    def after(self, forth: Callable[[Any], Any], back: Callable[[Any, Any], Any]) -> "Oracle":
        """The loss as a function of something that is mapped to its parameters.

        Args:
          forth: from what the new loss takes to the parameters.
          back: from what the new loss takes, and the gradient by the parameters, to its gradient.
        """

        def value_and_grad(x: Any) -> tuple[Array, Any]:
            value, grad = self.value_and_grad(forth(x))
            return value, back(x, grad)

        declared = dict(self._given)
        for name in ("outputs", "remainder", "per_example", "constraints"):
            if name in declared:
                declared[name] = _compose(declared[name], forth)
        if "fresh" in declared:
            declared["fresh"] = lambda key: self.fresh(key).after(forth, back)
        return Oracle(
            _compose(self._loss, forth),
            value_and_grad=value_and_grad if self._value_and_grad is not None else None,
            max_dense_dim=self.max_dense_dim,
            **declared,
        )


_ROWS = 128  # Hessian-vector products that a dense Hessian takes at a time


def _compose(outer: Callable, inner: Callable) -> Callable:
    return lambda x: outer(inner(x))


def as_oracle(value_fn: Any, owner: str, needs: tuple[str, ...] = ()) -> Oracle:
    """The oracle that was passed to an update as ``value_fn``; a plain function becomes one.

    Args:
      value_fn: the argument.
      owner: name of the optimizer, for the message.
      needs: names of what must be declared.

    Returns:
      The oracle.

    Raises:
      MissingOracleError: when tracing, if there is none, or it does not declare what is needed.
    """
    if value_fn is None:
        raise MissingOracleError(
            f"{owner}: expected value_fn, the loss as a function of the parameters, in "
            "update(updates, state, params, value=..., grad=..., value_fn=...); got None. Pass "
            "value_fn=optim.Oracle(loss), or let optim.make_step do so."
        )
    oracle = value_fn if isinstance(value_fn, Oracle) else Oracle(value_fn)
    for name in needs:
        if name not in oracle.has:
            raise MissingOracleError(
                f"{owner}: expected a loss that declares {name}; got one that declares "
                f"{sorted(oracle.has) or 'nothing'}. {_BUILD[name]}"
            )
    return oracle


def stochastic_oracle(loss: Callable[..., Array], **declared: Any) -> Callable[..., Oracle]:
    """Oracles of a loss that takes a key, with ``fresh`` declared.

    Args:
      loss: ``(key, params, *args) -> scalar``.
      **declared: other arguments of `Oracle`. Its functions take the key first, and ``*args``
        last, as the loss does: they are of the same draws and the same minibatch.

    Returns:
      ``(key, *args) -> Oracle``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from optim import stochastic_oracle
      >>> residuals = lambda key, w, x, y: x * w - y
      >>> loss = lambda key, w, x, y: jnp.mean((x * w - y) ** 2)
      >>> oracles = stochastic_oracle(
      ...     loss, outputs=residuals, row_loss=lambda key, h, x, y: h**2,
      ...     remainder=lambda key, w, x, y: jnp.zeros(()),
      ... )
      >>> x, y = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])  # a minibatch
      >>> oracles(jax.random.key(0), x, y).outputs(jnp.ones(()))
      Array([-2., -2.], dtype=float32)
    """

    def make(key: Array, *args: Any) -> Oracle:
        def bound(function: Callable) -> Callable:
            return lambda x: function(key, x, *args)

        given = {k: bound(f) if callable(f) else f for k, f in declared.items()}
        return Oracle(bound(loss), fresh=lambda other: make(other, *args), **given)

    return make
