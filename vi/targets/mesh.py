"""Data over the devices of a mesh, for one program on all of them."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from vi.targets.arguments import is_data

_ROWS = "kullback_rows"  # the axis by which a context of `rows_over` is told from a user's own


def shard(data: Any, mesh: Mesh) -> Any:
    """The same data with their rows over the devices of a mesh.

    Arrays whose first axis the number of devices divides are cut along it; all others are on every
    device. Whatever is then computed of them, by `vi.SVI`, an optax loop or a sampler, is one
    program on all devices: XLA sums over the devices where the program sums over rows, so that
    results differ from those of one device by the order of summation only.

    Args:
      data: a pytree of arrays; what is no array of numbers is left as it is.
      mesh: from `jax.make_mesh`; all its axes are used. It may span processes
        (`jax.distributed.initialize`), which then make the same calls with the same data.

    Returns:
      A pytree like ``data``.

    Raises:
      TypeError: if the mesh is none.

    Complexity:
      Each device holds 1 / (number of devices) of the rows.

    Example:
      >>> import jax, numpy as np, vi
      >>> mesh = jax.make_mesh((jax.device_count(),), ("rows",))
      >>> x, y = vi.shard((np.ones((64, 3)), np.ones(64)), mesh)
      >>> x.shape, len(x.sharding.device_set) == jax.device_count()
      ((64, 3), True)
    """
    mesh = plain(mesh)
    return jax.tree.map(lambda x: shard_axis(x, mesh, 0) if is_data(x) else x, data)


def spread(target: Any, mesh: Mesh) -> Any:
    """A target for a mesh: with the rows of its data over it (`shard`), or with its points.

    Where no array of the data can be cut, the devices share the points at which the search for a
    Gaussian takes gradients, and the draws by which a fit is judged.

    Args:
      target: the target.
      mesh: from `jax.make_mesh`.

    Returns:
      The target.

    Raises:
      TypeError: if the mesh is none.
    """
    mesh = plain(mesh)
    if hasattr(target, "rows_over"):
        return dataclasses.replace(target, rows_over=mesh)
    rows = any(divides(mesh, x) for x in target.data)
    data = shard(target.data, mesh)
    return dataclasses.replace(target, data=data, points_over=None if rows else mesh)


def rows_over(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """A context in which what asks `mesh_of_rows` shares its rows among the devices of a mesh.

    It is that of `jax.set_mesh`: functions compiled in it are compiled for it alone, and arrays
    made in it are on every device.

    Args:
      mesh: from `jax.make_mesh`; None for a context that changes nothing.

    Raises:
      TypeError: if the mesh is none.
    """
    if mesh is None:
        return contextlib.nullcontext()
    return jax.set_mesh(Mesh(plain(mesh).devices.reshape(-1), (_ROWS,)))


def as_here(function: Callable | None) -> Callable | None:
    """A function that runs in the mesh context of now, wherever it is called."""
    before = jax.sharding.get_mesh()

    def run(*given: Any) -> Any:
        with jax.set_mesh(before):
            return function(*given)  # type: ignore[misc]

    return run if function else None


def mesh_of_rows() -> AbstractMesh | None:
    """The mesh of a `rows_over` around the caller; None outside, and inside of a device's share."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if _ROWS in mesh.axis_names and not mesh.manual_axes else None


def whole(tree: Any) -> Any:
    """The same arrays, on every device of the `rows_over` around the caller; else as they are."""
    mesh = mesh_of_rows()
    if mesh is None:
        return tree
    if any(isinstance(x, Tracer) for x in jax.tree.leaves(tree)):  # in what is compiled
        sharding = NamedSharding(mesh, PartitionSpec())
        return jax.lax.with_sharding_constraint(tree, sharding)
    sharding = NamedSharding(jax.sharding.get_mesh(), PartitionSpec())
    return jax.tree.map(lambda x: place(x, sharding), tree)


def apart(data: Any) -> Any:
    """`shard` over the `rows_over` around the caller."""
    return shard(data, jax.sharding.get_mesh())


def chosen(data: Any, index: Any) -> Any:
    """Rows of arrays in a compiled function, over the devices of a `rows_over` around it.

    Each device gives the rows that it has, and gets its part of what is chosen: of arrays that are
    cut nothing is gathered but these.

    Args:
      data: a pytree of arrays with rows.
      index: of the rows, ``(B,)``.
    """
    mesh = mesh_of_rows()
    if mesh is None:
        return jax.tree.map(lambda x: x[index], data)
    shared, lax = divides(mesh, index), jax.lax

    def own(x: jax.Array, index: jax.Array) -> jax.Array:
        place = index - lax.axis_index(_ROWS) * len(x)
        here = ((place >= 0) & (place < len(x))).reshape(-1, *(1,) * (x.ndim - 1))
        found = jax.numpy.where(here, x[jax.numpy.clip(place, 0, len(x) - 1)], 0)
        if shared:
            return lax.psum_scatter(found, _ROWS, tiled=True)
        return lax.psum(found, _ROWS)

    rows, whole = PartitionSpec(_ROWS), PartitionSpec()
    out = rows if shared else whole
    common = {"mesh": mesh, "in_specs": (rows, whole), "out_specs": out, "check_vma": False}
    of = jax.shard_map(own, **common)

    def pick(x: jax.Array) -> jax.Array:
        if divides(mesh, x):
            return of(x, index)
        return lax.with_sharding_constraint(x[index], NamedSharding(mesh, out))

    return jax.tree.map(pick, data)


def home(tree: Any) -> Any:
    """The same arrays on the default device, whole; with several processes, all must ask."""
    return jax.tree.map(lambda x: jax.numpy.asarray(on_host(x)), tree)


def divides(mesh: Mesh | AbstractMesh, x: Any, axis: int = 0) -> bool:
    """Whether the devices divide an axis of an array."""
    return np.ndim(x) > axis and np.shape(x)[axis] > 0 and np.shape(x)[axis] % mesh.size == 0


def shard_axis(x: Any, mesh: Mesh, axis: int) -> jax.Array:
    """An array with an axis over the mesh if its devices divide it, else whole on every device."""
    names = (None,) * axis + (mesh.axis_names,) if divides(mesh, x, axis) else ()
    return place(x, NamedSharding(mesh, PartitionSpec(*names)))


def place(x: Any, sharding: NamedSharding) -> jax.Array:
    """An array on the devices of a sharding, also where some belong to other processes."""
    if isinstance(x, jax.Array) and x.sharding == sharding:
        return x
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    if isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
        words = place(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))
    host = on_host(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def on_host(x: Any) -> np.ndarray:
    """The whole of an array, also where parts are with other processes; all must ask for it."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        from jax.experimental.multihost_utils import process_allgather

        x = process_allgather(x, tiled=True)
    return np.asarray(x)


def plain(mesh: Any) -> Mesh:
    """The mesh with axes that XLA handles by itself; those of `jax.make_mesh` ask its users."""
    if not isinstance(mesh, Mesh):
        raise TypeError(
            "vi.shard: expected a jax.sharding.Mesh, such as jax.make_mesh((8,), ('rows',)); "
            f"got {mesh!r}."
        )
    return Mesh(mesh.devices, mesh.axis_names)
