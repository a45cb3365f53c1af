"""Pytrees on disk: one npz file, written whole or not at all, read without executing code."""

import json
import os
import pathlib
import shutil
import tempfile
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi.errors import CheckpointError

_FORMAT = 1


class DamagedFileError(CheckpointError):
    """A file that `save` did not write, or not to its end."""


def save(path: str | os.PathLike, tree: Any, meta: dict) -> None:
    """Write a pytree's leaves and a dictionary.

    The file appears under its name only when it is complete; a file that had the name before is
    kept as ``NAME.previous``.

    Args:
      path: where to.
      tree: leaves are arrays, typed keys or numbers.
      meta: anything JSON can hold.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays, kinds = {}, []
    for i, leaf in enumerate(jax.tree.leaves(tree)):
        kind = "array"
        if isinstance(leaf, (bool, int, float)) and not isinstance(leaf, np.generic):
            kind = next(t.__name__ for t in (bool, int, float) if isinstance(leaf, t))
        elif isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            kind = f"key:{jax.random.key_impl(leaf)}"
            leaf = jax.random.key_data(leaf)
        arrays[f"leaf{i}"] = np.asarray(leaf)
        kinds.append(kind)
    text = json.dumps({"format": _FORMAT, "kinds": kinds, "meta": meta})
    arrays["meta"] = np.frombuffer(text.encode(), np.uint8)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        _keep(path)
        os.replace(name, path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike) -> tuple[list, dict]:
    """Read what `save` wrote: the leaves in order, and the dictionary.

    Raises:
      FileNotFoundError: if there is no such file.
      DamagedFileError: if the file is not whole or not ours.
    """
    path = pathlib.Path(path)
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            about = json.loads(bytes(file["meta"]).decode())
            leaves = [_restore(file[f"leaf{i}"], kind) for i, kind in enumerate(about["kinds"])]
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise DamagedFileError(
            f"{path}: expected a complete file written by kullback; got {error}. Delete it, or "
            f"rename {previous(path).name} beside it, if there is one, to its name."
        ) from error
    return leaves, about["meta"]


def load_like(path: str | os.PathLike, like: Any) -> tuple[Any, dict]:
    """Read what `save` wrote into the structure of ``like``.

    Raises:
      CheckpointError: if the number of leaves is another, or the file is not whole.
    """
    leaves, meta = load(path)
    structure = jax.tree.structure(like)
    if structure.num_leaves != len(leaves):
        raise CheckpointError(
            f"{path}: expected {structure.num_leaves} leaves; got {len(leaves)}. "
            "It was written by another kind of fit: delete it or use another path."
        )
    return jax.tree.unflatten(structure, leaves), meta


def previous(path: str | os.PathLike) -> pathlib.Path:
    """Where `save` keeps the file that had the name before."""
    path = pathlib.Path(path)
    return path.with_name(path.name + ".previous")


def _keep(path: pathlib.Path) -> None:
    """Give a file its second name, without a moment in which it has none."""
    if not path.exists():
        return
    kept = path.with_name(path.name + ".kept")
    kept.unlink(missing_ok=True)
    try:
        os.link(path, kept)
    except OSError:  # a file system without links
        shutil.copy2(path, kept)
    os.replace(kept, previous(path))


def _restore(value: np.ndarray, kind: str) -> Any:
    if kind.startswith("key:"):
        return jax.random.wrap_key_data(value, impl=kind.removeprefix("key:"))
    casts = {"bool": bool, "int": int, "float": float}
    return casts[kind](value) if kind in casts else value
