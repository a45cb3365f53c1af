"""Block neural autoregressive layers: one network whose Jacobian is triangular."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flows.autoregressive import MAX_JACOBIAN, triangular_score
from flows.bumps import above_minus_one
from flows.layer import Context, Layer, Mapped
from flows.root import increasing_root
from vi.module import module


class _Seen(NamedTuple):
    """What coordinate i gets from those before it, at each layer of its own network."""

    hidden: list[Array]  # shape (*S, D, H) each
    output: Array  # shape (*S, D)


@module
class BlockNeural(Layer):
    r"""A network with H hidden units for each coordinate, increasing in its own coordinate.

    .. math::
        y_i = x_i + m(γ_i) \frac{f_i(x_{\le i})}{F_i} + g_i(x_{<i}), \qquad
        \log|\det| = \sum_i \log\Big(1 + m(γ_i) \frac{∂f_i/∂x_i}{F_i}\Big),

    where f is a network of tanh units whose weights are lower triangular by blocks, positive in
    the blocks of the diagonal, so that :math:`0 < ∂f_i/∂x_i \le F_i`, the sum over paths of the
    products of those weights; m is onto (-1, ∞) with m(0) = 0. The outputs' weights from earlier
    coordinates make g. Here γ = 0 and g = 0 are the identity, which in the gated form of the paper
    is reached only in the limit. Forward in one pass; the inverse is D roots, one after another.

    Reference: De Cao, Titov and Aziz (2019), "Block neural autoregressive flow", equations 5 to 9.

    Attributes:
      weights: from the coordinates to the hidden layers to the outputs, shapes ``(D, DH)``,
        ``(DH, DH)``, ..., ``(DH, D)``; only what goes from earlier to later coordinates counts.
      diagonals: logarithms of the positive weights within a coordinate, shapes ``(D, H)``,
        ``(D, H, H)``, ..., ``(D, H)``.
      biases: of the hidden layers, shape ``(DH,)`` each.
      given: from the context to the hidden layers and the outputs, shapes ``(C, DH)``, ...,
        ``(C, D)``; no rows without a context.
      gain: γ, shape ``(D,)``.
    """

    weights: tuple[Float[Array, "I O"], ...]
    diagonals: tuple[Float[Array, "D ..."], ...]
    biases: tuple[Float[Array, " O"], ...]
    given: tuple[Float[Array, "C O"], ...]
    gain: Float[Array, " D"]

    @property
    def explicit(self) -> bool:
        """False: the inverse is found coordinate by coordinate."""
        return False

    @property
    def cheap_score(self) -> bool:
        """Where the whole Jacobian, which it takes, is small."""
        return self.gain.shape[-1] <= MAX_JACOBIAN

    @classmethod
    def initial(
        cls,
        generator: np.random.Generator,
        dim: int,
        hidden: tuple[int, ...],
        context_dim: int,
        dtype: Any,
    ) -> "BlockNeural":
        """The identity, with hidden weights at random.

        Args:
          generator: draws them.
          dim: number D of coordinates.
          hidden: units a coordinate, in each hidden layer.
          context_dim: number C of coordinates of the context.
          dtype: of the parameters.
        """
        sizes = (1, *hidden, 1)
        array = lambda x: jnp.asarray(np.asarray(x), dtype)
        normal = lambda shape, fan: generator.normal(size=shape) / np.sqrt(max(fan, 1))
        pairs = list(itertools.pairwise(sizes))
        weights = [normal((dim * a, dim * b), dim * a) for a, b in pairs[:-1]]
        diagonals = [normal((dim, a, b), 4.0) - np.log(a) for a, b in pairs]
        diagonals[0], diagonals[-1] = diagonals[0][:, 0], diagonals[-1][..., 0]
        given = [normal((context_dim, dim * b), context_dim) for b in sizes[1:-1]]
        return cls(
            tuple(map(array, [*weights, np.zeros((dim * sizes[-2], dim))])),
            tuple(map(array, diagonals)),
            tuple(array(generator.normal(size=dim * b)) for b in sizes[1:-1]),
            tuple(map(array, [*given, np.zeros((context_dim, dim))])),
            array(np.zeros(dim)),
        )

    def _positive(self) -> tuple[list[Array], Array, Array]:
        """Weights within a coordinate; m(γ) / F; and a bound on the output of f."""
        positive = [jnp.exp(w) for w in self.diagonals]
        paths = positive[0]
        for w in positive[1:-1]:
            paths = jnp.einsum("dh,dhk->dk", paths, w)
        scale = above_minus_one(self.gain) / jnp.sum(paths * positive[-1], axis=-1)
        return positive, scale, jnp.sum(positive[-1], axis=-1)

    def _network(self, x: Array, context: Context) -> tuple[Array, Array, _Seen]:
        """y, the slopes ∂y_i/∂x_i less one, and what each coordinate saw of the others."""
        dim = self.gain.shape[-1]
        positive, scale, _ = self._positive()
        flat, seen = x, []
        own = slope = x[..., None]
        for k, w in enumerate(self.weights):
            earlier = flat @ (w * _mask(w.shape, dim))
            if k < len(self.biases):
                earlier = earlier + self.biases[k]
            if context is not None:
                earlier = earlier + context @ self.given[k]
            earlier = earlier.reshape(*x.shape, -1)
            seen.append(earlier)
            if k == len(self.biases):
                break
            own, slope = _unit(positive, k, own, slope, earlier)
            flat = own.reshape(*x.shape[:-1], -1)
        inside, slope = (jnp.sum(v * positive[-1], axis=-1) for v in (own, slope))
        output = seen.pop()[..., 0]
        return x + scale * inside + output, scale * slope, _Seen(seen, output)

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and ``log |det ∂y/∂x|``."""
        y, slope, _ = self._network(x, context)
        return y, jnp.sum(jnp.log1p(slope), axis=-1)

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and ``log |det ∂x/∂y|``; D passes and D roots."""
        positive, scale, bound = self._positive()

        def step(x: Array, i: Array) -> tuple[Array, None]:
            _, _, seen = self._network(x, context)
            weights = [w[i] for w in positive]
            aim = y[..., i] - seen.output[..., i]

            def f(a: Array) -> tuple[Array, Array]:
                own = slope = a[..., None]
                for k, earlier in enumerate(seen.hidden):
                    own, slope = _unit(weights, k, own, slope, earlier[..., i, :])
                inside, slope = (jnp.sum(v * weights[-1], axis=-1) for v in (own, slope))
                return a + scale[i] * inside - aim, 1 + scale[i] * slope

            reach = jnp.abs(scale[i]) * bound[i]
            new = increasing_root(f, aim - reach, aim + reach)
            return x.at[..., i].set(new), None

        x, _ = jax.lax.scan(step, jnp.zeros_like(y), jnp.arange(y.shape[-1]))
        return x, -self.forward_and_log_det(x, context)[1]

    def _push_score(self, x: Array, y: Array, score: Array, context: Context) -> Array:
        """The score at y, by the triangular Jacobian."""
        del y
        return triangular_score(lambda x: self.forward_and_log_det(x, context), x, score)


def _unit(
    positive: list[Array], k: int, own: Array, slope: Array, earlier: Array
) -> tuple[Array, Array]:
    """Hidden layer k of each coordinate's own network, and its derivative in that coordinate."""
    if k == 0:
        own = jnp.tanh(own * positive[0] + earlier)
        return own, positive[0] * (1 - own**2)
    form = "...dh,dhk->...dk" if positive[k].ndim == 3 else "...h,hk->...k"
    own = jnp.tanh(jnp.einsum(form, own, positive[k]) + earlier)
    return own, jnp.einsum(form, slope, positive[k]) * (1 - own**2)


def _mask(shape: tuple[int, ...], dim: int) -> np.ndarray:
    """Which weights go from a coordinate to a later one; `True` where they count."""
    inputs, outputs = (np.arange(size) // (size // dim) for size in shape)
    return inputs[:, None] < outputs
