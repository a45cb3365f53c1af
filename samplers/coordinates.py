"""A target in the coordinates of the noise that a family maps to its draws."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi import Gaussian, Posterior, Target
from vi.families.scale import DenseScale, DiagonalScale
from vi.module import module
from vi.provenance import data_digest, key_words, model_digest, tree_digest
from vi.targets.wrapped import Wrapped

MAX_DENSE = 500  # coordinates up to which draws give a whole covariance


@module
class NoiseTarget(Wrapped):
    r"""The density of the noise x whose image z = T(x) has the base target's density.

    .. math:: \log \tilde p(x) = \log p(T(x)) + \log |\det \partial T / \partial x|

    If T maps unit normals to draws of a good approximation of p, it is nearly a unit normal,
    whatever the scales and correlations of p: the coordinates in which a sampler needs no
    mass matrix (Hoffman et al. 2019, "NeuTra-lizing bad geometry in Hamiltonian Monte Carlo
    using neural transport").

    Attributes:
      base: the target of z.
      q: a `vi.Gaussian` with D noise coordinates, or a flow.
    """

    base: Target
    q: Any

    def point(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """T(x), a point of the base target."""
        return self.image(x)[0]

    def image(self, x: Float[Array, " D"]) -> tuple[Float[Array, " D"], Float[Array, ""]]:
        """T(x), and the log of its Jacobian determinant."""
        q = self.q
        if isinstance(q, Gaussian):
            return q.loc + q.scale.apply(x), q.scale.log_det()
        z, log_q = q.draw_and_log_prob(x)
        return z, -0.5 * jnp.sum(x**2) - 0.5 * x.size * math.log(2 * math.pi) - log_q

    def log_density(self, x: Float[Array, " D"], key: Array | None = None) -> Float[Array, ""]:
        """Log density of the noise, nats; ``key`` as for the base target."""
        z, log_det = self.image(x)
        return self.base.log_density(z, key) + log_det


def noise_target(target: Target, posterior: Posterior) -> NoiseTarget:
    """A target in the coordinates of the noise of a posterior's family.

    Families whose noise is not D unit normals (mixtures, low-rank Gaussians, MixFlows) are
    replaced by a Gaussian of the mean and covariance of their draws, diagonal beyond D = 500.

    Args:
      target: what is to be sampled.
      posterior: from `vi.fit`, of the same sites; of other data it is a worse approximation.
    """
    q = posterior.q
    gaussian = isinstance(q, Gaussian) and q.scale.noise_dim == q.dim
    flow = hasattr(q, "draw_and_log_prob") and getattr(q, "base", None) is None
    if not (gaussian or flow):
        q = _moments(posterior.diagnostics.draws, target.layout.dtype)
    return NoiseTarget(target, jax.lax.stop_gradient(q))


def _moments(draws: np.ndarray, dtype: str) -> Gaussian:
    """The Gaussian with the mean and covariance of draws."""
    draws = draws[np.isfinite(draws).all(1)].astype(float)
    loc, dim = draws.mean(0), draws.shape[1]
    sd = np.maximum(draws.std(0), 1e-8)
    if dim > MAX_DENSE:
        return Gaussian(jnp.asarray(loc, dtype), DiagonalScale.of(jnp.asarray(sd, dtype)))
    x = (draws - loc) / sd
    share = len(x) / (len(x) + 5.0)  # the rest towards independence: never singular
    correlation = share * (x.T @ x) / len(x) + (1 - share) * np.eye(dim)
    tril = sd[:, None] * np.linalg.cholesky(correlation)
    return Gaussian(jnp.asarray(loc, dtype), DenseScale.of(jnp.asarray(tril, dtype)))


def fingerprint(target: NoiseTarget, algorithm: Any, key: Array) -> dict[str, Any]:
    """What every run of an algorithm in these coordinates must agree on to be continued; JSON.

    Args:
      target: in the noise of an approximation.
      algorithm: a value of `samplers.algorithms`.
      key: that of the run.

    Returns:
      Sites, digests of data, model and approximation, the algorithm and the key.
    """
    layout = target.layout
    return {
        "algorithm": repr(algorithm),
        "sites": [list(layout.names), list(map(list, layout.shapes))],
        "data": data_digest(target.base),
        "model": model_digest(target.base),
        "start": tree_digest(target.q),
        "key": key_words(key),
    }
