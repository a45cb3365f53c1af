"""What a layer is: an invertible map with a log-determinant."""

import abc
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

if TYPE_CHECKING:
    import distrax

Context = Float[Array, "*#S C"] | None
Mapped = tuple[Float[Array, "*S D"], Float[Array, "*S"]]
Scored = tuple[Float[Array, "*S D"], Float[Array, "*S"], Float[Array, "*S D"]]
stop = jax.lax.stop_gradient


class Layer(abc.ABC):
    """An invertible map of vectors; the last axis is the vector, leading axes are draws.

    ``forward_and_log_det`` goes from noise to draws. A layer is a pytree of its parameters; to
    write one, derive a `vi.module.module` from this class and give it the two maps.
    """

    @property
    def explicit(self) -> bool:
        """Whether the inverse costs no more than a few times the forward map."""
        return True

    @abc.abstractmethod
    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and ``log |det ∂y/∂x|``."""
        ...

    @abc.abstractmethod
    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and ``log |det ∂x/∂y|``."""
        ...

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
          The image y, ``log |det ∂y/∂x|``, and the score of its law at y, free of gradients.

        Reference: Vaitl, Winkler, Richter and Kessel (2024), "Fast and unified path gradient
        estimators for normalizing flows", proposition 3.
        """
        y, log_det = self.forward_and_log_det(x, context)
        pushed = stop(self)._push_score(stop(x), stop(y), stop(score), context)
        return y, log_det, stop(pushed)

    def _push_score(self, x: Array, y: Array, score: Array, context: Context) -> Array:
        """The score at y, by the inverse: log q(y) = log q(x(y)) + ``log |det ∂x/∂y|``."""
        del x
        (_, log_det), pull = jax.vjp(lambda y: self.inverse_and_log_det(y, context), y)
        return pull((score, jnp.ones_like(log_det)))[0]

    def bijector(self, context: Context = None) -> "distrax.Bijector":
        """The layer as a `distrax.Bijector` of vectors."""
        from flows.distrax_flow import LayerBijector

        return LayerBijector(self, context)
