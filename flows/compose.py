"""Layers made of layers: chains, stacks under `jax.lax.scan`, inverses, and distrax's bijectors."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flows.layer import Context, Layer, Mapped, Scored
from vi.module import module, static


@module
class Chain(Layer):
    """Layers one after another, the first nearest to the noise.

    Attributes:
      layers: any number of layers.
    """

    layers: tuple[Any, ...]

    @property
    def explicit(self) -> bool:
        """Whether all inverses are cheap."""
        return all(layer.explicit for layer in self.layers)

    @property
    def cheap_score(self) -> bool:
        """Whether it is cheap for all layers."""
        return all(layer.cheap_score for layer in self.layers)

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and ``log |det ∂y/∂x|``: the sum over layers."""
        total = jnp.zeros(x.shape[:-1], x.dtype)
        for layer in self.layers:
            x, log_det = layer.forward_and_log_det(x, context)
            total = total + log_det
        return x, total

    def forward_with_score(
        self, x: Float[Array, "*S D"], score: Float[Array, "*S D"], context: Context = None
    ) -> Scored:
        """As of `Layer`: layer by layer."""
        total = jnp.zeros(x.shape[:-1], x.dtype)
        for layer in self.layers:
            x, log_det, score = layer.forward_with_score(x, score, context)
            total = total + log_det
        return x, total, score

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and ``log |det ∂x/∂y|``."""
        total = jnp.zeros(y.shape[:-1], y.dtype)
        for layer in reversed(self.layers):
            y, log_det = layer.inverse_and_log_det(y, context)
            total = total + log_det
        return y, total


@module
class Stack(Layer):
    """Layers of one kind, run by `jax.lax.scan`: compile time does not grow with their number.

    Attributes:
      layer: a layer whose leaves all have a leading axis, one entry a layer.
    """

    layer: Any

    @property
    def explicit(self) -> bool:
        """Whether the inverses are cheap."""
        return self.layer.explicit

    @property
    def cheap_score(self) -> bool:
        """Whether it is for one layer."""
        return self.layer.cheap_score

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and ``log |det ∂y/∂x|``: the sum over layers."""
        start = (x, jnp.zeros(x.shape[:-1], x.dtype), context)
        (y, log_det, _), _ = jax.lax.scan(_forward, start, self.layer)
        return y, log_det

    def forward_with_score(
        self, x: Float[Array, "*S D"], score: Float[Array, "*S D"], context: Context = None
    ) -> Scored:
        """As of `Layer`: layer by layer."""
        start = (x, jnp.zeros(x.shape[:-1], x.dtype), score, context)
        (y, log_det, score, _), _ = jax.lax.scan(_forward_with_score, start, self.layer)
        return y, log_det, score

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and ``log |det ∂x/∂y|``."""
        start = (y, jnp.zeros(y.shape[:-1], y.dtype), context)
        (x, log_det, _), _ = jax.lax.scan(_inverse, start, self.layer, reverse=True)
        return x, log_det


# Functions of the module and not closures, so that JAX traces them once also outside of jit.
def _forward(carry: tuple, layer: Any) -> tuple[tuple, None]:
    x, total, context = carry
    y, log_det = layer.forward_and_log_det(x, context)
    return (y, total + log_det, context), None


def _forward_with_score(carry: tuple, layer: Any) -> tuple[tuple, None]:
    x, total, score, context = carry
    y, log_det, score = layer.forward_with_score(x, score, context)
    return (y, total + log_det, score, context), None


def _inverse(carry: tuple, layer: Any) -> tuple[tuple, None]:
    y, total, context = carry
    x, log_det = layer.inverse_and_log_det(y, context)
    return (x, total + log_det, context), None


def stack(layers: list[Any]) -> Stack:
    """One `Stack` of layers that have the same structure and shapes.

    Args:
      layers: at least one layer, the first nearest to the noise.

    Returns:
      The stack.

    Raises:
      ValueError: if the list is empty or the layers differ in structure or shapes.
    """
    shapes = {
        (jax.tree.structure(layer), tuple(jnp.shape(x) for x in jax.tree.leaves(layer)))
        for layer in layers
    }
    if len(shapes) != 1:
        raise ValueError(
            "stack: expected at least one layer, all of one structure and of the same shapes; got "
            f"{layers}. Use flows.Chain for layers of several kinds."
        )
    return Stack(jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers))


@module
class Inverse(Layer):
    """A layer turned round: its forward map is the other's inverse.

    Attributes:
      layer: the layer.
    """

    layer: Any

    @property
    def explicit(self) -> bool:
        """Whether both directions are cheap."""
        return self.layer.explicit

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The inverse of the layer."""
        return self.layer.inverse_and_log_det(x, context)

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The forward map of the layer."""
        return self.layer.forward_and_log_det(y, context)


@module
class Reverse(Layer):
    """The coordinates in reverse order, so that the next layer conditions on the others."""

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """X backwards; the log-determinant is zero."""
        del context
        return x[..., ::-1], jnp.zeros(x.shape[:-1], x.dtype)

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """Y backwards; the log-determinant is zero."""
        return self.forward_and_log_det(y, context)


@module
class FromDistrax(Layer):
    """A layer that builds a `distrax.Bijector` of vectors from its parameters.

    It is built anew at every use: distrax's bijectors keep numbers derived from their parameters
    beside them, so that an optimizer must not see the bijector itself.

    Attributes:
      params: any pytree.
      make: from the parameters to a bijector with ``event_ndims_in == event_ndims_out == 1``.

    Example:
      >>> import jax.numpy as jnp
      >>> from flows.imports import load_distrax
      >>> import flows
      >>> distrax = load_distrax()
      >>> layer = flows.FromDistrax(
      ...     jnp.zeros(3), lambda shift: distrax.Block(distrax.ScalarAffine(shift), 1)
      ... )
      >>> layer.forward_and_log_det(jnp.ones(3))[0].shape
      (3,)
    """

    params: Any
    make: Callable[[Any], Any] = static()

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The bijector's own; it takes no context."""
        del context
        return self.make(self.params).forward_and_log_det(x)

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The bijector's own; it takes no context."""
        del context
        return self.make(self.params).inverse_and_log_det(y)
