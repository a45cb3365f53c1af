"""Families on disk: their structure as JSON, their leaves as arrays."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi.errors import CheckpointError
from vi.families import Delta, Gaussian, Mixture
from vi.families.scale import BlockScale, DenseScale, DiagonalScale, LowRankScale
from vi.posterior import evaluate
from vi.targets import Target
from vi.upstairs import flow_kinds

# What a file may be made of: names in it are looked up here, or among the flows, nowhere else.
_KINDS = {
    kind.__name__: kind
    for kind in (Delta, Gaussian, Mixture, DiagonalScale, DenseScale, BlockScale, LowRankScale)
}


def _kind(name: str) -> type | None:
    return _KINDS[name] if name in _KINDS else flow_kinds().get(name)


def describe_structure(q: Any) -> Any:
    """The structure of a family as JSON: class names, static fields, and None for a leaf.

    Raises:
      TypeError: if the family is not one of this library.
    """
    if q is None:
        return {"static": None}
    if isinstance(q, tuple):
        return {"tuple": [describe_structure(x) for x in q]}
    if isinstance(q, (jax.Array, np.ndarray)):
        return None
    kind = type(q)
    known = _kind(kind.__name__) is kind
    fields = {}
    for field in dataclasses.fields(q) if known else ():
        value = getattr(q, field.name)
        is_static = field.metadata.get("static")
        known = known and not (is_static and callable(value))
        fields[field.name] = {"static": value} if is_static else describe_structure(value)
    if not known:
        raise TypeError(
            f"Posterior.save: expected a family of this library; got {kind.__name__}. Save its "
            "leaves yourself, for instance with numpy.savez of jax.tree.leaves(posterior.q)."
        )
    return {"kind": kind.__name__, "fields": fields}


def rebuild(about: Any, leaves: list) -> Any:
    """The inverse of `describe_structure`; takes its leaves off the front of the list.

    Raises:
      CheckpointError: if the file names a class that is none of this library's.
    """
    if about is None:
        return jnp.asarray(leaves.pop(0))
    if "static" in about:
        return _hashable(about["static"])
    if "tuple" in about:
        return tuple(rebuild(x, leaves) for x in about["tuple"])
    kind = _kind(about["kind"])
    if kind is None:
        raise CheckpointError(
            f"Posterior.load: expected a family of this library; got {about['kind']!r}. The file "
            "was written by a later version."
        )
    fields = {name: rebuild(field, leaves) for name, field in about["fields"].items()}
    return kind(**fields)


def _hashable(value: Any) -> Any:
    """A static field as it was before JSON made lists of tuples."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def check_density(path: Any, target: Target, draws: np.ndarray, log_p: np.ndarray) -> None:
    """Raise a `CheckpointError` if a target's density at saved draws is not the saved one."""
    some = slice(64)
    now = np.asarray(evaluate.log_density(target, draws[some].astype(target.layout.dtype)), float)
    coarse = max(np.finfo(dtype).eps for dtype in (log_p.dtype, target.layout.dtype))
    close = 1e3 * coarse * max(1.0, np.abs(log_p[some][np.isfinite(log_p[some])]).max(initial=0.0))
    if not np.allclose(now, log_p[some], rtol=0, atol=close, equal_nan=True):
        raise CheckpointError(
            f"{path}: expected the model that the posterior was fitted to; its log density at the "
            f"first saved draw was {log_p[0]:.6g}, and is {now[0]:.6g} with this one. Give the "
            "same model, and the data that it reads."
        )
