"""Mistakes with observations, seen when a model is traced."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from vi.errors import TargetError


def check_shapes(name: str, site: dict) -> None:
    """Refuse observations that broadcast against their distribution as in an outer product.

    A column ``y`` of shape (N, 1) against means of shape (N,) is N² terms, with no error from
    NumPy or NumPyro.

    Args:
      name: of the site.
      site: an observed site of a trace.

    Raises:
      TargetError: if the shape of both together is that of neither.
    """
    given, expected = jnp.shape(site["value"]), site["fn"].shape()
    try:
        joint = np.broadcast_shapes(given, expected)
    except ValueError:
        return  # NumPyro's own error says more
    if joint not in (given, expected):
        raise TargetError(
            f"vi.target: expected observations of site '{name}' that fit its distribution; obs has "
            f"shape {given} and the distribution {expected}, which would broadcast to {joint}, "
            "every observation against every mean. Give both one shape, for instance by "
            "y.squeeze(-1)."
        )


def kind_of(fn: Any) -> str:
    """The name of a distribution, without what NumPyro wraps it in."""
    while isinstance(fn, (dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)):
        fn = fn.base_dist
    return type(fn).__name__
