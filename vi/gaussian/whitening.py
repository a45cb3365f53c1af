"""From the loss gradient of a Gaussian family to whitened coordinates, and back.

With a lower triangular root L, the gradient B of the loss in L has ``tril(Lᵀ B)`` equal to the
lower triangle of the symmetric matrix ``Lᵀ E[-∇² log p] L - I``. That is all any of the
second-order rules needs, so each of them is a plain optax transformation of loss gradients.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from optim.roots import whitened_gradient
from vi.families.gaussian import Gaussian
from vi.families.scale import BlockScale, DenseScale, DiagonalScale
from vi.gaussian.root import BlockRoot, DenseRoot, DiagonalRoot


def root_of(q: Gaussian | None, owner: str) -> DenseRoot | DiagonalRoot | BlockRoot:
    """The square root of a Gaussian's covariance.

    Raises:
      ValueError: if there is no Gaussian, since ``update`` was called without ``params``.
      TypeError: if the scale is not diagonal, dense or block with ``positive="linear"``.
    """
    if q is None:
        raise ValueError(f"{owner}: expected params in update(grads, state, params); got None.")
    scale = q.scale
    if getattr(scale, "positive", None) != "linear" or not isinstance(
        scale, (DiagonalScale, DenseScale, BlockScale)
    ):
        raise TypeError(
            f"{owner}: expected a Gaussian with a diagonal, dense or block scale and "
            f"positive='linear'; got {type(scale).__name__} with "
            f"positive={getattr(scale, 'positive', None)!r}. Make q with vi.mean_field, "
            "vi.full_rank or vi.block."
        )
    if isinstance(scale, DiagonalScale):
        return DiagonalRoot(scale.raw)
    if isinstance(scale, DenseScale):
        return DenseRoot(jnp.tril(scale.raw))
    return BlockRoot(tuple(DenseRoot(jnp.tril(b.raw)) for b in scale.blocks), scale.indices)


def scale_of(root: Any) -> DiagonalScale | DenseScale | BlockScale:
    """The scale whose root this is, a dense one made lower triangular. Runs on the host."""
    if isinstance(root, DiagonalRoot):
        return DiagonalScale(jnp.asarray(np.abs(root.diagonal)))
    if isinstance(root, BlockRoot):
        return BlockScale(tuple(scale_of(block) for block in root.blocks), root.indices)
    matrix = np.asarray(root.matrix)
    upper = np.asarray(
        np.linalg.qr(matrix.T, mode="r")
    )  # L Lᵀ = Rᵀ R: no squaring of the condition
    signs = np.where(np.diagonal(upper) < 0, -1, 1)
    return DenseScale(jnp.asarray((upper * signs[:, None]).T.astype(matrix.dtype)))


def whiten(q: Gaussian, grads: Any, owner: str) -> tuple[Any, Array, Any]:
    """The root of q, the whitened gradient of the ELBO in the location, and the excess A - I."""
    root = root_of(q, owner)
    gradient = -root.transpose_matmul(grads.loc)
    if isinstance(root, DiagonalRoot):
        return root, gradient, DiagonalRoot(root.diagonal * grads.scale.raw)
    if isinstance(root, DenseRoot):
        return root, gradient, _dense_excess(root, grads.scale.raw)
    pairs = zip(root.blocks, grads.scale.blocks, strict=True)
    blocks = tuple(_dense_excess(b, g.raw) for b, g in pairs)
    return root, gradient, BlockRoot(blocks, root.indices)


def _dense_excess(root: DenseRoot, gradient: Array) -> DenseRoot:
    return DenseRoot(whitened_gradient(root.matrix, gradient))


def replace(loc: Array, root: Any) -> Gaussian:
    """The Gaussian with a location and a root."""
    if isinstance(root, DiagonalRoot):
        return Gaussian(loc, DiagonalScale(root.diagonal))
    if isinstance(root, DenseRoot):
        return Gaussian(loc, DenseScale(root.matrix))
    blocks = tuple(DenseScale(b.matrix) for b in root.blocks)
    return Gaussian(loc, BlockScale(blocks, root.indices))


def updates(new: Gaussian, old: Gaussian) -> Gaussian:
    """What `optax.apply_updates` must add to ``old`` to make it ``new``."""
    return jax.tree.map(lambda a, b: a - b, new, old)
