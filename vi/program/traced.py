"""Traced sites of NumPyro programs, in rows: what a guide's draws are made of."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vi.errors import TargetError


class GuideDraws(dict):
    """Values of a guide's sites, and the rows of its plates, with a leading axis of particles."""

    def __missing__(self, name: str) -> Array:
        """Say which sites there are."""
        raise TargetError(
            f"objective: expected the name of a site that was drawn, out of {sorted(self)}; got "
            f"{name!r}. Name one of these."
        )


jax.tree_util.register_pytree_node(
    GuideDraws,
    lambda z: (tuple(z.values()), tuple(z)),
    lambda names, values: GuideDraws(zip(names, values, strict=True)),
)


def over_rows(f: Callable, in_axes: tuple[int | None, ...], size: int) -> Callable:
    """`jax.vmap`; a single row is computed without it, in whatever is then less memory."""
    if size > 1:
        return jax.vmap(f, in_axes=in_axes, axis_size=size)

    def one(*args: Any) -> Any:
        pick = lambda arg, axis: arg if axis is None else jax.tree.map(lambda x: x[0], arg)
        out = f(*map(pick, args, in_axes))
        return jax.tree.map(lambda x: jnp.asarray(x)[None], out)

    return one


def is_latent(site: dict) -> bool:
    """Whether a traced site is drawn."""
    return site["type"] == "sample" and not site["is_observed"]


def log_prob(site: dict, intermediates: Any = None) -> Array:
    """Log density of a site at its value, ``(*batch,)``, scaled as its plates and handlers say."""
    fn, value = site["fn"], site["value"]
    intermediates = intermediates if intermediates is not None else site["intermediates"]
    if not site["is_observed"] and jnp.shape(value) != tuple(fn.shape()):
        raise TargetError(
            f"objective: expected model and guide to agree on the shape of site '{site['name']}'; "
            f"the model has {tuple(fn.shape())}, the guide {jnp.shape(value)}. Plates and batch "
            "shapes must be the same; particles are not along a plate, they are num_particles."
        )
    found = fn.log_prob(value, intermediates) if intermediates else fn.log_prob(value)
    return found if site["scale"] is None else site["scale"] * found
