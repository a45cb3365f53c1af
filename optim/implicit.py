"""Inverse-Hessian products, and gradients through the solution of an optimisation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from optim.oracle import Oracle, as_oracle
from optim.tree import ravel

Solve = Callable[[Any, Any, Any], Any]


def neumann_product(loss: Any, params: Any, v: Any, *, rate: float, num_products: int) -> Any:
    r"""Approximate H⁻¹v by a truncated Neumann series.

    .. math:: H^{-1} v ≈ α \sum_{k=0}^{K} (I - αH)^k v

    It converges if the Hessian is positive definite and 0 < α < 2 / λ_max, and equals the
    gradient through K steps of gradient descent of rate α at their fixed point.

    Args:
      loss: an `Oracle`, or a function of the parameters.
      params: where.
      v: a pytree like ``params``.
      rate: α.
      num_products: K.

    Returns:
      A pytree like ``params``.

    Complexity:
      K Hessian-vector products of one linearisation; memory of two vectors.

    Example:
      >>> import jax.numpy as jnp
      >>> from optim import neumann_product
      >>> loss = lambda x: jnp.sum(jnp.array([1.0, 2.0]) * x**2) / 2
      >>> found = neumann_product(loss, jnp.ones(2), jnp.ones(2), rate=0.5, num_products=60)
      >>> bool(jnp.allclose(found, jnp.array([1.0, 0.5])))
      True

    Reference: Lorraine, Vicol and Duvenaud (2020), "Optimizing millions of hyperparameters by
    implicit differentiation", Algorithm 3.
    """
    x, oracle = as_oracle(loss, "neumann_product").flat(params)
    product = oracle.linearize(x)[1]
    start, unravel = ravel(v)

    def body(_: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        term, total = carry
        term = term - rate * product(term)
        return term, total + term

    _, total = jax.lax.fori_loop(0, num_products, body, (start, start))
    return unravel(rate * total)


def cg_product(
    loss: Any,
    params: Any,
    v: Any,
    *,
    damping: float = 0.0,
    rtol: float = 1e-5,
    max_steps: int | None = None,
) -> Any:
    """(H + damping I)⁻¹ v by conjugate gradients.

    Args:
      loss: an `Oracle`, or a function of the parameters.
      params: where the Hessian is positive definite, at least with the damping.
      v: a pytree like ``params``.
      damping: added to the Hessian's diagonal.
      rtol: relative tolerance on the residual.
      max_steps: products at most; ten times the dimension if None. If they do not suffice the
        last iterate is returned.

    Returns:
      A pytree like ``params``; not finite where the Hessian turns out to be indefinite.

    Raises:
      ImportError: if lineax is not installed.

    Complexity:
      One Hessian-vector product a step, of one linearisation; memory of a few vectors.

    Example:
      >>> import jax.numpy as jnp
      >>> from optim import cg_product
      >>> loss = lambda x: jnp.sum(jnp.array([1.0, 2.0]) * x**2) / 2
      >>> bool(jnp.allclose(cg_product(loss, jnp.ones(2), jnp.ones(2)), jnp.array([1.0, 0.5])))
      True
    """
    try:
        import lineax
    except ImportError as error:
        raise ImportError(
            "cg_product: expected lineax to be installed; it is not. Run pip install "
            "'kullback[linalg]', or use neumann_product."
        ) from error
    x, oracle = as_oracle(loss, "cg_product").flat(params)
    product = oracle.linearize(x)[1]
    right, unravel = ravel(v)
    operator = lineax.FunctionLinearOperator(
        lambda u: product(u) + damping * u,
        jax.eval_shape(lambda: x),
        lineax.positive_semidefinite_tag,
    )
    solver = lineax.CG(rtol=rtol, atol=0.0, max_steps=max_steps or 10 * len(x))
    return unravel(lineax.linear_solve(operator, right, solver, throw=False).value)


def hypergradient(
    inner: Callable[[Any, Any], Array],
    outer: Callable[[Any, Any], Array],
    params: Any,
    hyper: Any,
    *,
    solve: Solve = cg_product,
) -> Any:
    r"""Gradient of an outer loss with respect to hyperparameters, through an inner optimum.

    .. math::

       \frac{d}{dλ} L_o(θ^*(λ), λ) = ∂_λ L_o -
       ∂_λ \left\langle [∇_θ^2 L_i]^{-1} ∇_θ L_o, ∇_θ L_i \right\rangle, \qquad
       θ^*(λ) = \arg\min_θ L_i(θ, λ)

    Args:
      inner: ``(params, hyper) -> scalar``, minimised by ``params``.
      outer: ``(params, hyper) -> scalar``.
      params: θ*, a minimum of the inner loss; the result is only right there.
      hyper: λ, any pytree.
      solve: ``(inner loss of the parameters, params, v) -> H⁻¹v``: `cg_product`, or
        `neumann_product` with its options given.

    Returns:
      A pytree like ``hyper``.

    Complexity:
      That of ``solve``, and two gradients.

    Example:
      >>> import jax.numpy as jnp
      >>> from optim import hypergradient
      >>> inner = lambda x, a: jnp.sum((x - a) ** 2)  # x* = a
      >>> outer = lambda x, a: jnp.sum(x**3)
      >>> hypergradient(inner, outer, jnp.array([2.0]), jnp.array([2.0])).tolist()
      [12.0]

    Reference: Lorraine, Vicol and Duvenaud (2020), "Optimizing millions of hyperparameters by
    implicit differentiation", equations 3 and 4.
    """
    by_params, by_hyper = jax.grad(outer, argnums=(0, 1))(params, hyper)
    product = solve(Oracle(lambda x: inner(x, hyper)), params, by_params)

    def slope(hyper: Any) -> Array:
        grad = jax.grad(inner)(params, hyper)
        parts = jax.tree.map(lambda p, g: jnp.sum(p * g), product, grad)
        return sum(jax.tree.leaves(parts), start=jnp.zeros(()))

    return jax.tree.map(jnp.subtract, by_hyper, jax.grad(slope)(hyper))
