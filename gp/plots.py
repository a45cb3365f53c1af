"""Pictures of a posterior over one or two coordinates."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOUR, _ACCENT = "#30638e", "#d1495b"


def curve(x: np.ndarray, y: np.ndarray, grid: np.ndarray, bands: Any, name: str) -> "Figure":
    """Data, a mean with its two standard deviations, and those of new data, along a line.

    Args:
      x: inputs, shape ``(N,)``.
      y: targets; not drawn if None.
      grid: where the curves are drawn.
      bands: pairs of means and standard deviations on the grid, the widest first.
      name: of the vertical axis.

    Returns:
      The figure.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 3.5))
    for (mean, sd), shade in zip(bands, (0.15, 0.35)[-len(bands) :], strict=True):
        axis.fill_between(grid, mean - 2 * sd, mean + 2 * sd, color=_COLOUR, alpha=shade, lw=0)
    axis.plot(grid, bands[-1][0], color=_COLOUR, lw=1.5)
    if y is not None:
        axis.plot(x, y, ".", color=_ACCENT, ms=4, alpha=0.7)
    axis.set_xlabel("x")
    axis.set_ylabel(name)
    figure.tight_layout()
    return figure


def maps(
    x: np.ndarray, axes: tuple[np.ndarray, np.ndarray], mean: np.ndarray, sd: np.ndarray, name: str
) -> "Figure":
    """Maps of a mean and of its standard deviation, with the inputs as dots.

    Args:
      x: inputs, shape ``(N, 2)``.
      axes: the grid's coordinates.
      mean: on the grid, shape ``(len(axes[1]), len(axes[0]))``.
      sd: the same.
      name: of what is shown.

    Returns:
      The figure.
    """
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for panel, values, title, colours in zip(
        panels, (mean, sd), (name, "standard deviation"), ("viridis", "magma"), strict=True
    ):
        drawn = panel.pcolormesh(*axes, values, cmap=colours, shading="nearest")
        figure.colorbar(drawn, ax=panel)
        shown = x[:: max(1, len(x) // 2000)]
        panel.plot(shown[:, 0], shown[:, 1], ",", color="white", alpha=0.6)
        panel.set_title(title, fontsize=10)
    figure.tight_layout()
    return figure
