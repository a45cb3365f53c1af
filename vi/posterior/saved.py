"""Families on disk: their structure as JSON, their leaves as arrays."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from vi.errors import CheckpointError
from vi.families import Delta, Gaussian, Mixture
from vi.families.scale import BlockScale, DenseScale, DiagonalScale, LowRankScale
from vi.posterior import evaluate
from vi.targets import Target

# What a file may be made of: names in it are looked up here and nowhere else.
_KINDS = {
    kind.__name__: kind
    for kind in (Delta, Gaussian, Mixture, DiagonalScale, DenseScale, LowRankScale)
}


def describe_structure(q: Any) -> Any:
    """The structure of a family as JSON: class names, static fields, and None for a leaf.

    Raises:
      TypeError: if the family is not one of this library.
    """
    if isinstance(q, BlockScale):
        blocks = [describe_structure(b) for b in q.blocks]
        return {"kind": "BlockScale", "blocks": blocks, "indices": q.indices}
    if type(q).__name__ not in _KINDS:
        raise TypeError(
            f"Posterior.save: expected a family of this library; got {type(q).__name__}. Save its "
            "leaves yourself, for instance with numpy.savez of jax.tree.leaves(posterior.q)."
        )
    fields = {}
    for name in type(q).__dataclass_fields__:
        value = getattr(q, name)
        if isinstance(value, str):
            fields[name] = {"static": value}
        else:
            nested = hasattr(value, "__dataclass_fields__")
            fields[name] = describe_structure(value) if nested else None
    return {"kind": type(q).__name__, "fields": fields}


def rebuild(about: Any, leaves: list) -> Any:
    """The inverse of `describe_structure`; takes its leaves off the front of the list."""
    if about is None:
        return jnp.asarray(leaves.pop(0))
    if "static" in about:
        return about["static"]
    if about["kind"] == "BlockScale":
        blocks = tuple(rebuild(b, leaves) for b in about["blocks"])
        return BlockScale(blocks, tuple(tuple(i) for i in about["indices"]))
    fields = {name: rebuild(field, leaves) for name, field in about["fields"].items()}
    return _KINDS[about["kind"]](**fields)


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
