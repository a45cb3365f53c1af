"""Draws of what a NumPyro model says of new data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vi.errors import check_call
from vi.targets import Target
from vi.targets.arguments import is_data


def predicted(
    target: Target, draws: dict[str, Any], key: Array, args: tuple, kwargs: dict, owner: str
) -> dict[str, Array]:
    """Draws of a model's other sites, given draws of its latent ones.

    Args:
      target: of a NumPyro model.
      draws: ``{site: (S, *shape)}``.
      key: a key.
      args: arguments of the model, with ``None`` for what is to be predicted.
      kwargs: keyword arguments of the same.
      owner: who asks.

    Returns:
      ``{site: (S, *shape)}``.

    Raises:
      TypeError: if the target is not a NumPyro model, or the arguments are not its own.
      ValueError: if all other sites are observed.
    """
    from numpyro.infer import Predictive

    model = getattr(target.structure, "model", None)
    if model is None:
        raise TypeError(
            f"{owner}: expected a NumPyro model; the target is a plain log density, which cannot "
            "generate data. Map your function over sample()."
        )
    model = target.with_bound(model)
    try:
        check_call(model, args, kwargs, owner)
    except TypeError as error:
        raise TypeError(
            f"{error} They are not those of the fit but those of what is predicted: inputs, old or "
            "new, and None for the observations."
        ) from None
    as_jax = lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) and is_data(x) else x
    args, kwargs = jax.tree.map(as_jax, (args, kwargs))  # NumPy's take no traced indices
    given = _given(model, {k: v[0] for k, v in draws.items()}, key, args, kwargs)
    if given:
        raise ValueError(
            f"{owner}: expected None for the observations to be predicted; got data for "
            f"{', '.join(given)}, which would come back as they are."
        )
    return Predictive(model, draws)(key, *args, **kwargs)


def _given(model: Callable, latent: dict, key: Array, args: tuple, kwargs: dict) -> list[str]:
    """Observed sites, if a model called so has no others beside the latent ones."""
    from numpyro import handlers

    found: dict[str, bool] = {}

    def run() -> None:
        known = handlers.substitute(handlers.seed(model, key), data=latent)
        sites = handlers.trace(known).get_trace(*args, **kwargs)
        for name, site in sites.items():
            if name not in latent and site["type"] in ("sample", "deterministic"):
                found[name] = site["type"] == "sample" and bool(site["is_observed"])

    jax.eval_shape(run)
    return list(found) if all(found.values()) else []
