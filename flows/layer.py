"""Layers: invertible maps with a log-determinant, and how they are put together."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.module import module, static

if TYPE_CHECKING:
    import distrax

Context = Float[Array, "*#S C"] | None
Mapped = tuple[Float[Array, "*S D"], Float[Array, "*S"]]
Scored = tuple[Float[Array, "*S D"], Float[Array, "*S"], Float[Array, "*S D"]]
stop = jax.lax.stop_gradient


class Layer:
    """An invertible map of vectors; the last axis is the vector, leading axes are draws.

    ``forward_and_log_det`` goes from noise to draws. A layer is a pytree of its parameters.
    """

    @property
    def explicit(self) -> bool:
        """Whether the inverse costs no more than a few times the forward map."""
        return True

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and log |det ∂y/∂x|."""
        raise NotImplementedError

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and log |det ∂x/∂y|."""
        raise NotImplementedError

    @property
    def cheap_score(self) -> bool:
        """Whether `forward_with_score` costs no more than a few passes."""
        return True

    def forward_with_score(
        self, x: Float[Array, "*S D"], score: Float[Array, "*S D"], context: Context = None
    ) -> Scored:
        r"""The forward map, with the score of the law of its image carried along.

        .. math:: s_y = J^{-T} (s_x - \nabla_x \log|\det J|), \qquad s_x = \nabla_x \log q(x)

        Args:
          x: draws.
          score: :math:`s_x` there. No gradient goes through it.
          context: as of `forward_and_log_det`.

        Returns:
          The image y, log |det ∂y/∂x|, and the score of its law at y, free of gradients.

        Reference: Vaitl, Winkler, Richter and Kessel (2024), "Fast and unified path gradient
        estimators for normalizing flows", proposition 3.
        """
        y, log_det = self.forward_and_log_det(x, context)
        pushed = stop(self)._push_score(stop(x), stop(y), stop(score), context)
        return y, log_det, stop(pushed)

    def _push_score(self, x: Array, y: Array, score: Array, context: Context) -> Array:
        """The score at y, by the inverse: log q(y) = log q(x(y)) + log |det ∂x/∂y|."""
        del x
        (_, log_det), pull = jax.vjp(lambda y: self.inverse_and_log_det(y, context), y)
        return pull((score, jnp.ones_like(log_det)))[0]

    def bijector(self, context: Context = None) -> "distrax.Bijector":
        """The layer as a `distrax.Bijector` of vectors."""
        from flows.distrax_flow import LayerBijector

        return LayerBijector(self, context)


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
        """The image of x and log |det ∂y/∂x|: the sum over layers."""
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
        """The x of which y is the image, and log |det ∂x/∂y|."""
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
        """The image of x and log |det ∂y/∂x|: the sum over layers."""

        def step(carry: Mapped, layer: Any) -> tuple[Mapped, None]:
            x, log_det = layer.forward_and_log_det(carry[0], context)
            return (x, carry[1] + log_det), None

        return jax.lax.scan(step, (x, jnp.zeros(x.shape[:-1], x.dtype)), self.layer)[0]

    def forward_with_score(
        self, x: Float[Array, "*S D"], score: Float[Array, "*S D"], context: Context = None
    ) -> Scored:
        """As of `Layer`: layer by layer."""

        def step(carry: Scored, layer: Any) -> tuple[Scored, None]:
            x, log_det, score = layer.forward_with_score(carry[0], carry[2], context)
            return (x, carry[1] + log_det, score), None

        start = (x, jnp.zeros(x.shape[:-1], x.dtype), score)
        return jax.lax.scan(step, start, self.layer)[0]

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and log |det ∂x/∂y|."""

        def step(carry: Mapped, layer: Any) -> tuple[Mapped, None]:
            y, log_det = layer.inverse_and_log_det(carry[0], context)
            return (y, carry[1] + log_det), None

        start = (y, jnp.zeros(y.shape[:-1], y.dtype))
        return jax.lax.scan(step, start, self.layer, reverse=True)[0]


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
