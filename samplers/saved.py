"""Draws in groups on disk: what a file says of the model that they are of."""

import os
from typing import Any

from vi import Target, storage
from vi.errors import CheckpointError
from vi.provenance import data_digest


def about(kind: str, target: Target) -> dict[str, Any]:
    """What a file must agree on with the model and the data it is read for."""
    layout = target.layout
    return {
        "kind": kind,
        "sites": [list(layout.names), [list(shape) for shape in layout.shapes]],
        "data": data_digest(target),
    }


def read(path: str | os.PathLike, kind: str, target: Target) -> tuple[list, dict]:
    """The arrays and the dictionary of a file, for a target.

    Raises:
      CheckpointError: if the file is not whole or not of this kind, or if the model's sites or
        data are not those that were sampled.
    """
    leaves, meta = storage.load(path)
    for name, value in about(kind, target).items():
        if meta.get(name) != value:
            raise CheckpointError(
                f"{path}: expected {name} {value!r}; the file has {meta.get(name)!r}. Give the "
                "model and data that were sampled."
            )
    return leaves, meta
