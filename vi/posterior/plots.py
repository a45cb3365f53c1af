"""A few thin pictures; for more, `Posterior.to_arviz` and ArviZ."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOUR, _ACCENT = "#30638e", "#d1495b"


def marginals(
    columns: dict[str, np.ndarray], reference: dict[str, np.ndarray] | None = None
) -> "Figure":
    """Histograms of scalar draws, with reference draws of the same names over them, if any."""
    import matplotlib.pyplot as plt

    reference = reference or {}
    wide = min(4, len(columns))
    rows = -(-len(columns) // wide)
    figure, axes = plt.subplots(rows, wide, figsize=(3 * wide, 2.2 * rows), squeeze=False)
    for axis in axes.flat[len(columns) :]:
        axis.set_visible(False)
    for axis, (name, x) in zip(axes.flat, columns.items(), strict=False):
        other = reference.get(name)
        both = x if other is None else np.append(x, other)
        low, high = np.quantile(both, [0.001, 0.999])
        bins = np.linspace(low, high, 50)
        axis.hist(x, bins, density=True, color=_COLOUR, alpha=0.6, label="fit")
        if other is not None:
            axis.hist(other, bins, density=True, histtype="step", color=_ACCENT, label="reference")
        axis.set_title(name, fontsize=9)
        axis.set_yticks([])
    if reference:
        axes.flat[0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    return figure


def pairs(columns: dict[str, np.ndarray]) -> "Figure":
    """Scatter plots of pairs of scalars, with their histograms on the diagonal."""
    import matplotlib.pyplot as plt

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


def trace(history: dict[str, np.ndarray], final: float, axis: Any = None) -> "Figure":
    """The ELBO over a fit, a line for each run, and its value from fresh draws at the end."""
    import matplotlib.pyplot as plt

    if axis is None:
        _, axis = plt.subplots(figsize=(6, 3))
    steps, values, runs = history["step"], history["elbo"], history["run"]
    for run in dict.fromkeys(runs.tolist()):
        last = run == runs[-1]
        label = "last run" if last else "searches" if run == runs[0] else None
        look = {"alpha": 1.0 if last else 0.4, "lw": 1, "ms": 4, "color": _COLOUR}
        axis.plot(steps[runs == run], values[runs == run], ".-", label=label, **look)
    if np.isfinite(final):
        axis.axhline(final, color=_ACCENT, lw=1, label="fresh draws")
    finite = np.append(values[np.isfinite(values)], final if np.isfinite(final) else [])
    if len(finite):
        top, span = finite.max(), max(finite.max() - np.quantile(finite, 0.3), 1.0)
        axis.set_ylim(top - 3 * span, top + 0.3 * span)
    axis.set_xlabel("step")
    axis.set_ylabel("ELBO (nats)")
    axis.legend(fontsize=8, frameon=False)
    axis.figure.tight_layout()
    return axis.figure
