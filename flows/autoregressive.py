"""Autoregressive layers: each coordinate is transformed by those before it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flows.layer import Context, Layer, Mapped
from flows.networks import MaskedNetwork, initial_parameters
from flows.transport import PolynomialConditioner
from vi.module import module

MAX_JACOBIAN = 16  # coordinates


@module
class Autoregressive(Layer):
    r"""A masked autoregressive map.

    .. math:: y_i = f(x_i; θ_i(x_1, …, x_{i-1}))

    Forward in one evaluation of the conditioner, inverse in D, coordinate by coordinate. As it
    stands it is the inverse autoregressive flow, cheap to sample from; `flows.Inverse` of it is
    the masked autoregressive flow, whose density is cheap. References: Kingma, Salimans,
    Jozefowicz, Chen, Sutskever and Welling (2016), "Improved variational inference with inverse
    autoregressive flow"; Papamakarios, Pavlakou and Murray (2017), "Masked autoregressive flow for
    density estimation", equations 2 to 4.

    Attributes:
      network: the conditioner, `MaskedNetwork` or `PolynomialConditioner`.
      transformer: `Affine`, `Spline` or `MonotonePolynomial`.
    """

    network: MaskedNetwork | PolynomialConditioner
    transformer: Any

    @property
    def explicit(self) -> bool:
        """False: the inverse is found coordinate by coordinate."""
        return False

    @property
    def cheap_score(self) -> bool:
        """Where the whole Jacobian, which it takes, is small."""
        return self.network.dim <= MAX_JACOBIAN

    @classmethod
    def initial(
        cls,
        generator: np.random.Generator,
        dim: int,
        transformer: Any,
        hidden: tuple[int, ...],
        context_dim: int,
        dtype: Any,
    ) -> "Autoregressive":
        """The identity, with hidden weights at random."""
        sizes = (dim + context_dim, *hidden, dim * transformer.num_params)
        weights, biases = initial_parameters(generator, sizes, dtype)
        return cls(MaskedNetwork(weights, biases, dim), transformer)

    def _elementwise(self, x: Array, context: Context) -> Any:
        out = self.network(x, context)
        return self.transformer.bijector(out.reshape(*x.shape, self.transformer.num_params))

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and ``log |det ∂y/∂x|``."""
        y, log_det = self._elementwise(x, context).forward_and_log_det(x)
        return y, jnp.sum(log_det, axis=-1)

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and ``log |det ∂x/∂y|``; D evaluations."""

        def step(x: Array, i: Array) -> tuple[Array, None]:
            # Only coordinate i is right by now; later ones stay zero, and so finite.
            new = self._elementwise(x, context).inverse(y)
            return jnp.where(jnp.arange(x.shape[-1]) == i, new, x), None

        x, _ = jax.lax.scan(step, jnp.zeros_like(y), jnp.arange(y.shape[-1]))
        _, log_det = self._elementwise(x, context).inverse_and_log_det(y)
        return x, jnp.sum(log_det, axis=-1)

    def _push_score(self, x: Array, y: Array, score: Array, context: Context) -> Array:
        """The score at y, by the triangular Jacobian."""
        del y
        return triangular_score(lambda x: self.forward_and_log_det(x, context), x, score)


def triangular_score(
    forward: Callable[[Array], Mapped], x: Float[Array, "*S D"], score: Float[Array, "*S D"]
) -> Float[Array, "*S D"]:
    """Push a score through a map whose Jacobian is lower triangular: D gradients and one solve."""
    (_, log_det), pull = jax.vjp(forward, x)
    none, ones = jnp.zeros_like(log_det), jnp.ones_like(log_det)
    bend = pull((jnp.zeros_like(x), ones))[0]
    units = jnp.eye(x.shape[-1], dtype=x.dtype)
    rows = jax.vmap(lambda e: pull((jnp.broadcast_to(e, x.shape), none))[0])(units)
    jacobian = jnp.moveaxis(rows, 0, -2)
    solve = jax.scipy.linalg.solve_triangular
    solved = solve(jacobian, (score - bend)[..., None], trans="T", lower=True)
    return solved[..., 0]
