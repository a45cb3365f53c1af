"""Square roots of a Gaussian's covariance: dense, diagonal, and in blocks.

A root L stands for Σ = L Lᵀ, and also for symmetric matrices of the same sparsity in the
coordinates that L whitens, such as the curvature Lᵀ (-∇² log p) L. The three classes share
their methods, so that one natural-gradient step serves every structure.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi.blocks import Groups, join, split
from vi.module import module, static

Spectrum = Float[Array, " D"]


@module
class DenseRoot:
    """A full square root ``matrix`` of shape ``(D, D)``; not necessarily triangular."""

    matrix: Float[Array, "D D"]

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """``L x`` for each row of ``x``."""
        return x @ self.matrix.T

    def transpose_matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """``Lᵀ x`` for each row of ``x``."""
        return x @ self.matrix

    def dense(self) -> "DenseRoot":
        """Itself."""
        return self

    def part(self, full: "DenseRoot") -> "DenseRoot":
        """All of a dense symmetric matrix."""
        return full

    def outer(self, u: Float[Array, "R D"], g: Float[Array, "R D"]) -> "DenseRoot":
        """The symmetric part of ``Σᵢ uᵢ gᵢᵀ``, on this root's sparsity."""
        product = u.T @ g
        return DenseRoot(0.5 * (product + product.T))

    def spectral(
        self, curvature: "DenseRoot"
    ) -> tuple[Spectrum, Callable[[Array], Array], Callable[[Array], "DenseRoot"]]:
        """Eigenvalues λ of a curvature ``V λ Vᵀ``, and what to do in its eigenbasis.

        Returns:
          λ; the map ``x -> Vᵀ x``; and the map ``f -> L V diag(f)``, a new root, from which
          ``L V c = new.matmul(c / f)``.
        """
        values, vectors = jnp.linalg.eigh(curvature.matrix)
        turned = self.matrix @ vectors
        return values, lambda x: vectors.T @ x, lambda f: DenseRoot(turned * f)

    def natural_update(
        self, excess: "DenseRoot", gradient: Float[Array, " D"], rate: Array
    ) -> tuple["DenseRoot", Float[Array, " D"], Array]:
        """A natural-gradient step that keeps the covariance positive definite.

        With X the whitened curvature less the identity and P = ½ (I + (I + ρX)²), which is at
        least I/2 whatever X is and I + ρX + O(ρ²), the new precision is ``L⁻ᵀ P L⁻¹``.

        Args:
          excess: the matrix X.
          gradient: whitened gradient ``Lᵀ ∇``.
          rate: ρ, shape ``()``.

        Returns:
          The new root; the step of the location in *new* whitened coordinates; and the change
          of ``log |det L|``.
        """
        eye = jnp.eye(gradient.shape[0], dtype=gradient.dtype)
        moved = eye + rate * excess.matrix
        precision = 0.5 * (eye + moved @ moved)
        # P = R Rᵀ with R upper triangular, so that a lower triangular root stays one.
        upper = jnp.linalg.cholesky(precision[::-1, ::-1])[::-1, ::-1]
        both = jnp.concatenate([self.matrix.T, rate * gradient[:, None]], axis=1)
        solved = jax.scipy.linalg.solve_triangular(upper, both, lower=False)
        change = -jnp.sum(jnp.log(jnp.diagonal(upper)))
        return DenseRoot(solved[:, :-1].T), solved[:, -1], change


@module
class DiagonalRoot:
    """Standard deviations ``diagonal`` of shape ``(D,)``."""

    diagonal: Float[Array, " D"]

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """``L x`` for each row of ``x``."""
        return x * self.diagonal

    transpose_matmul = matmul

    def dense(self) -> DenseRoot:
        """The same root as one matrix."""
        return DenseRoot(jnp.diag(self.diagonal))

    def part(self, full: "DenseRoot | DiagonalRoot") -> "DiagonalRoot":
        """The diagonal of a symmetric matrix."""
        return full if isinstance(full, DiagonalRoot) else DiagonalRoot(jnp.diagonal(full.matrix))

    def outer(self, u: Float[Array, "R D"], g: Float[Array, "R D"]) -> "DiagonalRoot":
        """The diagonal of ``Σᵢ uᵢ gᵢᵀ``."""
        return DiagonalRoot(jnp.sum(u * g, axis=0))

    def spectral(
        self, curvature: "DiagonalRoot"
    ) -> tuple[Spectrum, Callable[[Array], Array], Callable[[Array], "DiagonalRoot"]]:
        """As `DenseRoot.spectral`, with V = I."""
        return curvature.diagonal, lambda x: x, lambda f: DiagonalRoot(self.diagonal * f)

    def natural_update(
        self, excess: "DiagonalRoot", gradient: Float[Array, " D"], rate: Array
    ) -> tuple["DiagonalRoot", Float[Array, " D"], Array]:
        """As `DenseRoot.natural_update`, elementwise."""
        root_precision = jnp.sqrt(0.5 * (1 + (1 + rate * excess.diagonal) ** 2))
        change = -jnp.sum(jnp.log(root_precision))
        new = DiagonalRoot(self.diagonal / root_precision)
        return new, rate * gradient / root_precision, change


@module
class BlockRoot:
    """A dense root for each of several disjoint groups of coordinates."""

    blocks: tuple[DenseRoot, ...]
    indices: Groups = static()

    def _new(self, blocks: list[DenseRoot]) -> "BlockRoot":
        return BlockRoot(tuple(blocks), self.indices)

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """``L x`` for each row of ``x``."""
        parts = zip(self.blocks, split(x, self.indices), strict=True)
        return join([b.matmul(part) for b, part in parts], self.indices)

    def transpose_matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """``Lᵀ x`` for each row of ``x``."""
        parts = zip(self.blocks, split(x, self.indices), strict=True)
        return join([b.transpose_matmul(part) for b, part in parts], self.indices)

    def dense(self) -> DenseRoot:
        """The same root as one matrix."""
        dim = sum(map(len, self.indices))
        matrix = jnp.zeros((dim, dim), self.blocks[0].matrix.dtype)
        for block, group in zip(self.blocks, self.indices, strict=True):
            matrix = matrix.at[jnp.ix_(jnp.array(group), jnp.array(group))].set(block.matrix)
        return DenseRoot(matrix)

    def part(self, full: DenseRoot) -> "BlockRoot":
        """The blocks of a dense symmetric matrix."""
        ix = [jnp.ix_(jnp.array(group), jnp.array(group)) for group in self.indices]
        return self._new([DenseRoot(full.matrix[i]) for i in ix])

    def natural_update(
        self, excess: "BlockRoot", gradient: Float[Array, " D"], rate: Array
    ) -> tuple["BlockRoot", Float[Array, " D"], Array]:
        """As `DenseRoot.natural_update`, block by block."""
        parts = zip(self.blocks, excess.blocks, split(gradient, self.indices), strict=True)
        done = [b.natural_update(x, g, rate) for b, x, g in parts]
        change = jnp.sum(jnp.stack([d[2] for d in done]))
        move = join([d[1] for d in done], self.indices)
        return self._new([d[0] for d in done]), move, change


class Root(Protocol):
    """What all three have in common."""

    def matmul(self, x: Array) -> Array:
        """``L x`` for each row of ``x``."""
        ...

    def transpose_matmul(self, x: Array) -> Array:
        """``Lᵀ x`` for each row of ``x``."""
        ...

    def dense(self) -> DenseRoot:
        """The same root as one matrix."""
        ...

    def part(self, full: Any) -> Any:
        """A symmetric matrix on this root's sparsity."""
        ...

    def natural_update(self, excess: Any, gradient: Array, rate: Array) -> tuple[Any, Array, Array]:
        """A natural-gradient step; see `DenseRoot.natural_update`."""
        ...


class SearchRoot(Root, Protocol):
    """What a search needs besides; dense and diagonal roots have it."""

    def outer(self, u: Array, g: Array) -> Any:
        """The symmetric part of ``Σᵢ uᵢ gᵢᵀ``, on this root's sparsity."""
        ...

    def spectral(self, curvature: Any) -> tuple[Array, Callable, Callable]:
        """Eigenvalues and what to do in the eigenbasis; see `DenseRoot.spectral`."""
        ...


def restrict(root: DenseRoot, structure: str, groups: Groups = ()) -> Root:
    """The root of the best Gaussian of a structure for the Gaussian target that ``root`` has.

    KL(q‖p) is least where the precision of q agrees with the target's on q's own sparsity: for
    ``"mean_field"`` on the diagonal, for ``"block"`` on the blocks. Runs on the host.
    """
    if structure == "full_rank":
        return root
    dtype = root.matrix.dtype
    inverse = np.linalg.inv(np.asarray(root.matrix, float))
    precision = inverse.T @ inverse
    if structure == "mean_field":
        return DiagonalRoot(np.asarray(np.diag(precision) ** -0.5, dtype))
    blocks = []
    for group in groups:
        covariance = np.linalg.inv(precision[np.ix_(group, group)])
        blocks.append(DenseRoot(np.linalg.cholesky(covariance).astype(dtype)))
    return BlockRoot(tuple(blocks), groups)


def minus_identity(curvature: SearchRoot) -> SearchRoot:
    """A symmetric matrix of a root's sparsity, less the identity."""
    if isinstance(curvature, DiagonalRoot):
        return DiagonalRoot(curvature.diagonal - 1)
    matrix = curvature.dense().matrix
    return DenseRoot(matrix - jnp.eye(matrix.shape[0], dtype=matrix.dtype))


def squared_norm(matrix: Root) -> Array:
    """Squared Frobenius norm."""
    return jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves(matrix)]))


def scaled(root: Any, factor: Array) -> Any:
    """The root times a number."""
    return jax.tree.map(lambda leaf: leaf * factor, root)
