"""Where a result comes from: versions, key, data, cost."""

import functools
import hashlib
import importlib.metadata
import platform
import re
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from vi.random import host_words
from vi.targets import StreamedTarget, Target
from vi.targets.mesh import on_host


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("kullback", "jax", "jaxlib", "numpyro", "optax", "numpy")
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def key_words(key: Array) -> list[int]:
    """The key's data, as integers."""
    return host_words(key)


def data_digest(target: Target) -> str:
    """A digest of the target's data, to tell a fit from one to other data.

    Of `vi.Rows` it is of their shapes and of rows from everywhere, not of all.
    """
    digest = hashlib.sha256()
    base: Any = target
    while hasattr(base, "base"):
        base = base.base
    rows = isinstance(base, StreamedTarget)
    if rows:
        digest.update(repr([x.shape for x in base.source.rows]).encode())
    for leaf in (*target.data, *(base.source.some_rows() if rows else ())):
        digest.update(_bytes(leaf))
    return digest.hexdigest()[:16]


def program_digest(function: Callable, *args: Any) -> str:
    """A digest of what a function computes: its program for these arguments, and its constants.

    Equal in another process; it changes with the code, with what the code reads, with shapes
    and dtypes, and with the version of JAX.
    """
    shapes = jax.eval_shape(lambda *args: args, *args)  # wherever the arrays are
    program = jax.make_jaxpr(function)(*shapes)
    digest = hashlib.sha256(re.sub("0x[0-9a-f]+", "", str(program)).encode())
    for constant in program.consts:
        digest.update(_bytes(constant))
    return digest.hexdigest()[:16]


def tree_digest(tree: Any) -> str:
    """A digest of the structure and the leaves of a pytree."""
    digest = hashlib.sha256(str(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        digest.update(_bytes(leaf))
    return digest.hexdigest()[:16]


def model_digest(target: Any) -> str:
    """A digest of a target's log density as a program: of the model, not of its data."""
    z = jax.ShapeDtypeStruct((target.dim,), target.layout.dtype)
    return program_digest(target.log_density, z)


def _bytes(leaf: Any) -> bytes:
    if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = on_host(leaf)
    return f"{array.dtype}{array.shape}".encode() + array.tobytes()


def provenance(target: Target, key: Array, options: dict[str, Any]) -> dict[str, Any]:
    """What a reader needs to make a fit again."""
    return {
        "versions": versions(),
        "key": key_words(key),
        "data": data_digest(target),
        "dtype": target.layout.dtype,
        "backend": jax.default_backend(),
        "options": {name: repr(value) for name, value in options.items() if value is not None},
    }
