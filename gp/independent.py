"""Several latent functions, independent in the prior: any back-end, mapped over them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gp.prior import Conditional
from gp.sites import Sites
from vi.module import module


@module
class IndependentPrior:
    """L independent priors at the same inputs, each with hyperparameters of its own.

    Attributes:
      prior: a back-end whose kernel's and mean's leaves have a first axis of length L.
    """

    prior: Any

    @property
    def kernel(self) -> Any:
        """The kernels, stacked."""
        return self.prior.kernel

    @property
    def mean(self) -> Any:
        """The means, stacked."""
        return self.prior.mean

    @property
    def x(self) -> Float[Array, "N D"]:
        """Inputs."""
        return self.prior.x

    def with_functions(self, kernel: Any, mean: Any) -> "IndependentPrior":
        """The same with other hyperparameters."""
        return IndependentPrior(dataclasses.replace(self.prior, kernel=kernel, mean=mean))

    def each(self, verb: Callable, axes: Any, *args: Any) -> Any:
        """A verb of every prior; ``axes`` are those of its arguments, as of `jax.vmap`."""
        one = lambda kernel, mean, *args: verb(
            dataclasses.replace(self.prior, kernel=kernel, mean=mean), *args
        )
        return jax.vmap(one, (0, 0, *axes))(self.kernel, self.mean, *args)

    def refreshed(self, kernel: Any) -> "IndependentPrior":
        """The same with other kernels; the host's work is that for the first of them."""
        if not hasattr(self.prior, "refreshed"):
            return self.with_functions(kernel, self.mean)
        first = self.prior.refreshed(jax.tree.map(lambda leaf: leaf[0], kernel))
        return IndependentPrior(first).with_functions(kernel, self.mean)

    def coarser(self) -> "IndependentPrior | None":
        """Cheaper priors to train hyperparameters with, if the back-end has them."""
        if not hasattr(self.prior, "coarser"):
            return None
        first = jax.tree.map(lambda leaf: leaf[0], (self.kernel, self.mean))
        one = with_functions(self.prior, *first).coarser()
        return one and IndependentPrior(one).with_functions(self.kernel, self.mean)

    @property
    def trained(self) -> str:
        """What was trained with these priors in the place of finer ones."""
        return self.prior.trained

    def kept(self) -> list[Array]:
        """What is saved with a posterior."""
        return self.prior.kept() if hasattr(self.prior, "kept") else []

    def with_kept(self, arrays: list[Array]) -> "IndependentPrior":
        """The priors with what was saved, which they share."""
        return dataclasses.replace(self, prior=self.prior.with_kept(arrays))

    @property
    def graph(self) -> Any:
        """What the host has made of the inputs, if anything."""
        return getattr(self.prior, "graph", None)

    def cautions(self, conditional: Conditional) -> list[str]:
        """Those of every function, each once."""
        if not hasattr(self.prior, "cautions"):
            return []
        said: dict[str, None] = {}
        for i in range(conditional.mean.shape[1]):
            pick = lambda leaf, i=i: leaf[i]
            kernel, mean, one = jax.tree.map(pick, (self.kernel, self.mean, conditional.factor))
            prior = dataclasses.replace(self.prior, kernel=kernel, mean=mean)
            said |= dict.fromkeys(prior.cautions(one))
        return list(said)

    def condition(self, sites: Sites) -> Conditional:
        """q(f) at the data, of shape ``(N, L)``."""
        each = self.each(lambda prior, sites: prior.condition(sites), (1,), sites)
        return Conditional(
            mean=each.mean.T,
            variance=each.variance.T,
            kl=jnp.sum(each.kl),
            log_normalizer=jnp.sum(each.log_normalizer),
            jitter=jnp.max(each.jitter),
            factor=each,
        )

    def divergence(self, conditional: Conditional) -> Float[Array, ""]:
        """The sum of those of the back-end, which must have it."""
        verb = lambda prior, one: prior.divergence(one)
        return jnp.sum(self.each(verb, (0,), conditional.factor))

    def log_normalizer(self, sites: Sites) -> Float[Array, ""]:
        """The sum of the pseudo-evidences."""
        return jnp.sum(self.each(lambda prior, sites: prior.log_normalizer(sites), (1,), sites))

    def predict(
        self, conditional: Conditional, x_new: Float[Array, "M D"], *, full_cov: bool = False
    ) -> tuple[Array, Array]:
        """Means ``(M, L)`` and variances ``(M, L)``, or covariances ``(L, M, M)``."""
        verb = lambda prior, one: prior.predict(one, x_new, full_cov=full_cov)
        mean, spread = self.each(verb, (0,), conditional.factor)
        return mean.T, spread if full_cov else spread.T

    def sample(
        self, key: Array, conditional: Conditional, x_new: Float[Array, "M D"], num_samples: int
    ) -> Float[Array, "S M L"]:
        """Joint draws of the functions."""
        keys = jax.random.split(key, conditional.mean.shape[1])
        verb = lambda prior, key, one: prior.sample(key, one, x_new, num_samples)
        return jnp.moveaxis(self.each(verb, (0, 0), keys, conditional.factor), 0, -1)

    def unexplained(self, conditional: Conditional) -> Array:
        """Parts of the variances that no site acts on, ``(N, L)``."""
        if not hasattr(self.prior, "unexplained"):
            return jnp.zeros_like(conditional.variance)
        return self.prior.unexplained(conditional.factor).T

    @property
    def sample_projected(self) -> Callable | None:
        """Of the priors, if they have it; see `gp.inducing.InducingPrior`."""
        if not hasattr(self.prior, "sample_projected"):
            return None

        def draw(key: Array, conditional: Conditional, num_samples: int) -> tuple:
            keys = jax.random.split(key, conditional.mean.shape[1])
            verb = lambda prior, key, one: prior.sample_projected(key, one, num_samples)
            f, through, log_z = self.each(verb, (0, 0), keys, conditional.factor)
            return jnp.moveaxis(f, 0, -1), jnp.moveaxis(through, 0, -1), jnp.sum(log_z)

        return draw


def with_functions(prior: Any, kernel: Any, mean: Any) -> Any:
    """A prior with other hyperparameters; the host's work on its inputs is kept."""
    if isinstance(prior, IndependentPrior):
        return prior.with_functions(kernel, mean)
    return dataclasses.replace(prior, kernel=kernel, mean=mean)
