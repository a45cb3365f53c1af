"""What two samples must be for a distance between them."""

from jaxtyping import Array, Float


def check_samples(owner: str, x: Float[Array, "N D"], y: Float[Array, "M D"]) -> None:
    """Two matrices of as many columns.

    Raises:
      ValueError: if they are not; the message begins with ``owner``.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{owner}: expected samples (N, D) and (M, D); got shapes {x.shape} and {y.shape}. "
            "Give points on the line as a column, x[:, None]."
        )
