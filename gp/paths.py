"""Draws of a posterior as functions that can be evaluated, and differentiated, anywhere."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gp.independent import IndependentPrior
from gp.sites import Sites
from gp.spectral import coordinates, frequencies, power
from vi.compile import quick_jit
from vi.module import module, static
from vi.random import fast_key


@module
class RandomPath:
    r"""Draws of a prior, with mean zero: sums of cosines of random frequencies.

    .. math:: f(x) = \frac{σ}{\sqrt R} \sum_{r=1}^R \big( a_r \cos ω_r^T c(x)
              + b_r \sin ω_r^T c(x) \big), \qquad a_r, b_r \sim N(0, 1)

    Each draw has frequencies of its own, so that means and covariances over draws are the kernel's
    for any R; with R the draws become normal.

    Attributes:
      kernel: made of stationary kernels.
      frequencies: ω, shape ``(S, R, E)``.
      amplitudes: of cosines and sines.
    """

    kernel: Any
    frequencies: Float[Array, "S R E"]
    amplitudes: Float[Array, "S 2 R"]

    def __call__(self, x: Float[Array, "M D"]) -> Float[Array, "S M"]:
        """Values; O(S R M E)."""
        where = coordinates(self.kernel, x)
        scale = jnp.sqrt(power(self.kernel) / self.frequencies.shape[1])

        def one(some: tuple[Array, Array]) -> Array:
            angles = where @ some[0].T
            return jnp.cos(angles) @ some[1][0] + jnp.sin(angles) @ some[1][1]

        return scale * jax.lax.map(one, (self.frequencies, self.amplitudes))


@module
class Paths:
    r"""Draws of a posterior as functions: those of the prior, moved by what data say of them.

    .. math:: f(x) = μ(x) + f_0(x) + k(x, z)\, w

    Calling it twice at a point gives the same values; it can be differentiated in x, so that the
    best points of a draw are found by gradients (Thompson sampling). Made by
    `Posterior.sample_paths`.

    Attributes:
      kernel: k.
      mean: μ.
      path: f₀, draws of the prior.
      anchors: z, the inputs of the data or inducing inputs.
      weights: w of each draw.
      latents: latent functions; with several, all leaves but anchors have a first axis of them.

    Reference: Wilson, Borovitskiy, Terenin, Mostowsky and Deisenroth (2020), "Efficiently sampling
    functions from Gaussian process posteriors", equations 12 and 13.
    """

    kernel: Any
    mean: Any
    path: RandomPath
    anchors: Float[Array, "K D"]
    weights: Float[Array, "S K"]
    latents: int = static(default=1)

    def __call__(self, x: Float[Array, "M D"]) -> Float[Array, "S M ..."]:
        """Values of all draws at points, shape ``(S, M)``, or ``(S, M, L)``.

        Raises:
          ValueError: if the points are not of as many coordinates as the data.
        """
        x, dim = jnp.asarray(x, self.anchors.dtype), self.anchors.shape[-1]
        x = x[:, None] if x.ndim == 1 and dim == 1 else x
        if x.ndim != 2 or x.shape[1] != dim:
            raise ValueError(f"Paths: expected inputs of shape (M, {dim}); got {x.shape}.")
        return _values(self, x)


@jax.jit  # and not `quick_jit`, which cannot be inside of a user's own
def _values(paths: Paths, x: Array) -> Array:
    value = lambda kernel, mean, path, weights: (
        mean(x) + path(x) + weights @ kernel(paths.anchors, x)
    )
    parts = paths.kernel, paths.mean, paths.path, paths.weights
    if paths.latents == 1:
        return value(*parts)
    return jnp.moveaxis(jax.vmap(value)(*parts), 0, -1)


def draw_paths(
    key: Array, prior: Any, q: Any, sites: Sites, num_paths: int, num_features: int
) -> Paths:
    """Draws of a posterior as functions.

    Args:
      key: a key.
      prior: any back-end; its ``anchored`` says how data move a draw of the prior.
      q: the posterior.
      sites: of it.
      num_paths: S.
      num_features: R.

    Returns:
      The draws.

    Raises:
      ValueError: if the kernel is not made of stationary ones.
    """
    return _draw(fast_key(key), prior, q, sites, num_paths, num_features)


@quick_jit(static_argnums=(4, 5))
def _draw(key: Array, prior: Any, q: Any, sites: Sites, num_paths: int, num_features: int) -> Paths:
    def one(prior: Any, key: Array, q: Any, sites: Sites) -> Paths:
        first, second, third = jax.random.split(key, 3)
        shape = num_paths, num_features
        path = RandomPath(
            prior.kernel,
            frequencies(first, prior.kernel, prior.x[:1], shape),
            jax.random.normal(second, (num_paths, 2, num_features), prior.x.dtype),
        )
        anchors, weights = prior.anchored(third, q, sites, path)
        return Paths(prior.kernel, prior.mean, path, anchors, weights)

    if not isinstance(prior, IndependentPrior):
        return one(prior, key, q, sites)
    latents = q.mean.shape[1]
    paths = prior.each(one, (0, 0, 1), jax.random.split(key, latents), q.factor, sites)
    return Paths(paths.kernel, paths.mean, paths.path, paths.anchors[0], paths.weights, latents)
