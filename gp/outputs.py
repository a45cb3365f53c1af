"""Data of several outputs as rows of one, and means for them."""

from typing import Any

import numpy as np
from jaxtyping import Array, Float

from gp.kernels.coregional import of_output
from vi.module import module


def stack_outputs(
    x: Float[Array, "N D"], y: Float[Array, "N P"] | None = None, *, num_outputs: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One row for each input and output, with the output's number as the last coordinate.

    Args:
      x: inputs.
      y: targets, NaN where an output was not observed; such rows are left out.
      num_outputs: P, where there are no targets: all rows, output by output.

    Returns:
      Inputs ``(K, D + 1)`` and targets ``(K,)``, zeros if there are none.

    Raises:
      ValueError: if shapes do not go together.

    Example:
      >>> import gp, numpy as np
      >>> rows, targets = gp.stack_outputs(np.arange(2.0), np.array([[1.0, 2.0], [3.0, np.nan]]))
      >>> rows.tolist(), targets.tolist()
      ([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [1.0, 3.0, 2.0])
    """
    x = np.asarray(x)
    x = (x[:, None] if x.ndim == 1 else x).astype(np.float32 if x.dtype == np.float32 else float)
    if y is None:
        if num_outputs is None or num_outputs < 1:
            raise ValueError("gp.stack_outputs: expected targets, or num_outputs >= 1; got none.")
        y = np.zeros((len(x), num_outputs), x.dtype)
    y = np.asarray(y, x.dtype)
    if y.ndim != 2 or len(y) != len(x):
        raise ValueError(
            f"gp.stack_outputs: expected targets of shape ({len(x)}, P), a column for each output; "
            f"got {y.shape}."
        )
    count = y.shape[1]
    number = np.repeat(np.arange(count), len(x)).astype(x.dtype)
    rows, targets = np.column_stack([np.tile(x, (count, 1)), number]), y.T.reshape(-1)
    there = ~np.isnan(targets)
    return rows[there], targets[there]


@module
class OutputMeans:
    """A constant for each output, whose number is the inputs' last coordinate.

    Args:
      constants: shape ``(P,)``; trained.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> gp.OutputMeans(jnp.asarray([5.0, 7.0]))(jnp.asarray([[0.3, 1.0], [0.3, 0.0]])).tolist()
      [7.0, 5.0]
    """

    constants: Float[Array, " P"]

    def __call__(self, x: Float[Array, "N D"]) -> Any:
        """Values."""
        return of_output(self.constants, x)
