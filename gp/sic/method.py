"""The sparse back-end as a method of `gp.fit`."""

from typing import Any

import numpy as np
from jaxtyping import Array, Float

from gp.sic.prior import NUM_NEIGHBORS, SICPrior

LATENT_PER_BLOCK = 32  # ancestors at each scale, where data say little each
NUM_ROWS = 2000  # columns that hyperparameters are trained on


def sic_prior(
    kernel: Any,
    mean: Any,
    x: Float[Array, "N D"],
    *,
    likelihood: Any,
    num_neighbors: int = NUM_NEIGHBORS,
    num_rows: int = NUM_ROWS,
) -> SICPrior:
    """The prior for a likelihood: which evidence trains its hyperparameters best.

    For a Gaussian likelihood it is the one of observations given their neighbours', on a sample of
    columns; for others, whose data say little each, the one of the sparse prior.

    Args:
      kernel: the kernel.
      mean: the mean function.
      x: inputs.
      likelihood: the likelihood.
      num_neighbors: m.
      num_rows: columns in the sample.

    Returns:
      The prior.

    Raises:
      ValueError: for counts that are not positive integers.

    Complexity:
      As of `SICPrior.of`.
    """
    for name, value in (("num_neighbors", num_neighbors), ("num_rows", num_rows)):
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(
                f"gp.fit: expected {name} of method 'sic' to be an integer >= 1; got {value!r}."
            )
    if likelihood.conjugate:
        return SICPrior.of(kernel, mean, x, num_neighbors=num_neighbors, num_rows=num_rows)
    return SICPrior.of(
        kernel, mean, x, num_neighbors=num_neighbors, latent=True, per_block=LATENT_PER_BLOCK
    )
