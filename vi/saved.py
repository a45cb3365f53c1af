"""Posteriors on disk: the family and what is known of it, without the model and its data."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi import storage
from vi.diagnostics import Diagnostics
from vi.errors import CheckpointError
from vi.families import Delta, Gaussian, Mixture
from vi.families.scale import BlockScale, DenseScale, DiagonalScale, LowRankScale
from vi.posterior import Posterior
from vi.provenance import data_digest
from vi.psis import Psis
from vi.random import host_words
from vi.status import Status
from vi.target import Target
from vi.target import target as make_target
from vi.verdict import Verdict

# What a file may be made of: names in it are looked up here and nowhere else.
_KINDS = {c.__name__: c for c in (Delta, Gaussian, Mixture, DiagonalScale, DenseScale, LowRankScale)}


def _describe(q: Any) -> Any:
    """The structure of a family as JSON: class names, static fields, and None for a leaf."""
    if isinstance(q, BlockScale):
        blocks = [_describe(b) for b in q.blocks]
        return {"kind": "BlockScale", "blocks": blocks, "indices": q.indices}
    if type(q).__name__ not in _KINDS:
        raise TypeError(
            f"Posterior.save: expected a family of this library; got {type(q).__name__}. Save its "
            "leaves yourself, for instance with numpy.savez of jax.tree.leaves(posterior.q)."
        )
    fields = {}
    for name in type(q).__dataclass_fields__:
        value = getattr(q, name)
        fields[name] = _describe(value) if hasattr(value, "__dataclass_fields__") else None
        if isinstance(value, str):
            fields[name] = {"static": value}
    return {"kind": type(q).__name__, "fields": fields}


def _rebuild(about: Any, leaves: list) -> Any:
    """The inverse of `_describe`, with the leaves in order."""
    if about is None:
        return jnp.asarray(leaves.pop(0))
    if "static" in about:
        return about["static"]
    if about["kind"] == "BlockScale":
        blocks = tuple(_rebuild(b, leaves) for b in about["blocks"])
        return BlockScale(blocks, tuple(tuple(i) for i in about["indices"]))
    fields = {name: _rebuild(field, leaves) for name, field in about["fields"].items()}
    return _KINDS[about["kind"]](**fields)


def save(posterior: Posterior, path: str | os.PathLike) -> None:
    """Write a posterior; see `load`.

    Args:
      posterior: with a family of this library.
      path: where to; a file there is kept as ``NAME.previous``.
    """
    found, layout = posterior.diagnostics, posterior.target.layout
    arrays = {
        "q": posterior.q,
        "draws": [found.draws, found.log_p, found.log_q, found.psis.log_weights],
        "history": [posterior.history["step"], posterior.history["elbo"]],
    }
    numbers = ("elbo", "elbo_sem", "log_evidence", "bad")
    meta = {
        "kind": "posterior",
        "family": _describe(posterior.q),
        "sites": [list(layout.names), [list(s) for s in layout.shapes]],
        "data": data_digest(posterior.target),
        "status": posterior.status.name,
        "verdict": [posterior.verdict.grade, posterior.verdict.text],
        "diagnostics": {name: getattr(found, name) for name in numbers},
        "psis": [found.psis.khat, found.psis.khat_sem, found.psis.effective_sample_size],
        "cost": posterior.cost,
        "rungs": list(posterior.rungs),
        "key": host_words(posterior.key),
        "provenance": posterior.provenance,
    }
    storage.save(path, [arrays["q"], arrays["draws"], arrays["history"]], meta)


def load(path: str | os.PathLike, model: Callable | Target, *args: Any, **kwargs: Any) -> Posterior:
    """Read a posterior that `Posterior.save` wrote.

    No code in the file is executed. The model and data are not in it and must be given again.

    Args:
      path: the file.
      model: the model or log density, or a `Target`.
      *args: arguments of the model.
      **kwargs: keyword arguments of the model.

    Returns:
      The posterior.

    Raises:
      CheckpointError: if the file is not whole or not a posterior, or if the model's sites or
        data are not those it was fitted to.
    """
    leaves, meta = storage.load(path)
    path = pathlib.Path(path)
    if meta.get("kind") != "posterior":
        raise CheckpointError(
            f"{path}: expected a saved posterior; got {meta.get('kind')!r}. A checkpoint of a fit "
            "is continued by vi.fit(..., checkpoint=path)."
        )
    target = make_target(model, *args, **kwargs)
    sites = [list(target.layout.names), [list(s) for s in target.layout.shapes]]
    if sites != meta["sites"]:
        raise CheckpointError(f"{path}: expected a model with sites {meta['sites']}; got {sites}.")
    if data_digest(target) != meta["data"]:
        raise CheckpointError(
            f"{path}: expected the data that the posterior was fitted to; these differ."
        )
    leaves = list(leaves)
    q = _rebuild(meta["family"], leaves)
    draws, log_p, log_q, log_weights, step, elbo = map(np.asarray, leaves)
    khat, khat_sem, size = meta["psis"]
    psis = Psis(khat, khat_sem, log_weights, size)
    found = Diagnostics(draws, log_p, log_q, psis=psis, **meta["diagnostics"])
    return Posterior(
        target=target,
        q=q,
        status=Status[meta["status"]],
        verdict=Verdict(*meta["verdict"]),
        diagnostics=found,
        history={"step": step, "elbo": elbo},
        cost=meta["cost"],
        rungs=tuple(meta["rungs"]),
        key=jax.random.wrap_key_data(np.asarray(meta["key"], np.uint32), impl=_impl(meta["key"])),
        options={},
    )


def _impl(words: list[int]) -> str:
    return "threefry2x32" if len(words) == 2 else "rbg"
