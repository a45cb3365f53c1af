"""A deterministic estimate of what one evaluation of a log density costs."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

_DEAR = {
    "exp", "log", "log1p", "expm1", "tanh", "logistic", "sin", "cos", "tan", "pow", "erf",
    "erf_inv", "lgamma", "digamma", "sqrt", "rsqrt", "atan2", "igamma", "random_gamma",
}  # fmt: skip
_CUBIC = {"cholesky", "triangular_solve", "lu", "eigh", "svd", "qr", "geqrf"}
_UNKNOWN_TRIPS = 10  # assumed for a while loop, whose length is not in the program
_LOOPS = ("scan", "while")
_SMALL = 2e4  # operations of an evaluation that does not fill the vector units by itself
_DENSE = 1 / 3  # share of linear algebra from which it is what costs
_AT_ONCE = 256  # points, to bound memory


class Cost(NamedTuple):
    """What one evaluation of a log density costs, and what of."""

    operations: float
    dense: float  # those of matrix products and factorisations
    loops: bool

    @classmethod
    def of(cls, jaxpr: Any) -> "Cost":
        """The cost of a jaxpr, from `jax.make_jaxpr`."""
        dense = count_operations(jaxpr, only=("dot_general", *_CUBIC))
        return cls(count_operations(jaxpr), dense, _has_loops(jaxpr))

    @property
    def in_turns(self) -> bool:
        """Whether gradients at many points are best taken one after another.

        Of many side by side XLA's CPU backend makes arrays that leave the caches, and scatters
        that it does not fuse. Measured, gradients in turns take 0.1 to 0.8 of the time for
        likelihoods with gathers and for mixtures, but twice or more for those that are mostly
        linear algebra and for small ones, and six times for loops. Values alone are always faster
        side by side.
        """
        small = self.operations < _SMALL or self.dense > _DENSE * self.operations
        return jax.default_backend() == "cpu" and not small and not self.loops

    def map(self, gradient: Callable, points: jax.Array) -> Any:
        """A function at many points, side by side or in turns by what is faster.

        Args:
          gradient: of a point of shape ``(D,)``; takes a gradient of what has this cost.
          points: shape ``(S, D)``.

        Returns:
          What it returns, with a leading axis S.
        """
        if self.in_turns:
            return jax.lax.map(gradient, points)
        if len(points) > _AT_ONCE:
            return jax.lax.map(gradient, points, batch_size=_AT_ONCE)
        return jax.vmap(gradient)(points)


def count_operations(jaxpr: Any, only: tuple[str, ...] = ()) -> float:
    """Scalar operations of a jaxpr: dear ones count ten, loops their length.

    It is a count, not a time: the same on every machine, so that choices which depend on it
    (how many draws to diagnose with) are reproducible.

    Args:
      jaxpr: from `jax.make_jaxpr`.
      only: primitives to count; all if not given.

    Returns:
      The count.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        size = sum(math.prod(getattr(v.aval, "shape", ())) for v in equation.outvars)
        inner = [count_operations(j, only) for j in _inner(params)]
        if name == "scan":
            total += params["length"] * sum(inner)
        elif name == "while":
            total += _UNKNOWN_TRIPS * sum(inner)
        elif name == "cond":
            total += max(inner, default=0.0)
        elif inner:
            total += sum(inner)
        elif only and name not in only:
            continue
        elif name == "dot_general":
            contracted = params["dimension_numbers"][0][0]
            shape = equation.invars[0].aval.shape
            total += 2 * size * math.prod(shape[i] for i in contracted)
        elif name in _CUBIC:
            total += size * equation.invars[0].aval.shape[-1] / 3
        else:
            total += size * (10 if name in _DEAR else 1)
    return total


def _has_loops(jaxpr: Any) -> bool:
    return any(
        equation.primitive.name in _LOOPS or any(map(_has_loops, _inner(equation.params)))
        for equation in jaxpr.eqns
    )


def _inner(params: dict) -> list:
    found = []
    for value in jax.tree.leaves(params, is_leaf=lambda x: hasattr(x, "eqns")):
        if hasattr(value, "eqns"):
            found.append(value)
        elif hasattr(getattr(value, "jaxpr", None), "eqns"):
            found.append(value.jaxpr)
    return found
