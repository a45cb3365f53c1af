"""Data as users give them, checked and brought to one form; on the host."""

from typing import Any, Literal

import jax
import numpy as np

Missing = Literal["raise", "ignore"]


def host_dtype() -> np.dtype:
    """The floating-point type that JAX computes in: float64 where it is enabled, else float32."""
    return np.dtype(jax.dtypes.canonicalize_dtype(np.float64))


def as_inputs(x: Any, owner: str, columns: int | None = None) -> np.ndarray:
    """Finite inputs of shape ``(N, D)``; a vector is N inputs of one coordinate.

    The precision is that of the data if they are floating, and JAX allows it.

    Raises:
      ValueError: if the shape is another, there are none, or one is not finite.
    """
    x = np.asarray(x)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or not x.size:
        raise ValueError(
            f"{owner}: expected inputs of shape (N, D) or (N,), not empty; got {x.shape}. "
            "Give one row for each point."
        )
    if columns is not None and x.shape[1] != columns:
        raise ValueError(
            f"{owner}: expected inputs of {columns} coordinates, as those of the data; got shape "
            f"{x.shape}."
        )
    x = _numbers(x, "inputs", owner)
    kept = x.dtype if x.dtype in (np.float32, np.float64) else np.float64
    x = x.astype(np.promote_types(jax.dtypes.canonicalize_dtype(kept), np.float32))
    wrong = ~np.isfinite(x).all(1)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"{owner}: expected finite inputs; got x[{i}] = {x[i]}. Drop such rows, or fill them."
        )
    return x


def _numbers(values: np.ndarray, name: str, owner: str) -> np.ndarray:
    """Real numbers; raise a `TypeError` for what is none, such as text."""
    if values.dtype.kind in "fiub":
        return values
    try:
        return values.astype(float, casting="unsafe" if values.dtype.kind == "O" else "safe")
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{owner}: expected {name} that are real numbers; got dtype {values.dtype}. Convert "
            "them by .astype(float), or number classes from 0."
        ) from error


def as_targets(
    x: np.ndarray, y: Any, likelihood: Any, missing: Missing, owner: str
) -> tuple[np.ndarray, np.ndarray, int]:
    """Inputs and targets without those that are missing, and how many were.

    Raises:
      ValueError: if shapes differ, a target is missing and none may be, or one is outside of the
        likelihood's support.
    """
    if missing not in ("raise", "ignore"):
        raise ValueError(f"{owner}: expected missing 'raise' or 'ignore'; got {missing!r}.")
    y = np.asarray(y)
    if y.shape != x.shape[:1]:
        raise ValueError(
            f"{owner}: expected targets of shape ({len(x)},), one for each input; got {y.shape}."
        )
    y = _numbers(y, "targets", owner).astype(x.dtype)
    gone = np.isnan(y)
    if gone.any() and missing == "raise":
        raise ValueError(
            f"{owner}: expected targets that are there; got y[{int(np.argmax(gone))}] = nan and "
            f"{int(gone.sum()) - 1} more. Pass missing='ignore' to fit to the others."
        )
    if gone.all():
        raise ValueError(f"{owner}: expected a target that is not missing; got none.")
    likelihood.check(np.where(gone, y[np.argmin(gone)], y))  # with places as they were given
    return x[~gone], y[~gone], int(gone.sum())
