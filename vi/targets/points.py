"""A function at many points, its points over the devices of a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec


def over_points(function: Callable, target: Any, z: jax.Array, mesh: Mesh | None) -> Any:
    """``function(target, z)`` with each device of a mesh at its share of the points.

    Args:
      function: of a target and points of shape ``(S, D)``; one result for each point.
      target: a pytree, whole on every device.
      z: shape ``(S, D)``; the last is repeated where the devices do not divide S.
      mesh: the mesh; None for no more than a call.

    Returns:
      What it returns, with leading axes S.
    """
    if mesh is None:
        return function(target, z)
    extra = -len(z) % mesh.size
    padded = jnp.concatenate([z, jnp.broadcast_to(z[-1:], (extra, z.shape[1]))])
    rows, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    spread = jax.shard_map(function, mesh=mesh, in_specs=(whole, rows), out_specs=rows)
    return jax.tree.map(lambda x: x[: len(z)], spread(target, padded))
