"""Data of several outputs as rows of one, and means for them."""

from typing import Any

import jax.numpy as jnp
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
    at = np.asarray(x)
    at = at[:, None] if at.ndim == 1 else at
    at = at.astype(np.float32 if at.dtype == np.float32 else float)
    if y is None:
        if num_outputs is None or num_outputs < 1:
            raise ValueError("gp.stack_outputs: expected targets, or num_outputs >= 1; got none.")
        y = jnp.zeros((len(at), num_outputs), at.dtype)
    table = np.asarray(y, at.dtype)
    if table.ndim != 2 or len(table) != len(at):
        raise ValueError(
            f"gp.stack_outputs: expected targets of shape ({len(at)}, P), a column an output; "
            f"got {table.shape}."
        )
    count = table.shape[1]
    number = np.repeat(np.arange(count), len(at)).astype(at.dtype)
    rows, targets = np.column_stack([np.tile(at, (count, 1)), number]), table.T.reshape(-1)
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
