"""Draws for ArviZ."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import arviz
    import xarray

Groups = dict[str, dict[str, np.ndarray]]


def datatree(groups: Groups, attributes: dict[str, Any]) -> "xarray.DataTree":
    """An xarray DataTree of arrays by ArviZ group.

    Args:
      groups: ``{group: {name: array}}``; all but ``"observed_data"`` lead with chain and draw.
      attributes: of the tree and of its posterior group.

    Returns:
      The tree.
    """
    import xarray

    tree = {}
    for group, variables in groups.items():
        lead = [] if group == "observed_data" else ["chain", "draw"]
        data = {name: (_dims(name, value, lead), value) for name, value in variables.items()}
        coords = {}
        if lead:
            chains, draws = next(iter(variables.values())).shape[:2]
            coords = {"chain": np.arange(chains), "draw": np.arange(draws)}
        tree[f"/{group}"] = xarray.Dataset(data, coords=coords)
    made = xarray.DataTree.from_dict(tree)
    made.attrs.update(attributes)
    made["posterior"].attrs.update(attributes)
    return made


def for_arviz(tree: "xarray.DataTree") -> "arviz.InferenceData | xarray.DataTree":
    """What the installed ArviZ takes: InferenceData before 1.0, the tree itself from 1.0 on."""
    import arviz

    if "InferenceData" not in vars(arviz):  # 1.0 answers to the name, with a warning and DataTree
        return tree
    made = arviz.InferenceData(**{name: node.to_dataset() for name, node in tree.children.items()})
    made.attrs.update(tree.attrs)
    return made


def _dims(name: str, value: np.ndarray, lead: list[str]) -> list[str]:
    return [*lead, *(f"{name}_dim_{i}" for i in range(value.ndim - len(lead)))]
