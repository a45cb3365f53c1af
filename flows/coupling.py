"""Coupling layers: one half of the coordinates transforms the other."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, Float

from flows.imports import load_distrax
from flows.layer import Context, Layer, Mapped
from flows.networks import Network, initial_parameters
from vi.module import module, static

if TYPE_CHECKING:
    import distrax


@module
class Coupling(Layer):
    r"""`distrax.SplitCoupling` with a perceptron as conditioner.

    .. math:: y_{\le d} = x_{\le d}, \qquad y_i = f(x_i; θ_i(x_{\le d})), \quad i > d

    Both directions cost one evaluation of the conditioner. References: Dinh, Sohl-Dickstein and
    Bengio (2017), "Density estimation using Real NVP", equations 4 to 8; Durkan et al. (2019),
    "Neural spline flows".

    Attributes:
      network: from the first d coordinates and the context to the parameters of the others.
      transformer: `Affine` or `Spline`.
      split: d.
    """

    network: Network
    transformer: Any
    split: int = static()

    @classmethod
    def initial(
        cls,
        generator: np.random.Generator,
        dim: int,
        transformer: Any,
        hidden: tuple[int, ...],
        context_dim: int,
        dtype: Any,
    ) -> "Coupling":
        """The identity, with hidden weights at random."""
        split = dim // 2
        outputs = (dim - split) * transformer.num_params
        sizes = (split + context_dim, *hidden, outputs)
        return cls(Network(*initial_parameters(generator, sizes, dtype)), transformer, split)

    def bijector(self, context: Context = None) -> "distrax.Bijector":
        """The `distrax.SplitCoupling`."""

        def conditioner(x: Array) -> Array:
            out = self.network(x, context)
            return out.reshape(*out.shape[:-1], -1, self.transformer.num_params)

        return load_distrax().SplitCoupling(self.split, 1, conditioner, self.transformer.bijector)

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and log |det ∂y/∂x|."""
        split: Any = self.bijector(context)
        return split.forward_and_log_det(x)

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and log |det ∂x/∂y|."""
        split: Any = self.bijector(context)
        return split.inverse_and_log_det(y)
