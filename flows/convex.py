"""Gradients of convex functions, which are the optimal transport maps of squared distance."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flows.layer import Context, Layer, Mapped, stop
from vi.module import module, static

_NEWTON = 25  # steps of the inverse
_SIZES = 8  # of a step: 1, 1/2, ..., of which the best is taken
_FIRST = 0.1  # root of a first weight


@module
class ConvexGradient(Layer):
    r"""The gradient of a strongly convex function, made of an input-convex network.

    .. math::
        y = ∇φ(x), \qquad φ(x) = \tfrac12 x^T (M M^T + ε I)\, x + b^T x + w^T z_L, \\
        z_1 = s(A_1 x + b_1), \quad z_{l+1} = s(W_l z_l + A_{l+1} x + b_{l+1})

    with s the softplus, convex and rising, and W and w squares, so that φ is convex for all
    parameters. By Brenier's theorem every optimal map of squared distance from a law with a density
    is the gradient of a convex function. The Jacobian is the Hessian of φ, symmetric and at least
    ε; the inverse is by damped Newton steps, which get there from everywhere.

    References: Amos, Xu and Kolter (2017), "Input convex neural networks", equation 2; Huang,
    Chen, Tsirigotis and Courville (2021), "Convex potential flows: universal probability
    distributions with optimal transport and convex optimization", section 3.

    Attributes:
      root: M, shape ``(D, D)``.
      shift: b, shape ``(D,)``.
      inner: A, one matrix for each hidden layer, shape ``(D, H)``.
      biases: one vector for each hidden layer, shape ``(H,)``.
      mixing: roots of W, one matrix between each two hidden layers, shape ``(H, H)``.
      outer: roots of w, shape ``(H,)``.
      floor: ε, the least eigenvalue of the Jacobian.
    """

    root: Float[Array, "D D"]
    shift: Float[Array, " D"]
    inner: tuple[Float[Array, "D H"], ...]
    biases: tuple[Float[Array, " H"], ...]
    mixing: tuple[Float[Array, "H H"], ...]
    outer: Float[Array, " H"]
    floor: float = static(default=0.05)

    @property
    def explicit(self) -> bool:
        """False: the inverse is iterated."""
        return False

    @classmethod
    def initial(
        cls, generator: np.random.Generator, dim: int, hidden: tuple[int, ...], dtype: Any
    ) -> "ConvexGradient":
        """Near the identity, with hidden weights at random.

        Args:
          generator: of NumPy.
          dim: D.
          hidden: units of each hidden layer, at least one layer.
          dtype: of the parameters.
        """
        make = lambda *shape: jnp.asarray(generator.normal(size=shape) / shape[0] ** 0.5, dtype)
        small = lambda *shape: jnp.full(shape, _FIRST / shape[0] ** 0.5, dtype)
        return cls(
            root=(1 - cls.floor) ** 0.5 * jnp.eye(dim, dtype=dtype),
            shift=jnp.zeros(dim, dtype),
            inner=tuple(make(dim, size) for size in hidden),
            biases=tuple(make(1, size)[0] for size in hidden),
            mixing=tuple(small(*pair) for pair in itertools.pairwise(hidden)),
            outer=small(hidden[-1]),
        )

    def potential(self, x: Float[Array, " D"]) -> Float[Array, ""]:
        """φ at one point."""
        quadratic = 0.5 * jnp.sum((x @ self.root) ** 2) + 0.5 * self.floor * jnp.sum(x**2)
        z = jax.nn.softplus(x @ self.inner[0] + self.biases[0])
        for w, a, b in zip(self.mixing, self.inner[1:], self.biases[1:], strict=True):
            z = jax.nn.softplus(z @ w**2 + x @ a + b)
        return quadratic + x @ self.shift + z @ self.outer**2

    def _image(self, x: Array) -> Array:
        return jax.vmap(jax.grad(self.potential))(x)

    def _squares(self, x: Array) -> tuple[Array, Array]:
        """Vectors and weights, one of each for each hidden unit: the Hessian is their squares."""
        softplus, slope = jax.nn.softplus, jax.nn.sigmoid
        inputs, rises = [x @ self.inner[0] + self.biases[0]], [self.inner[0][None]]
        for w, a, b in zip(self.mixing, self.inner[1:], self.biases[1:], strict=True):
            rises.append(a + (rises[-1] * slope(inputs[-1])[:, None]) @ w**2)
            inputs.append(softplus(inputs[-1]) @ w**2 + x @ a + b)
        pull, bends = jnp.broadcast_to(self.outer**2, inputs[-1].shape), []
        for i in reversed(range(len(inputs))):
            gate = slope(inputs[i])
            bends.append(pull * gate * (1 - gate))
            pull = (pull * gate) @ self.mixing[i - 1].T ** 2 if i else pull
        if len(rises) > 1:
            rises[0] = jnp.broadcast_to(rises[0], (len(x), *rises[0].shape[1:]))
        return jnp.concatenate(rises[::-1], -1), jnp.concatenate(bends, -1)

    def _plain(self) -> Array:
        """The Hessian without hidden units."""
        return self.root @ self.root.T + self.floor * jnp.eye(len(self.root), dtype=self.root.dtype)

    def _jacobian(self, x: Array) -> Array:
        rises, bends = self._squares(x)
        return self._plain() + (rises * bends[:, None]) @ jnp.swapaxes(rises, 1, 2)

    def _log_det(self, x: Array) -> Array:
        """By Sylvester's identity where one layer of few units bends the same matrix everywhere."""
        first, *others = self.inner
        if others or first.shape[1] >= x.shape[-1]:
            return jnp.linalg.slogdet(self._jacobian(x))[1]
        rises, bends = self._squares(x)
        rise = rises[0]
        plain = self._plain()
        inside = bends[:, :, None] * (rise.T @ jnp.linalg.solve(plain, rise))
        eye = jnp.eye(bends.shape[1], dtype=x.dtype)
        return jnp.linalg.slogdet(plain)[1] + jnp.linalg.slogdet(inside + eye)[1]

    def forward_and_log_det(self, x: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The image of x and ``log |det ∂y/∂x|``; O(D² H + D H² + D³) for the latter."""
        del context
        rows = x.reshape(-1, x.shape[-1])
        return self._image(rows).reshape(x.shape), self._log_det(rows).reshape(x.shape[:-1])

    def inverse_and_log_det(self, y: Float[Array, "*S D"], context: Context = None) -> Mapped:
        """The x of which y is the image, and ``log |det ∂x/∂y|``."""
        fixed, rows = stop(self), y.reshape(-1, y.shape[-1])
        at = stop(rows)
        sizes = jnp.asarray(0.5 ** np.arange(_SIZES), y.dtype)

        def newton(_: int, x: Array) -> Array:
            move = _solve(fixed._jacobian(x), at - fixed._image(x))
            tried = x + sizes[:, None, None] * move
            miss = jnp.sum((jax.vmap(fixed._image)(tried) - at) ** 2, axis=-1)
            best = jnp.argmin(miss, axis=0)
            return jnp.take_along_axis(tried, best[None, :, None], axis=0)[0]

        x = jax.lax.fori_loop(0, _NEWTON, newton, at)
        # One more step, through which first derivatives are those of the inverse.
        x = x + _solve(fixed._jacobian(x), rows - self._image(x))
        x = x.reshape(y.shape)
        return x, -self.forward_and_log_det(x, context)[1]

    def _push_score(self, x: Array, y: Array, score: Array, context: Context) -> Array:
        """The score at y, by one solve with the Jacobian, which is symmetric."""
        del y
        log_det = lambda x: jnp.sum(self.forward_and_log_det(x, context)[1])
        rows = (score - jax.grad(log_det)(x)).reshape(-1, x.shape[-1])
        jacobian = self._jacobian(x.reshape(-1, x.shape[-1]))
        return _solve(jacobian, rows).reshape(x.shape)


def _solve(matrices: Array, rows: Array) -> Array:
    return jnp.linalg.solve(matrices, rows[..., None])[..., 0]
