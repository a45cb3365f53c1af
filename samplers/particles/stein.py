"""Stein variational gradient descent, annealed, and its Newton variant."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from samplers.particles.state import ParticleInfo, ParticleState, algorithm, moved, scheduled

TRUST = 2.0  # standard deviations of the particles that a Newton move may have


def _median_bandwidth(squared: Float[Array, "N N"]) -> Float[Array, ""]:
    """``h² = median d² / (2 log(N + 1))``, for ``k = exp(-d²/(2h²))``."""
    n = len(squared)
    i, j = jnp.triu_indices(n, 1)
    return jnp.maximum(
        jnp.median(squared[i, j]) / (2 * jnp.log(n + 1.0)), jnp.finfo(squared.dtype).tiny
    )


def _positive(matrix: Array) -> Array:
    """The matrix with the absolute values of its eigenvalues, no less than 1e-3 of the largest."""
    values, vectors = jnp.linalg.eigh(0.5 * (matrix + matrix.T))
    size = jnp.abs(values)
    size = jnp.maximum(size, 1e-3 * jnp.max(size))
    return (vectors * size) @ vectors.T


def _bounded(move: Float[Array, "N D"], x: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """Moves cut to `TRUST` standard deviations of the particles, root mean square."""
    spread = jnp.maximum(jnp.std(x, axis=0), jnp.finfo(x.dtype).eps * (1 + jnp.abs(x)))
    size = jnp.sqrt(jnp.mean((move / spread) ** 2, axis=1, keepdims=True))
    return jnp.where(size > TRUST, move * (TRUST / jnp.where(size > 0, size, 1)), move)


def svgd(
    log_density: Callable[[Array], Array],
    step_size: float | Array | optax.Schedule,
    *,
    temperature: float | Array | optax.Schedule = 1.0,
    method: Literal["gradient", "newton"] = "gradient",
    bandwidth: float | Array | None = None,
) -> Any:
    r"""Stein variational gradient descent: particles that follow the density and repel each other.

    .. math:: x_i \leftarrow x_i + ε\, φ(x_i), \qquad φ(x) = \frac1N \sum_j
        \frac1T k(x_j, x) ∇ \log p(x_j) + ∇_{x_j} k(x_j, x)

    with :math:`k = \exp(-|x - y|^2 / (2h^2))`. A temperature T that comes down from above 1, or
    goes up and down, lets particles spread over modes before they settle; the end must be at T = 1.
    With ``"newton"`` each particle's move is :math:`H_i^{-1} φ(x_i)`,

    .. math:: H_i = \frac1N \sum_j k(x_j, x_i)^2 (-∇^2 \log p(x_j))/T
        + ∇_{x_j} k\, ∇_{x_j} k^T,

    and distances are in the metric of the mean curvature over D, so that no step size has to fit
    the scales of the density: 1 is usual. Curvatures enter with absolute eigenvalues.

    SVGD underestimates variances where D is not small against N; `vi.distances.kernel_stein` of the
    particles says how far they are off.

    Args:
      log_density: of one particle, shape ``(D,)``, for instance ``target.log_density``.
      step_size: ε, a number or a schedule of the step.
      temperature: T, a number or a schedule of the step.
      method: ``"gradient"`` or ``"newton"``.
      bandwidth: h, in units of the particles (of the metric, for Newton); by default the median
        heuristic at every step, for Newton 1.

    Returns:
      A `blackjax.SamplingAlgorithm`: ``init(particles)``, ``step(key, state)``; the step is
      deterministic. A particle whose move is not finite stays, and is counted in the info.

    Raises:
      ValueError: for an unknown method, or at ``init`` for fewer than two particles.

    Complexity:
      N gradients and O(N² D) a step, and for Newton N Hessians and O(N² D² + N D³).

    Reference: Liu and Wang (2016), "Stein variational gradient descent: a general purpose Bayesian
    inference algorithm", Algorithm 1; D'Angelo and Fortuin (2021), "Annealed Stein variational
    gradient descent"; Detommaso, Cui, Spantini, Marzouk and Scheichl (2018), "A Stein variational
    Newton method", in its block-diagonal form.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from samplers.particles import svgd
      >>> how = svgd(lambda x: -0.5 * jnp.sum((x - 3.0) ** 2), 1.0, method="newton")
      >>> state = how.init(jax.random.normal(jax.random.key(0), (20, 2)))
      >>> step = jax.jit(how.step)
      >>> for _ in range(20):
      ...     state, info = step(jax.random.key(0), state)
      >>> bool(jnp.all(jnp.abs(state.particles.mean(0) - 3.0) < 0.05))
      True
    """
    if method not in ("gradient", "newton"):
        raise ValueError(f"svgd: expected method 'gradient' or 'newton'; got {method!r}.")
    newton = method == "newton"

    def step(rng_key: Array, state: ParticleState) -> tuple[ParticleState, ParticleInfo]:
        del rng_key
        x = state.particles
        n, dim = x.shape
        heat = scheduled(temperature, state.count)
        scores = jax.vmap(jax.grad(log_density))(x) / heat
        metric = jnp.eye(dim, dtype=x.dtype)
        curvatures = metric[None]
        if newton:
            curvatures = -jax.vmap(jax.hessian(log_density))(x) / heat
            usable = jnp.all(jnp.isfinite(curvatures), axis=(1, 2), keepdims=True)
            curvatures = jnp.where(usable, curvatures, 0)
            metric = _positive(jnp.mean(curvatures, 0)) / dim
        apart = x[:, None] - x[None]  # [j, i] = x_j - x_i
        turned = apart @ metric
        squared = jnp.sum(apart * turned, -1)
        if bandwidth is not None:
            width = jnp.asarray(bandwidth, x.dtype) ** 2
        else:
            width = jnp.ones((), x.dtype) if newton else _median_bandwidth(squared)
        k = jnp.exp(-squared / (2 * width))
        slopes = -turned * (k / width)[..., None]  # in x_j
        usable = jnp.all(jnp.isfinite(scores), axis=1, keepdims=True)
        phi = (k.T @ jnp.where(usable, scores, 0) + jnp.sum(slopes, 0)) / n
        if newton:
            attraction = jnp.einsum("ji,jab->iab", k**2, curvatures)
            repulsion = jnp.einsum("jia,jib->iab", slopes, slopes)
            hessians = jax.vmap(_positive)((attraction + repulsion) / n)
            phi = _bounded(jnp.linalg.solve(hessians, phi[..., None])[..., 0], x)
        phi = jnp.where(usable, phi, jnp.nan)  # where there is no score there is no move
        return moved(state, x + scheduled(step_size, state.count) * phi)

    return algorithm(step, "svgd")
