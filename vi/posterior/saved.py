"""Families on disk: their structure as JSON, their leaves as arrays."""

from typing import Any

import jax.numpy as jnp

from vi.families import Delta, Gaussian, Mixture
from vi.families.scale import BlockScale, DenseScale, DiagonalScale, LowRankScale

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
