"""Several outputs as mixtures of a few latent processes: linear coregionalisation."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gp.kernels.kernel import Kernel
from vi.module import module


@module
class Coregional(Kernel):
    r"""Outputs that are linear combinations of independent processes.

    .. math:: f_p(x) = \sum_q W_{pq}\, g_q(x), \qquad
              k\big((x, p), (x', p')\big) = \sum_q W_{pq} W_{p'q}\, k_q(x, x')

    Inputs have a last column that says which output, as numbers 0 to P - 1; `gp.stack_outputs`
    makes such data of a table. One latent process for all outputs and a second for each, with a
    diagonal in W, is the usual intrinsic model with private parts.

    Args:
      kernels: k_q, of the inputs without that column.
      weights: W, shape ``(P, Q)``, of any sign; trained.

    Raises:
      ValueError: when evaluated, if weights are not one column for each kernel.

    Complexity:
      O(N M D) for each kernel.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> kernel = gp.Coregional((gp.Matern(),), jnp.asarray([[1.0], [-2.0]]))
      >>> x = jnp.asarray([[0.5, 0.0], [0.5, 1.0]])
      >>> kernel(x, x).tolist()
      [[1.0, -2.0], [-2.0, 4.0]]

    Reference: Alvarez, Rosasco and Lawrence (2012), "Kernels for vector-valued functions: a
    review", section 4.2.
    """

    kernels: tuple[Any, ...]
    weights: Float[Array, "P Q"]

    def __call__(self, a: Float[Array, "*B N D"], b: Float[Array, "*B M D"]) -> Array:
        """The block of covariances."""
        left, right = self.mixing(a), self.mixing(b)
        terms = [
            left[..., :, None, q] * right[..., None, :, q] * kernel(a[..., :-1], b[..., :-1])
            for q, kernel in enumerate(self.kernels)
        ]
        return functools.reduce(jnp.add, terms)

    def diagonal(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N"]:
        """Variances."""
        mixing = self.mixing(x)
        terms = [mixing[..., q] ** 2 * k.diagonal(x[..., :-1]) for q, k in enumerate(self.kernels)]
        return functools.reduce(jnp.add, terms)

    def metric(self, x: Float[Array, "N D"]) -> Float[Array, "N E"]:
        """The kernels' coordinates and, by their correlation, the outputs', side by side."""
        mixing = self.mixing(x)
        size = jnp.linalg.norm(mixing, axis=-1, keepdims=True)
        own = [kernel.metric(x[..., :-1]) for kernel in self.kernels]
        return jnp.concatenate([*own, mixing / jnp.where(size > 0, size, 1.0)], -1)

    def mixing(self, x: Float[Array, "*B N D"]) -> Float[Array, "*B N Q"]:
        """The row of W that each input asks for."""
        if jnp.ndim(self.weights) != 2 or self.weights.shape[1] != len(self.kernels):
            raise ValueError(
                f"Coregional: expected weights of shape (P, {len(self.kernels)}), a column for "
                f"each kernel; got {jnp.shape(self.weights)}."
            )
        return of_output(self.weights, x)


def of_output(values: Float[Array, "P ..."], x: Float[Array, "*B N D"]) -> Array:
    """The values of the output that the last column names; NaN where there is none of the name."""
    number = x[..., -1]
    row = jnp.round(number).astype(int)
    known = (row == number) & (row >= 0)
    row = jnp.where(known, row, len(values))
    return jnp.asarray(values).at[row].get(mode="fill", fill_value=jnp.nan)


def coregional(
    kernel: Any, num_outputs: int, num_latents: int, *, private: bool = False
) -> Coregional:
    r"""A kernel of linear coregionalisation to start training from.

    Weights start as cosines, :math:`W_{pq} = \cos(π q (p + ½) / \max(P, Q))`, orthogonal if Q ≤ P,
    and none zero for all outputs, so that latent processes begin different.

    Args:
      kernel: k, the start of each latent process's.
      num_outputs: P.
      num_latents: Q, shared by all outputs.
      private: whether each output has one more process of its own.

    Returns:
      The kernel, of Q, or Q + P, latent processes.

    Example:
      >>> import gp
      >>> gp.coregional(gp.Matern(), 3, 1, private=True).weights.tolist()
      [[1.0, 0.5, 0.0, 0.0], [1.0, 0.0, 0.5, 0.0], [1.0, 0.0, 0.0, 0.5]]
    """
    if num_outputs < 1 or num_latents + private * num_outputs < 1:
        raise ValueError(
            f"gp.coregional: expected outputs and latent processes; got {num_outputs}, "
            f"{num_latents}."
        )
    p, q = np.arange(num_outputs)[:, None], np.arange(num_latents)
    weights = np.cos(np.pi * q * (p + 0.5) / max(num_outputs, num_latents))
    if private:
        weights = np.concatenate([weights, 0.5 * np.eye(num_outputs)], 1)
    return Coregional((kernel,) * weights.shape[1], jnp.asarray(weights))
