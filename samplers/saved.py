"""Draws in groups on disk: what a file says of them, and of the model that they are of."""

import os
from typing import Any

import numpy as np

from vi import Target, Verdict, storage
from vi.errors import CheckpointError
from vi.provenance import data_digest
from vi.random import host_words
from vi.status import Status


def told(kind: str, group: Any) -> dict[str, Any]:
    """What a file says of a group of draws, whatever they were made by."""
    return {
        **_about(kind, group.target),
        "status": group.status.name,
        "verdict": list(group.verdict),
        "cost": group.cost,
        "key": host_words(group.key),
        "provenance": group.provenance,
    }


def fields(meta: dict) -> dict[str, Any]:
    """The same as it is held in memory, by the names of fields; nothing is known of the start."""
    return {
        "status": Status[meta["status"]],
        "verdict": Verdict(*meta["verdict"]),
        "cost": meta["cost"],
        "key": np.asarray(meta["key"], np.uint32),
        "provenance": meta["provenance"],
        "start": None,
    }


def _about(kind: str, target: Target) -> dict[str, Any]:
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
    for name, value in _about(kind, target).items():
        if meta.get(name) != value:
            raise CheckpointError(
                f"{path}: expected {name} {value!r}; the file has {meta.get(name)!r}. Give the "
                "model and data that were sampled."
            )
    return leaves, meta
