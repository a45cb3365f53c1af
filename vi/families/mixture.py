"""Mixtures of Gaussians, or of flows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from vi.families.gaussian import Gaussian
from vi.module import module


@module
class Mixture:
    r"""A mixture of K Gaussians of one structure, or of K flows of one structure.

    .. math:: q(z) = \sum_k w_k q_k(z), \quad w = \operatorname{softmax}(\text{logits})

    The choice of component is not reparameterised but enumerated: `draw` gives draws of every
    component with weights, so that expectations are differentiable in the logits too, without
    bias and with less noise than by sampling the component.

    Attributes:
      logits: logarithms of the weights, up to a constant.
      components: Gaussians or flows of one structure; every leaf has a leading axis K.
    """

    logits: Float[Array, " K"]
    components: Any

    @property
    def num_components(self) -> int:
        """Number K of components."""
        return self.logits.shape[0]

    @property
    def dim(self) -> int:
        """Number D of coordinates."""
        return self.components.dim

    @property
    def loc(self) -> Float[Array, " D"]:
        """Mean of the mixture."""
        return jax.nn.softmax(self.logits) @ self._locs()

    def _locs(self) -> Float[Array, "K D"]:
        return jax.vmap(lambda q: q.loc)(self.components)

    def _component(self, k: Array | int) -> Any:
        return jax.tree.map(lambda leaf: leaf[k], self.components)

    def noise(self, key: Array, num_samples: int) -> Float[Array, "K S E"]:
        """Unit noise for ``num_samples`` draws of every component."""
        one = jax.eval_shape(lambda q, key: q.noise(key, num_samples), self._component(0), key)
        return jax.random.normal(key, (self.num_components, *one.shape), one.dtype)

    def draw(
        self, noise: Float[Array, "K S E"]
    ) -> tuple[Float[Array, "KS D"], Float[Array, " KS"]]:
        """Reparameterised draws of every component, weighted by its share of the mixture."""
        z, weights = jax.vmap(lambda q, noise: q.draw(noise))(self.components, noise)
        shares = jax.nn.softmax(self.logits)[:, None] * weights
        return z.reshape(-1, self.dim), shares.reshape(-1)

    def sample(self, key: Array, num_samples: int | None = None) -> Float[Array, "*S D"]:
        """One draw of shape ``(D,)``, or ``num_samples`` of them."""
        num = num_samples or 1
        key_which, key_noise = jax.random.split(key)
        which = jax.random.categorical(key_which, self.logits, shape=(num,))
        noise = self.noise(key_noise, num)
        each, _ = jax.vmap(lambda q, noise: q.draw(noise))(self.components, noise)
        z = each[which, jnp.arange(num)]
        return z[0] if num_samples is None else z

    def log_prob(self, z: Float[Array, "... D"]) -> Float[Array, "..."]:
        """Log density, in nats; leading axes are draws."""
        each = jax.vmap(lambda q: q.log_prob(z))(self.components)
        shares = jax.nn.log_softmax(self.logits).reshape((-1,) + (1,) * (each.ndim - 1))
        return jax.nn.logsumexp(each + shares, axis=0)

    def sample_and_log_prob(
        self, key: Array, num_samples: int | None = None
    ) -> tuple[Float[Array, "*S D"], Float[Array, "*S"]]:
        """Draws and their log density."""
        z = self.sample(key, num_samples)
        return z, self.log_prob(z)

    def covariance(self) -> Float[Array, "D D"]:
        """Covariance of the mixture: within components plus between them."""
        weights = jax.nn.softmax(self.logits)
        within = jnp.einsum(
            "k,kij->ij", weights, jax.vmap(lambda q: q.covariance())(self.components)
        )
        locs = self._locs()
        offset = locs - weights @ locs
        return within + jnp.einsum("k,ki,kj->ij", weights, offset, offset)

    def variance(self) -> Float[Array, " D"]:
        """The diagonal of the covariance."""
        weights = jax.nn.softmax(self.logits)
        within = weights @ jax.vmap(lambda q: q.variance())(self.components)
        locs = self._locs()
        return within + weights @ (locs - weights @ locs) ** 2


def mixture(components: list[Gaussian] | list[Any], weights: Array | None = None) -> Mixture:
    """A mixture of the given Gaussians or flows, all of the same structure and dimension.

    Args:
      components: K ≥ 1 Gaussians; or K flows with N(0, I) as base, for instance
        ``flow.around(q)`` for some Gaussians q. Choose layers whose inverse is cheap, such as
        `flows.neural_spline`, since each draw's density is asked of all components.
      weights: positive and finite, shape ``(K,)``, need not sum to one; equal if not given.

    Returns:
      The family.

    Raises:
      ValueError: if the components differ in structure, if a flow has another base, or if weights
        have another shape or, outside of a trace, are not positive and finite.

    Example:
      >>> import jax.numpy as jnp, vi
      >>> q = vi.mixture([vi.full_rank(2, loc=jnp.zeros(2)), vi.full_rank(2, loc=jnp.ones(2))])
      >>> q.num_components, q.dim
      (2, 2)
    """
    if len({jax.tree.structure(c) for c in components}) != 1:
        raise ValueError(
            "mixture: expected at least one component, all of one structure; "
            f"got {components}. Use the same constructor for each."
        )
    base = getattr(components[0], "base", None)
    if base is not None:
        raise ValueError(f"mixture: expected flows with base None, N(0, I); got {base!r}.")
    weights = jnp.ones(len(components)) if weights is None else jnp.asarray(weights)
    bad = weights.shape != (len(components),)
    if not bad and not isinstance(weights, Tracer):
        bad = not np.all((np.asarray(weights) > 0) & np.isfinite(weights))
    if bad:
        raise ValueError(
            f"mixture: expected {len(components)} positive finite weights, one a component; got "
            f"weights {weights}. Leave a component out instead of giving it no weight."
        )
    logits = jnp.log(weights)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *components)
    floating = [x.dtype for x in jax.tree.leaves(stacked) if jnp.issubdtype(x.dtype, jnp.floating)]
    return Mixture(logits.astype(floating[0]), stacked)
