r"""The pseudo-evidence, column by column: the approximation made on the observations.

With S² the sites' precisions, the scaled observations :math:`y = S(λ_1/λ_2 - μ)` have the
covariance :math:`B = I + S K S`. Each is conditioned on its neighbours before it, so that the log
density is a sum over data of which any part can be taken alone.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gp.sic.columns import gather, inverse_columns, masked_blocks
from gp.sic.sums import sum_of_chunks
from gp.sites import Sites
from vi.targets.mesh import mesh_of_rows, whole
from vi.targets.points import over_points


def column_evidence(
    kernel: Any,
    mean: Any,
    inputs: Float[Array, "n D"],
    sites: Sites,
    neighbors: Int[Array, "n m"],
    rows: Int[Array, " B"],
) -> Float[Array, ""]:
    r"""The contributions of some data to the pseudo-evidence, scaled up to all.

    .. math::

       \frac{n}{B} \sum_k \Big( \log u_{kk} - \tfrac12 (u_k^T y_{S_k})^2 \Big)

    with u_k the column of point k for the covariance B. Derivatives in kernel, mean and sites.
    Noise is well represented in this form where it is small against what neighbours leave
    uncertain; sites of zero precision are missing data, contribute nothing and inform nobody.

    Args:
      kernel: the kernel.
      mean: the mean function.
      inputs: by position.
      sites: by position.
      neighbors: of each position, before it; n where there is none.
      rows: positions, such as a random sample.

    Returns:
      The sum, nats: for all rows and m = n - 1, the exact pseudo-evidence.

    Complexity:
      O(B m³), whatever n; memory O(n + B m).

    Reference: Vecchia (1988), "Estimation and model identification for continuous spatial
    processes", equation 5, for observations with noise.
    """
    size = len(inputs)
    known = sites.precision > 0
    root = jnp.where(known, jnp.sqrt(jnp.where(known, sites.precision, 1)), 0)
    linear = sites.linear / jnp.where(known, root, 1)
    rows = jnp.asarray(rows)
    sets = jnp.concatenate([jnp.asarray(neighbors)[rows], rows[:, None]], axis=1)

    def some(parts: tuple, points: Array, s: Array, y: Array, there: Array) -> Array:
        kernel, mean = parts
        y = jnp.where(there, y - s * mean(points), 0)
        blocks = s[:, :, None] * kernel(points, points) * s[:, None, :]
        blocks = masked_blocks(blocks, there) + jnp.eye(sets.shape[1], dtype=y.dtype)
        columns, _ = inverse_columns(blocks)
        terms = jnp.log(columns[:, -1]) - 0.5 * jnp.sum(columns * y, axis=1) ** 2
        return jnp.sum(jnp.where(there[:, -1], terms, 0))

    def local(shared: tuple, sets: Array) -> Array:
        parts, inputs, root, linear = shared
        points = inputs.at[sets].get(mode="clip")
        rows = points, gather(root, sets), gather(linear, sets), sets < size
        return sum_of_chunks(some, parts, rows, (0, 0, 0, False))

    shared = (kernel, mean), inputs, root, linear
    total = over_points(local, shared, whole(sets), mesh_of_rows(), fills=size, total=True)
    return total * (size / len(rows))
