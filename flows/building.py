"""What the factories of flows share: sizes, titles, and the stack of layers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from flows.compose import Chain, stack
from flows.conditional import Conditional
from flows.flow import Flow
from flows.linear import LULinear
from vi.random import host_generator

HIDDEN = 32, 32
TITLES = {
    "realnvp": "RealNVP flow",
    "neural_spline": "neural spline flow",
    "iaf": "inverse autoregressive flow",
    "maf": "masked autoregressive flow",
    "planar": "planar flow",
    "radial": "radial flow",
    "sylvester": "Sylvester flow",
    "block_neural": "block neural autoregressive flow",
    "residual": "residual flow",
    "polynomial": "polynomial transport map",
}
MAX_LINEAR = 200  # coordinates up to which a dense linear map is learned as well


def amortised(
    make: Callable[[np.random.Generator, Any], Any], hidden: Sequence[int], context_dim: int
) -> Callable[[np.random.Generator, Any], Any]:
    """The layers, conditional if there is a context."""
    if not context_dim:
        return make

    def conditional(generator: np.random.Generator, dtype: Any) -> Conditional:
        return Conditional.initial(generator, make(generator, dtype), tuple(hidden), context_dim)

    return conditional


def hidden_units(dim: int, hidden: Sequence[int] | None) -> tuple[int, ...]:
    """Hidden units of a network over D coordinates, if none are given."""
    return (max(32, 2 * dim),) * 2 if hidden is None else tuple(hidden)


def build(
    owner: str,
    dim: int,
    key: Array,
    num_layers: int,
    sizes: Sequence[int],
    context_dim: int,
    dtype: Any,
    make: Callable[[np.random.Generator, Any], Any],
) -> Flow:
    """A flow of layers that start as they are made, with a learnt linear map in front.

    Args:
      owner: name of the factory.
      dim: D.
      key: for the first weights.
      num_layers: how many layers.
      sizes: further numbers that must be positive.
      context_dim: numbers in the context; 0 for none.
      dtype: of the parameters; by default JAX's default float.
      make: makes one layer.

    Raises:
      ValueError: if a size is not positive.
    """
    given = (dim, num_layers, *sizes, context_dim + 1)
    if not all(isinstance(x, int | np.integer) and x >= 1 for x in given):
        raise ValueError(
            f"{owner}: expected positive sizes, whole numbers; got dim={dim}, "
            f"num_layers={num_layers}, {list(sizes)}, context_dim={context_dim}."
        )
    dtype = np.dtype(np.result_type(_default_float() if dtype is None else dtype))
    generator = host_generator(key, 11)
    layers = stack([make(generator, dtype) for _ in range(num_layers)])
    if dim <= MAX_LINEAR:
        layers = Chain((layers, LULinear.identity(dim, dtype)))
    return Flow(layers, None, None, None, dim, context_dim, TITLES[owner])


def _default_float() -> Any:
    import jax.numpy as jnp

    return jnp.result_type(float)
