"""Flows as NumPyro's distributions and transforms."""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

if TYPE_CHECKING:
    from flows.flow import Flow


class FlowTransform(Transform):
    """A flow's map from standard normal noise to draws, as a NumPyro transform of vectors."""

    domain = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    codomain = constraints.real_vector  # pyright: ignore[reportAssignmentType]

    def __init__(self, flow: "Flow"):
        """Wrap a flow whose base is N(0, I)."""
        self.flow = flow

    def __call__(self, x: Float[Array, "*S D"]) -> Float[Array, "*S D"]:
        """Draws from noise."""
        return self.flow.draw_and_log_prob(x)[0]

    def _inverse(self, y: Float[Array, "*S D"]) -> Float[Array, "*S D"]:
        return self.flow.inverse_and_log_det(y)[0]

    def log_abs_det_jacobian(
        self, x: Float[Array, "*S D"], y: Float[Array, "*S D"], intermediates: Any = None
    ) -> Float[Array, "*S"]:
        """Log-determinant at noise x."""
        del y, intermediates
        return self.flow.forward_and_log_det(x)[1]

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        """The flow is a pytree."""
        return (self.flow,), (("flow",), {})

    def __eq__(self, other: object) -> bool:
        """Of the same flow."""
        return isinstance(other, FlowTransform) and other.flow is self.flow

    __hash__ = None  # type: ignore[assignment]


def distribution(flow: "Flow") -> dist.TransformedDistribution:
    """A flow as a NumPyro distribution.

    Raises:
      TypeError: if its base is not N(0, I).
    """
    if flow.base is not None:
        raise TypeError(
            f"Flow.to_numpyro: expected a flow with base None, N(0, I); got {flow.base!r}. Use "
            "to_distrax, or numpyro.contrib.tfp."
        )
    base = dist.Normal(jnp.zeros(flow.size, flow.dtype), 1.0).to_event(1)
    return dist.TransformedDistribution(base, FlowTransform(flow))
