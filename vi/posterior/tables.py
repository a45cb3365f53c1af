"""Draws as scalars by name, and their summary."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas


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
    """Mean, standard deviation and 5, 50 and 95 % quantiles of each scalar; one row each."""
    import pandas

    rows = {
        name: [x.mean(), x.std(ddof=1), *np.quantile(x, [0.05, 0.5, 0.95])]
        for name, x in scalars(draws).items()
    }
    columns = ["mean", "sd", "5%", "50%", "95%"]
    return pandas.DataFrame.from_dict(rows, orient="index", columns=columns).round(3)
