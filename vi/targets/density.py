"""A plain log density over a pytree as a target."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vi.errors import TargetError
from vi.targets.arguments import Arguments
from vi.targets.cost import Cost
from vi.targets.layout import Layout


class PlainDensity:
    """The static half of a target given as ``log_density(point, *args, **kwargs)``."""

    plates: dict = {}  # noqa: RUF012 - a plain density has no plates
    all_rows = True

    def __init__(self, function: Callable, arguments: Arguments, point: Any, data: list):
        """Learn the structure of the point.

        Args:
          function: the log density.
          arguments: the static part of the arguments after the point.
          point: an example point, any pytree of floating-point arrays.
          data: the data leaves after the point.

        Raises:
          TargetError: if the point has no leaves or a leaf is not floating-point.
        """
        self.function = function
        self.arguments = arguments
        leaves = jax.tree_util.tree_leaves_with_path(point)
        names = [jax.tree_util.keystr(p, simple=True, separator=".") or "x" for p, _ in leaves]
        for name, (_, leaf) in zip(names, leaves, strict=True):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TargetError(
                    f"vi.target: expected an example point of floating-point arrays; got '{name}' "
                    f"with dtype {jnp.result_type(leaf)}. Pass for instance jnp.zeros(3)."
                )
        dtypes = [jnp.result_type(leaf) for _, leaf in leaves]
        self.treedef = jax.tree.structure(point)
        self.layout = Layout(
            tuple(names),
            tuple(jnp.shape(leaf) for _, leaf in leaves),
            jnp.result_type(*dtypes).name if dtypes else "float32",
        )
        if not self.layout.dim:
            raise TargetError(
                "vi.target: expected an example point with at least one coordinate; got D = 0. "
                "Pass an array or pytree with the shape of a draw."
            )
        z = jax.ShapeDtypeStruct((self.layout.dim,), self.layout.dtype)
        self.cost = Cost.of(jax.make_jaxpr(self.log_density)(data, z).jaxpr)

    def _point(self, z: jax.Array) -> Any:
        return jax.tree.unflatten(self.treedef, self.layout.unravel(z).values())

    def log_density(self, data: list, z: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Log density at one vector ``z`` of shape ``(D,)``, in nats; ``key`` has no use here."""
        del key
        args, kwargs = self.arguments.join(data)
        return self.function(self._point(z), *args, **kwargs)

    def constrain(self, data: list, z: jax.Array) -> dict[str, jax.Array]:
        """The leaves of the point by name: a plain density lives on all of the reals."""
        del data
        return self.layout.unravel(z)

    def unconstrain(self, data: list, values: dict[str, jax.Array]) -> jax.Array:
        """The vector of the given leaves: the inverse of `constrain`."""
        del data
        return self.layout.ravel(values)

    def prior_point(self, data: list) -> jax.Array:
        """Zero: a plain density has no prior."""
        del data
        return jnp.zeros(self.layout.dim, self.layout.dtype)

    def observed(self, data: list) -> dict[str, jax.Array]:
        """Nothing: a plain density does not say which of its arguments were observed."""
        del data
        return {}

    def log_jacobian(self, data: list, z: jax.Array) -> jax.Array:
        """Zero: nothing is transformed."""
        del data
        return jnp.zeros((), z.dtype)

    def log_factors(self, data: list, z: jax.Array) -> dict[str, jax.Array]:
        """The whole log density under one name, as there are no sites to tell apart."""
        return {"log density": self.log_density(data, z)}
