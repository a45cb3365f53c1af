"""A deterministic estimate of what one evaluation of a log density costs."""

import math
from typing import Any

import jax

_DEAR = {
    "exp", "log", "log1p", "expm1", "tanh", "logistic", "sin", "cos", "tan", "pow", "erf",
    "erf_inv", "lgamma", "digamma", "sqrt", "rsqrt", "atan2", "igamma", "random_gamma",
}  # fmt: skip
_CUBIC = {"cholesky", "triangular_solve", "lu", "eigh", "svd", "qr", "geqrf"}
_UNKNOWN_TRIPS = 10  # assumed for a while loop, whose length is not in the program


def count_operations(jaxpr: Any) -> float:
    """Scalar operations of a jaxpr: dear ones count ten, loops their length.

    It is a count, not a time: the same on every machine, so that choices which depend on it
    (how many draws to diagnose with) are reproducible.

    Args:
      jaxpr: from `jax.make_jaxpr`.

    Returns:
      The count.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        size = sum(math.prod(getattr(v.aval, "shape", ())) for v in equation.outvars)
        inner = [count_operations(j) for j in _inner(params)]
        if name == "scan":
            total += params["length"] * sum(inner)
        elif name == "while":
            total += _UNKNOWN_TRIPS * sum(inner)
        elif name == "cond":
            total += max(inner, default=0.0)
        elif inner:
            total += sum(inner)
        elif name == "dot_general":
            contracted = params["dimension_numbers"][0][0]
            shape = equation.invars[0].aval.shape
            total += 2 * size * math.prod(shape[i] for i in contracted)
        elif name in _CUBIC:
            total += size * equation.invars[0].aval.shape[-1] / 3
        else:
            total += size * (10 if name in _DEAR else 1)
    return total


def _inner(params: dict) -> list:
    found = []
    for value in jax.tree.leaves(params, is_leaf=lambda x: hasattr(x, "eqns")):
        if hasattr(value, "eqns"):
            found.append(value)
        elif hasattr(getattr(value, "jaxpr", None), "eqns"):
            found.append(value.jaxpr)
    return found
