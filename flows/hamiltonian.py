r"""An invertible map that keeps a density and a momentum: leapfrog steps and a rotation.

On a position x, a momentum ρ and a phase u in [0, 1) the map T takes L leapfrog steps of the
Hamiltonian -log π(x) - log m(ρ), shifts the phase by a fixed irrational amount, and refreshes each
momentum by a rotation of its distribution function R by an amount that depends on where x is:

.. math::
    u' = u + π/16 \bmod 1, \qquad
    ρ_i' = R^{-1}\bigl(R(ρ_i) + \tfrac12 \sin(2 x_i + u') + \tfrac12 \bmod 1\bigr).

It preserves π(x) m(ρ) 1(u) but for the error of the leapfrog steps, for which there is no
accept-reject correction: Xu, Chen and Campbell (2023), "MixFlows: principled variational inference
via mixed flows", section 4.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float

from vi.module import module, static

Momentum = Literal["normal", "laplace"]
_SHIFT = math.pi / 16


class Point(NamedTuple):
    """A point of the augmented space: a position, its momentum, and a phase in [0, 1)."""

    position: Float[Array, " D"]
    momentum: Float[Array, " D"]
    phase: Float[Array, ""]


@module
class HamiltonianMap:
    """The map T and its inverse, in D dimensions.

    Attributes:
      step_size: of a leapfrog step, shape ``()``.
      num_leapfrog: L, an integer array of shape ``()``: a value, not a part of the structure, so
        that a grid of lengths is compiled once.
      momentum: m, ``"normal"`` or ``"laplace"``, standard, in each coordinate.
    """

    step_size: Float[Array, ""]
    num_leapfrog: Array
    momentum: Momentum = static(default="normal")

    def sample_momentum(self, key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        """Draws of m."""
        draw = jax.random.normal if self.momentum == "normal" else jax.random.laplace
        return draw(key, shape, dtype)

    def log_momentum(self, momentum: Float[Array, "... D"]) -> Float[Array, "..."]:
        """Log m, summed over coordinates."""
        if self.momentum == "normal":
            return jnp.sum(-0.5 * momentum**2 - 0.5 * math.log(2 * math.pi), axis=-1)
        return jnp.sum(-jnp.abs(momentum) - math.log(2), axis=-1)

    def move(
        self, score: Callable[[Array], Array], at: Point, forward: Array
    ) -> tuple[Point, Float[Array, ""]]:
        """T where ``forward`` is true, else its inverse.

        One traced path serves both ways: the inverse undoes the refreshment, then takes the
        leapfrog steps backwards in time.

        Args:
          score: ∇ log π, a function of the position.
          at: the point.
          forward: a Boolean, shape ``()``.

        Returns:
          The new point, and the logarithm of the absolute determinant of the Jacobian of the move
          that was made.

        Complexity:
          L + 1 gradients.
        """
        undone = self._refreshed(at, -1.0)
        start = at._replace(momentum=jnp.where(forward, at.momentum, undone))
        position, momentum = self._leapfrog(score, start, jnp.where(forward, 1.0, -1.0))
        phase = (at.phase + jnp.where(forward, _SHIFT, -_SHIFT)) % 1.0
        moved = Point(position, momentum, phase)
        end = moved._replace(momentum=jnp.where(forward, self._refreshed(moved, 1.0), momentum))
        # Leapfrog steps and the shift keep volumes, and ∂ρ'/∂ρ = m(ρ) / m(ρ').
        before = jnp.where(forward, momentum, at.momentum)
        after = jnp.where(forward, end.momentum, undone)
        return end, self.log_momentum(before) - self.log_momentum(after)

    def _leapfrog(
        self, score: Callable[[Array], Array], at: Point, sign: Array
    ) -> tuple[Array, Array]:
        step = (sign * self.step_size).astype(at.position.dtype)

        def body(_: int, carry: tuple) -> tuple:
            x, rho, slope = carry
            half = rho + 0.5 * step * slope
            x = x + step * (half if self.momentum == "normal" else jnp.sign(half))
            slope = score(x)
            return x, half + 0.5 * step * slope, slope

        begin = (at.position, at.momentum, score(at.position))
        x, rho, _ = jax.lax.fori_loop(0, self.num_leapfrog, body, begin)
        return x, rho

    def _refreshed(self, at: Point, sign: float) -> Array:
        """The momentum with its distribution function rotated forwards or back."""
        rho = at.momentum
        tiny, most = jnp.finfo(rho.dtype).tiny, 1 - jnp.finfo(rho.dtype).epsneg
        angle = 0.5 * jnp.sin(2 * at.position + at.phase) + 0.5
        if self.momentum == "normal":
            turned = jnp.clip((ndtr(rho) + sign * angle) % 1.0, tiny, most)
            return ndtri(turned)
        half = 0.5 * jnp.exp(-jnp.abs(rho))
        turned = jnp.clip((jnp.where(rho < 0, half, 1 - half) + sign * angle) % 1.0, tiny, most)
        return jnp.where(turned < 0.5, jnp.log(2 * turned), -jnp.log(2 * (1 - turned)))
