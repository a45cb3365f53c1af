"""A function at many points, its points over the devices of a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec


def over_points(function: Callable, shared: Any, points: Any, mesh: Mesh | None) -> Any:
    """``function(shared, points)`` with each device of a mesh at its share of the points.

    Args:
      function: of a pytree and of points, a pytree with leading axes S; one result for each point.
      shared: a pytree, such as a target; whole on every device.
      points: the last is repeated where the devices do not divide S.
      mesh: the mesh; None for no more than a call.

    Returns:
      What it returns, with leading axes S.
    """
    if mesh is None:
        return function(shared, points)
    number = len(jax.tree.leaves(points)[0])
    extra = -number % mesh.size
    pad = lambda x: jnp.concatenate([x, jnp.broadcast_to(x[-1:], (extra, *x.shape[1:]))])
    rows, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    spread = jax.shard_map(
        function, mesh=mesh, in_specs=(whole, rows), out_specs=rows, check_vma=False
    )
    return jax.tree.map(lambda x: x[:number], spread(shared, jax.tree.map(pad, points)))
