"""Draws of latent sites together with data that the model simulates, and guides at such data."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.handlers import seed, substitute, trace, uncondition

from vi.errors import TargetError
from vi.program.sites import Guard

stop = jax.lax.stop_gradient


class Simulated(NamedTuple):
    """Arguments of the model that were simulated, with a leading axis of particles."""

    arguments: dict[str, Array]


def simulate(
    model: Callable,
    args: tuple,
    kwargs: dict,
    given: dict[str, Array],
    arguments: tuple[tuple[str, str], ...],
    keys: Array,
) -> tuple[dict[str, Array], Simulated]:
    """Run a model forward, its observed sites included.

    Args:
      model: a NumPyro model.
      args: its arguments.
      kwargs: its keyword arguments.
      given: parameters, and the rows of subsampled plates.
      arguments: pairs of an observed site and the argument that its simulated value replaces.
      keys: one for each particle.

    Returns:
      Latent sites and arguments, with a leading axis of particles; not differentiated.

    Raises:
      TargetError: if a name is not an observed site or an argument.
    """
    named = bind(model, args, kwargs).arguments

    def row(key: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        run = substitute(seed(uncondition(Guard(model)), key), data=given)
        sites = trace(run).get_trace(*args, **kwargs)
        draws = {n: s for n, s in sites.items() if s["type"] == "sample"}
        seen = {n for n, s in draws.items() if s["infer"].get("was_observed")}
        unknown = [
            (site, name) for site, name in arguments if site not in seen or name not in named
        ]
        if unknown:
            raise TargetError(
                f"p.simulate: expected pairs of an observed site, out of {sorted(seen)}, and an "
                f"argument of the model, out of {sorted(named)}; got {unknown}. Name them so."
            )
        data = {name: _placed(named[name], draws[site], sites) for site, name in arguments}
        return {n: s["value"] for n, s in draws.items() if n not in seen}, data

    latent, data = jax.vmap(row)(keys)
    return stop(latent), Simulated(stop(data))


def _placed(whole: Any, site: dict, sites: dict) -> Array:
    """A simulated value in the place of the rows it has of the whole data."""
    value = site["value"]
    rows: list[Any] = [slice(None)] * value.ndim
    for frame in site["cond_indep_stack"]:
        axis = value.ndim - site["fn"].event_dim + frame.dim
        if frame.size != np.shape(whole)[axis]:
            rows[axis] = sites[frame.name]["value"]
    if all(isinstance(index, slice) for index in rows):
        return value
    return jnp.asarray(whole).at[tuple(rows)].set(value)


def bind(model: Callable, args: tuple, kwargs: dict) -> inspect.BoundArguments:
    """The arguments by the model's names for them."""
    return inspect.signature(model).bind(*args, **kwargs)
