"""The back-end of a stream: a prior that knows what the data before have said."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from gp.inducing.algebra import Whitened, basis, features, whitened
from gp.inducing.coordinates import COORDINATES, Natural
from gp.prior import Conditional
from gp.sites import Sites
from vi.module import module


def each(function: Callable, latents: int) -> Callable:
    """A function for each latent, of arguments with a first axis of them; one is not mapped."""
    if latents > 1:
        return jax.vmap(function)
    first = lambda tree: jax.tree.map(lambda a: a[0], tree)
    return lambda *args: jax.tree.map(lambda a: a[None], function(*map(first, args)))


@module
class StreamedPrior:
    r"""The law of inducing variables given sums over data, as a prior for what comes next.

    .. math:: b(u) \propto p(u)\, e^{\barλ^T w - w^T \barΛ w / 2}, \qquad w = K_{zz}^{-1} u

    Attributes:
      kernel: k, with a first axis of L latent functions.
      mean: μ(x), the same.
      x: inputs of the data to come.
      z: inducing inputs.
      base: the sums, for each latent function.
    """

    kernel: Any
    mean: Any
    x: Float[Array, "N D"]
    z: Float[Array, "M D"]
    base: Natural

    def condition(self, sites: Sites) -> Conditional:
        """q(f) at the inputs; ``kl`` is from b. The factor is L and q, by latent function."""
        latents = len(self.base.linear)
        by_latent = Sites(*(a[None] if latents == 1 else a.T for a in sites))
        found = each(self._one, latents)(self.kernel, self.mean, self.base, by_latent)
        mean, variance, kl, jitter, factor = found
        mean, variance = (a[0] if latents == 1 else a.T for a in (mean, variance))
        kl = jnp.sum(kl)
        misfit = jnp.sum(sites.precision * ((mean - sites.centre) ** 2 + variance))
        return Conditional(mean, variance, kl, -0.5 * misfit - kl, jnp.max(jitter), factor)

    def _one(self, kernel: Any, mean: Any, base: Natural, sites: Sites) -> tuple:
        tril, jitter = basis(kernel, self.z)
        a, mu = features(kernel, self.z, tril, self.x), mean(self.x)
        before = COORDINATES["dual"].whiten(base, tril)
        after = Natural(
            before.linear + a @ (sites.linear - sites.precision * mu),
            before.precision + (a * sites.precision) @ a.T,
        )
        q, b = whitened(*after), whitened(*before)
        moved, variance = q.marginals(a, kernel.diagonal(self.x))
        return mu + moved, variance, divergence(q, b), jitter, (tril, q)


def divergence(q: Whitened, b: Whitened) -> Float[Array, ""]:
    """KL(q ‖ b) of two Gaussians of the whitened inducing variables, shape ``()``, nats; O(M³)."""
    tril = solve_triangular(b.inverse, jnp.eye(len(b.mean), dtype=b.mean.dtype), lower=True)
    spread, move = q.inverse @ tril, tril.T @ (q.mean - b.mean)
    square = jnp.sum(spread**2) + jnp.sum(move**2) - len(q.mean)
    return 0.5 * square + q.half_log_det - b.half_log_det


def dual_sums(functions: tuple[Any, Any], z: Array, x: Array, sites: Sites) -> Natural:
    """The sums over data of ``k_zi λ₁`` and ``k_zi λ₂ k_iz``, by latent function."""
    latents = 1 if sites.linear.ndim == 1 else sites.linear.shape[1]
    by_latent = Sites(*(a[None] if latents == 1 else a.T for a in sites))

    def one(kernel: Any, mean: Any, sites: Sites) -> Natural:
        cross = kernel(z, x)
        centred = sites.linear - sites.precision * mean(x)
        return Natural(cross @ centred, (cross * sites.precision) @ cross.T)

    return each(one, latents)(*functions, by_latent)
