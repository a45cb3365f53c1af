"""Closed forms at the sites of a guide: entropies, and divergences from the sites of the model.

Entropies are those of NumPyro's distributions, divergences NumPyro's ``kl_divergence``, in which
further pairs of distributions can be registered.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions.kl import kl_divergence

from vi.errors import TargetError
from vi.program.rules import unwrap


def entropy(fn: Any) -> Array | None:
    """Entropy of a NumPyro distribution, ``(*batch,)``; None if it has no closed form."""
    if isinstance(fn, dist.Independent):
        inner = entropy(fn.base_dist)
        count = fn.reinterpreted_batch_ndims
        return None if inner is None else inner.sum(tuple(range(-count, 0)))
    if isinstance(fn, dist.ExpandedDistribution):
        inner = entropy(fn.base_dist)
        return None if inner is None else jnp.broadcast_to(inner, fn.batch_shape)
    try:
        return jnp.broadcast_to(jnp.asarray(fn.entropy()), fn.batch_shape)
    except NotImplementedError:
        return None


def divergence(ours: dict, theirs: dict) -> Array | None:
    """KL divergence of a traced site of a guide from that of the model; None without a rule."""
    if ours["fn"].event_shape != theirs["fn"].event_shape or not _alike(ours, theirs):
        return None
    try:
        return kl_divergence(ours["fn"], theirs["fn"])
    except NotImplementedError:
        return None


class BySite(NamedTuple):
    """A functional of the laws of some sites: what `vi.program.handed.FamilyView.by_site` asks for.

    Attributes:
      f: maps the distributions of a site in guide and model to ``(*batch,)``.
      sites: their names.
      fixed: whether their laws must not depend on draws or on the rows of a minibatch.
    """

    f: Callable[[Any, Any], Array]
    sites: tuple[str, ...]
    fixed: bool


def pieces(side: Any, guide: dict, model: dict, below: Callable[[str], set[str]]) -> dict:
    """Closed forms of the sites of a traced guide that have one, ``{name: (*batch,)}``.

    Args:
      side: ``"entropy"``, ``"kl"`` or a `BySite`.
      guide: the trace of the guide.
      model: the trace of the model at the guide's values; empty where it is not needed.
      below: the sites that the model's law of a site depends on and that the guide draws after it.

    Raises:
      TargetError: if sites that were asked for by name cannot be had.
    """
    out = {}
    for name, site in guide.items():
        if not _random(site):
            continue
        if side == "entropy":
            found = entropy(site["fn"])
        elif name not in model or below(name) or not _random(model[name]):
            found = None
        elif side == "kl":
            found = divergence(site, model[name])
        else:
            wanted = name in side.sites and _alike(site, model[name])
            found = side.f(site["fn"], model[name]["fn"]) if wanted else None
        if found is not None:
            out[name] = found if site["scale"] is None else site["scale"] * found
    missing = sorted(set(side.sites) - out.keys()) if isinstance(side, BySite) else []
    if missing:
        raise TargetError(
            f"objective: expected random sites that guide and model share, in the same plates, "
            f"with laws in the model that do not depend on sites the guide draws after them; "
            f"{missing[0]!r} is not such a site. The guide has {sorted(guide)}."
        )
    return out


def _random(site: dict) -> bool:
    latent = site["type"] == "sample" and not site["is_observed"]
    return latent and not isinstance(unwrap(site["fn"]), dist.Delta)


def _alike(ours: dict, theirs: dict) -> bool:
    """Whether two sites are in the same plates and count as often."""
    frames = [{(f.name, f.dim) for f in s["cond_indep_stack"]} for s in (ours, theirs)]
    a, b = ours["scale"], theirs["scale"]
    return frames[0] == frames[1] and (a is b or (_number(a) and _number(b) and a == b))


def _number(x: Any) -> bool:
    return isinstance(x, (int, float))
