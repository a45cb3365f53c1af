"""Coupling layers: one half of the coordinates transforms the other."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
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
        conditioner = lambda x: self._params(x, context)
        return load_distrax().SplitCoupling(self.split, 1, conditioner, self.transformer.bijector)

    def _params(self, x: Array, context: Context) -> Array:
        """The transformer's parameters, shape ``(..., D - d, P)``."""
        out = self.network(x, context)
        return out.reshape(*out.shape[:-1], -1, self.transformer.num_params)

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and ``log |det ∂y/∂x|``."""
        split: Any = self.bijector(context)
        return split.forward_and_log_det(x)

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and ``log |det ∂x/∂y|``."""
        split: Any = self.bijector(context)
        return split.inverse_and_log_det(y)

    def _push_score(self, x: Array, y: Array, score: Array, context: Context) -> Array:
        """The score at y, without the inverse: the Jacobian is triangular by blocks.

        With v the score less the gradient of the log-determinant: :math:`s_t' = v_t / f'`, and
        from the coordinates that stay, what the others owe to them is taken back.
        """
        del y
        stay, move = jnp.split(x, [self.split], axis=-1)
        score_stay, score_move = jnp.split(score, [self.split], axis=-1)
        params, pull_network = jax.vjp(lambda x: self._params(x, context), stay)

        def elementwise(params: Array, x: Array) -> Any:
            return self.transformer.bijector(params).forward_and_log_det(x)

        (_, log_slope), pull = jax.vjp(elementwise, params, move)
        ones = jnp.ones_like(log_slope)
        _, bend = pull((jnp.zeros_like(ones), ones))
        new = (score_move - bend) * jnp.exp(-log_slope)
        owed, _ = pull((new, ones))
        return jnp.concatenate([score_stay - pull_network(owed)[0], new], axis=-1)
