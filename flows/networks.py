"""Conditioners: small networks whose outputs are zero at first, so that layers start as identity.

Initial weights are drawn on the host by NumPy: nothing is compiled to make a flow.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flows.layer import Context
from vi.module import module, static


@module
class Network:
    """A multilayer perceptron with SiLU units.

    Attributes:
      weights: one matrix for each layer, shape ``(inputs, outputs)``.
      biases: one vector for each layer, shape ``(outputs,)``.
    """

    weights: tuple[Float[Array, "I O"], ...]
    biases: tuple[Float[Array, " O"], ...]

    def __call__(self, x: Float[Array, "*S D"], context: Context = None) -> Float[Array, "*S O"]:
        """Outputs for inputs x and a context."""
        return _run(_join(x, context), self.weights, self.biases)


@module
class MaskedNetwork:
    r"""A perceptron whose outputs for coordinate i see coordinates before i alone (MADE).

    Unit k of a hidden layer has degree :math:`m_k \in \{0, …, D-1\}` and sees inputs of index
    less than or equal to it; the outputs of coordinate i see units of degree less than i. The
    context is seen by all. Reference: Germain, Gregor, Murray and Larochelle (2015), "MADE: masked
    autoencoder for distribution estimation", equations 8 and 9 (degrees here spread evenly).

    Attributes:
      weights: as of `Network`; entries that the masks hide are ignored.
      biases: as of `Network`.
      dim: number D of coordinates.
    """

    weights: tuple[Float[Array, "I O"], ...]
    biases: tuple[Float[Array, " O"], ...]
    dim: int = static()

    def __call__(self, x: Float[Array, "*S D"], context: Context = None) -> Float[Array, "*S O"]:
        """Outputs, shape ``(..., D * P)``: the P numbers of coordinate i stand together."""
        masks = self._masks()
        weights = tuple(
            w * jnp.asarray(m, w.dtype) for w, m in zip(self.weights, masks, strict=True)
        )
        return _run(_join(x, context), weights, self.biases)

    def _masks(self) -> list[np.ndarray]:
        """For each weight matrix, which entries count."""
        inputs, outputs = self.weights[0].shape[0], self.weights[-1].shape[1]
        # Coordinate j may be seen from degree j on; the context, from degree -1 on.
        degrees = np.concatenate([np.arange(self.dim), np.full(inputs - self.dim, -1)])
        masks = []
        for w in self.weights[:-1]:
            units = np.arange(w.shape[1]) * self.dim // w.shape[1] - 1  # of degree -1 to D - 2
            masks.append(degrees[:, None] <= units)
            degrees = units
        last = np.repeat(np.arange(self.dim), outputs // self.dim)
        return [*masks, degrees[:, None] < last]


def _run(x: Array, weights: Sequence[Array], biases: Sequence[Array]) -> Array:
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        x = jax.nn.silu(x @ w + b)
    return x @ weights[-1] + biases[-1]


def _join(x: Array, context: Context) -> Array:
    if context is None:
        return x
    return jnp.concatenate([x, jnp.broadcast_to(context, (*x.shape[:-1], context.shape[-1]))], -1)


def initial_parameters(
    generator: np.random.Generator, sizes: Sequence[int], dtype: np.dtype
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Weights and biases: normal of variance 1 / inputs, and zero in the last layer."""
    pairs = list(itertools.pairwise(sizes))
    drawn = [generator.normal(size=pair) / np.sqrt(max(pair[0], 1)) for pair in pairs[:-1]]
    weights = (*drawn, np.zeros(pairs[-1]))
    return (
        tuple(jnp.asarray(w.astype(dtype)) for w in weights),
        tuple(jnp.zeros(size, dtype) for size in sizes[1:]),
    )
