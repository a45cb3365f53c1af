"""Layers and flows as distrax's bijectors and distributions."""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from flows.imports import load_distrax
from flows.layer import Context, Mapped

if TYPE_CHECKING:
    import distrax

    from flows.flow import Flow
else:
    distrax = load_distrax()


class LayerBijector(distrax.Bijector):
    """A layer as a `distrax.Bijector` of vectors."""

    def __init__(self, layer: Any, context: Context = None):
        """Wrap a layer, and the context its conditioners are given."""
        super().__init__(event_ndims_in=1)
        self._layer, self._context = layer, context

    def forward_and_log_det(self, x: Float[Array, "*S D"]) -> Mapped:
        """The layer's."""
        self._check_forward_input_shape(x)
        return self._layer.forward_and_log_det(x, self._context)

    def inverse_and_log_det(self, y: Float[Array, "*S D"]) -> Mapped:
        """The layer's."""
        self._check_inverse_input_shape(y)
        return self._layer.inverse_and_log_det(y, self._context)


class AffineBijector(distrax.Bijector):
    """The affine map of a Gaussian, z = m + L x."""

    def __init__(self, gaussian: Any):
        """Wrap a `vi.Gaussian`."""
        super().__init__(event_ndims_in=1, is_constant_jacobian=True)
        self._gaussian = gaussian

    def forward_and_log_det(self, x: Float[Array, "*S D"]) -> Mapped:
        """Draws from unit noise."""
        q = self._gaussian
        return q.loc + q.scale.apply(x), jnp.broadcast_to(q.scale.log_det(), x.shape[:-1])

    def inverse_and_log_det(self, y: Float[Array, "*S D"]) -> Mapped:
        """Unit noise from draws."""
        q = self._gaussian
        return q.scale.solve(y - q.loc), jnp.broadcast_to(-q.scale.log_det(), y.shape[:-1])


def distribution(flow: "Flow") -> "distrax.Distribution":
    """A flow as a `distrax.Transformed` of its base."""
    base = flow.base
    if base is None:
        zeros = jnp.zeros(flow.size, flow.dtype)
        base = distrax.Independent(distrax.Normal(zeros, jnp.ones_like(zeros)), 1)
    bijector = flow.layers.bijector(flow.conditioned())
    if flow.affine is not None:
        bijector = distrax.Chain([AffineBijector(flow.affine), bijector])
    return distrax.Transformed(base, bijector)
