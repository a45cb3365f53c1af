"""A function at many points, its points over the devices of a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec


def over_points(
    function: Callable,
    shared: Any,
    points: Any,
    mesh: Mesh | AbstractMesh | None,
    *,
    fills: Any = None,
    total: bool = False,
) -> Any:
    """``function(shared, points)`` with each device of a mesh at its share of the points.

    Args:
      function: of a pytree and of points, a pytree with leading axes S; one result for each point.
      shared: a pytree, such as a target; whole on every device.
      points: the last is repeated where the devices do not divide S.
      mesh: the mesh; None for no more than a call.
      fills: like ``points``, what is repeated there instead.
      total: the function returns sums over its points, not one result for each.

    Returns:
      What it returns, with leading axes S; or with ``total`` the sum of what it returns.
    """
    if mesh is None:
        return function(shared, points)
    number = len(jax.tree.leaves(points)[0])
    extra = -number % mesh.size
    rows, whole = PartitionSpec(mesh.axis_names), PartitionSpec()

    def pad(x: Any, fill: Any) -> jax.Array:
        more = jnp.broadcast_to(jnp.asarray(fill, x.dtype), (extra, *x.shape[1:]))
        filled = jnp.concatenate([x, more])  # of what is whole everywhere, each takes its part
        return jax.lax.with_sharding_constraint(filled, NamedSharding(mesh, whole))

    def summed(shared: Any, points: Any) -> Any:
        return jax.lax.psum(function(shared, points), mesh.axis_names)

    if extra:
        fills = jax.tree.map(lambda x: x[-1:], points) if fills is None else fills
        points = jax.tree.map(pad, points, fills)
    spread = jax.shard_map(
        summed if total else function,
        mesh=mesh,
        in_specs=(whole, rows),
        out_specs=whole if total else rows,
        check_vma=False,
    )
    found = spread(shared, points)
    return found if total or not extra else jax.tree.map(lambda x: x[:number], found)
