"""The one door to the floor above: flows, imported only when one is asked for by name."""

from typing import Any, Literal

from jaxtyping import Array

FlowName = Literal[
    "neural_spline",
    "realnvp",
    "maf",
    "iaf",
    "planar",
    "radial",
    "sylvester",
    "block_neural",
    "residual",
    "polynomial",
]


def flow(name: FlowName, dim: int, key: Array) -> Any:
    """The flow of a name, as its factory in `flows` makes it by default."""
    import flows

    return getattr(flows, name)(dim, key=key)


def mixflow(num_maps: int, start: Any) -> Any:
    """The MixFlow of the ladder: three steps of one length, judged by few orbits."""
    import flows

    steps = {"step_sizes": (0.05, 0.1, 0.2), "num_leapfrogs": (16,)}
    return flows.mixflow(num_maps, **steps, num_orbits=32, start=start)


def is_flow(q: Any) -> bool:
    """Whether a family is a flow; nothing is imported to find out."""
    return type(q).__module__ == "flows.flow"


def flow_kinds() -> dict[str, type]:
    """The classes that a saved flow may be made of, by name."""
    import flows

    named = ((name, getattr(flows, name)) for name in flows.__all__)
    return {name: kind for name, kind in named if hasattr(kind, "__dataclass_fields__")}
