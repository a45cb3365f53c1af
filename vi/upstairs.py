"""The one door to the floor above: flows, imported only when one is asked for by name."""

from typing import Any, Literal

from jaxtyping import Array

FlowName = Literal["neural_spline", "realnvp", "maf", "iaf", "planar", "radial", "sylvester"]


def flow(name: FlowName, dim: int, key: Array) -> Any:
    """The flow of a name, as its factory in `flows` makes it by default."""
    import flows

    return getattr(flows, name)(dim, key=key)


def flow_kinds() -> dict[str, type]:
    """The classes that a saved flow may be made of, by name."""
    import flows

    named = ((name, getattr(flows, name)) for name in flows.__all__)
    return {name: kind for name, kind in named if hasattr(kind, "__dataclass_fields__")}
