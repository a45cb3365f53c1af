"""Where a result comes from: versions, key, data, cost."""

import functools
import hashlib
import importlib.metadata
import platform
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from vi.random import host_words
from vi.targets import Target


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
    """A digest of the target's data, to tell a fit from one to other data."""
    digest = hashlib.sha256()
    for leaf in target.data:
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


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
