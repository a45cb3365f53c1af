"""Any layer made conditional: a network gives its parameters from the context."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from flows.layer import Context, Layer, Mapped
from flows.networks import Network, initial_parameters
from vi.module import module


@module
class Conditional(Layer):
    r"""A layer whose parameters follow from the context.

    .. math:: y = f(x; θ + N(c))

    N is zero at first, so that it starts as the layer itself. It makes amortised versions of
    layers that take no context: planar, radial, Sylvester, ActNorm, LU-linear. The network has as
    many outputs as the layer has parameters. References: Rezende and Mohamed (2015), "Variational
    inference with normalizing flows", section 4.2; van den Berg et al. (2018), "Sylvester
    normalizing flows for variational inference", section 4.

    Attributes:
      layer: θ, any layer; its own context is not used.
      network: N.
    """

    layer: Any
    network: Network

    @property
    def explicit(self) -> bool:
        """As of the layer."""
        return self.layer.explicit

    @property
    def cheap_score(self) -> bool:
        """As of the layer."""
        return self.layer.cheap_score

    @classmethod
    def initial(
        cls, generator: np.random.Generator, layer: Any, hidden: tuple[int, ...], context_dim: int
    ) -> "Conditional":
        """The layer, with hidden weights of the network at random."""
        flat, _ = ravel_pytree(layer)
        sizes = (context_dim, *hidden, flat.size)
        return cls(layer, Network(*initial_parameters(generator, sizes, np.dtype(flat.dtype))))

    def _run(self, name: str, x: Array, context: Context) -> Any:
        if context is None:
            raise ValueError("Conditional: expected a context; got none. Use flow.given(context).")
        flat, unravel = ravel_pytree(self.layer)

        def one(x: Array, context: Array) -> Any:
            return getattr(unravel(flat + self.network(context)), name)(x)

        if context.ndim == 1:
            return one(x, context)
        shape = x.shape[:-1]
        each = jnp.broadcast_to(context, (*shape, context.shape[-1]))
        y, log_det = jax.vmap(one)(x.reshape(-1, x.shape[-1]), each.reshape(-1, each.shape[-1]))
        return y.reshape(x.shape), log_det.reshape(shape)

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and ``log |det ∂y/∂x|``."""
        return self._run("forward_and_log_det", x, context)

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and ``log |det ∂x/∂y|``."""
        return self._run("inverse_and_log_det", y, context)
