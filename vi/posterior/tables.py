"""Draws as scalars by name, and their summary."""

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas

DIGITS = 4  # of a standard deviation


def scalars(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scalar draws by name, as in ``theta[3]``.

    Args:
      draws: ``{site: (S, *shape)}``.

    Returns:
      ``{name: (S,)}``, in the order of the sites.
    """
    out = {}
    for site, values in draws.items():
        for index in np.ndindex(values.shape[1:]):
            name = f"{site}[{','.join(map(str, index))}]" if index else site
            out[name] = values[(slice(None), *index)]
    return out


def summary(draws: dict[str, np.ndarray]) -> "pandas.DataFrame":
    """Mean, standard deviation and 5, 50 and 95 % quantiles of each scalar; one row each.

    A row has the decimals that show four digits of its standard deviation, whatever its scale;
    what is constant is not rounded.
    """
    import pandas

    rows = {name: _row(x.astype(float)) for name, x in scalars(draws).items()}
    columns = ["mean", "sd", "5%", "50%", "95%"]
    return pandas.DataFrame.from_dict(rows, orient="index", columns=columns)


def _row(x: np.ndarray) -> np.ndarray:
    sd = x.std(ddof=1)
    row = np.array([x.mean(), sd, *np.quantile(x, [0.05, 0.5, 0.95])])
    if not (np.isfinite(sd) and sd > 0):
        return row
    return row.round(max(DIGITS - 1 - math.floor(math.log10(sd)), 0))
