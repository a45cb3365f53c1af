"""Telling a user which site, and which observation, makes a log density non-finite."""

import warnings

import jax
import numpy as np

from vi.targets.target import Target


def explain(target: Target, z: jax.Array) -> str:
    """Say which factors of the log density, or which coordinates of its gradient, are not finite.

    Args:
      target: the target.
      z: a point, shape ``(D,)``, at which something is not finite.

    Returns:
      One or more sentences that name the sites, and the first elements at fault in each.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPyro warns of what the sentences below say better
        evaluate = jax.jit(target.structure.log_factors)  # traced: NumPyro checks no values
        factors = jax.tree.map(np.asarray, evaluate(target.data, z))
    said = []
    for name, value in factors.items():
        bad = np.argwhere(~np.isfinite(value))
        if len(bad):
            where = f" at index {_index(bad[0])}" if value.ndim else ""
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            first = value[tuple(bad[0])] if value.ndim else value
            said.append(f"the log density of site '{name}' is {first}{where}{more}")
    if not said:
        gradient = np.asarray(target.value_and_grad(z)[1])
        bad = np.flatnonzero(~np.isfinite(gradient))
        names = ", ".join(target.layout.coordinate(int(i)) for i in bad[:5])
        said.append(
            f"every factor is finite, but the gradient is not in: {names}"
            if len(bad)
            else "no single factor is to blame at the point looked at"
        )
    for position, leaf in enumerate(target.data):
        values = np.asarray(leaf) if not _is_key(leaf) else np.zeros(())
        wrong = np.argwhere(~np.isfinite(values)) if values.dtype.kind in "fc" else []
        if len(wrong):
            said.append(
                f"array argument number {position} (shape {list(values.shape)}) has {len(wrong)} "
                f"non-finite values, the first at index {_index(wrong[0])}"
            )
    return "; ".join(said)


def _is_key(leaf: jax.Array) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _index(row: np.ndarray) -> str:
    return str(int(row[0])) if len(row) == 1 else str(tuple(map(int, row)))
