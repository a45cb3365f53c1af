"""A few thin pictures; for more, `Posterior.to_arviz` and ArviZ."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vi.posterior import Posterior

_COLOUR, _ACCENT = "#30638e", "#d1495b"


def _columns(
    posterior: "Posterior", sites: list[str] | None, num_samples: int, most: int
) -> dict[str, np.ndarray]:
    """Scalar draws by name, of the given sites or of as many latent ones as fit."""
    draws = posterior.sample(jax.random.key(0), num_samples)
    unknown = sorted(set(sites or ()) - set(draws))
    if unknown:
        raise ValueError(f"plot: expected sites out of {sorted(draws)}; got unknown {unknown}.")
    columns = {}
    for site in sites or posterior.target.layout.names:
        values = draws[site]
        for index in np.ndindex(values.shape[1:]):
            name = f"{site}[{','.join(map(str, index))}]" if index else site
            columns[name] = values[(slice(None), *index)]
    return dict(list(columns.items())[:most])


def marginals(
    posterior: "Posterior",
    *,
    sites: list[str] | None = None,
    num_samples: int = 4000,
    reference: dict[str, np.ndarray] | None = None,
    most: int = 16,
) -> "Figure":
    """Histograms of the marginals, with reference draws over them if there are any.

    Args:
      posterior: the posterior.
      sites: which sites; by default the latent ones.
      num_samples: draws.
      reference: draws by the same scalar names, for instance of MCMC.
      most: at most so many panels.

    Returns:
      The matplotlib figure.
    """
    import matplotlib.pyplot as plt

    columns = _columns(posterior, sites, num_samples, most)
    wide = min(4, len(columns))
    high = -(-len(columns) // wide)
    figure, axes = plt.subplots(high, wide, figsize=(3 * wide, 2.2 * high), squeeze=False)
    for axis in axes.flat[len(columns) :]:
        axis.set_visible(False)
    for axis, (name, x) in zip(axes.flat, columns.items(), strict=False):
        both = x if reference is None or name not in reference else np.append(x, reference[name])
        bins = np.linspace(*np.quantile(both, [0.001, 0.999]), 50)
        axis.hist(x, bins, density=True, color=_COLOUR, alpha=0.6, label="fit")
        if reference is not None and name in reference:
            axis.hist(
                reference[name], bins, density=True, histtype="step", color=_ACCENT, label="reference"
            )
        axis.set_title(name, fontsize=9)
        axis.set_yticks([])
    if reference is not None:
        axes.flat[0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    return figure


def pairs(
    posterior: "Posterior", *, sites: list[str] | None = None, num_samples: int = 1000, most: int = 6
) -> "Figure":
    """Scatter plots of pairs of scalars, with their histograms on the diagonal.

    Args:
      posterior: the posterior.
      sites: which sites; by default the latent ones.
      num_samples: draws.
      most: at most so many scalars.

    Returns:
      The matplotlib figure.
    """
    import matplotlib.pyplot as plt

    columns = _columns(posterior, sites, num_samples, most)
    names, size = list(columns), len(columns)
    figure, axes = plt.subplots(size, size, figsize=(1.9 * size,) * 2, squeeze=False)
    for i, row in enumerate(names):
        for j, column in enumerate(names):
            axis = axes[i, j]
            if i == j:
                axis.hist(columns[row], 40, color=_COLOUR, alpha=0.6)
            elif j < i:
                axis.scatter(columns[column], columns[row], s=3, color=_COLOUR, alpha=0.3, lw=0)
            else:
                axis.set_visible(False)
            axis.tick_params(labelsize=6)
            if i == size - 1:
                axis.set_xlabel(column, fontsize=8)
            if j == 0:
                axis.set_ylabel(row, fontsize=8)
    figure.tight_layout()
    return figure


def elbo(posterior: "Posterior", *, axis: Any = None) -> "Figure":
    """The ELBO as the run saw it, and its value from fresh draws at the end.

    Args:
      posterior: the posterior.
      axis: matplotlib axes to draw on; new ones if not given.

    Returns:
      The matplotlib figure.
    """
    import matplotlib.pyplot as plt

    if axis is None:
        _, axis = plt.subplots(figsize=(6, 3))
    step, values = posterior.history["step"], posterior.history["elbo"]
    axis.plot(step, values, ".-", color=_COLOUR, lw=1, ms=4, label="during the run")
    axis.axhline(posterior.elbo, color=_ACCENT, lw=1, label="fresh draws")
    finite = values[np.isfinite(values)]
    if len(finite):
        low = np.quantile(finite, 0.3)
        span = max(posterior.elbo - low, 1.0) if np.isfinite(posterior.elbo) else 1.0
        top = np.nanmax([posterior.elbo, finite.max()])
        if np.isfinite(top):
            axis.set_ylim(top - 3 * span, top + 0.3 * span)
    axis.set_xlabel("step")
    axis.set_ylabel("ELBO (nats)")
    axis.legend(fontsize=8, frameon=False)
    axis.figure.tight_layout()
    return axis.figure
