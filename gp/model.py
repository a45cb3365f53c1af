"""A Gaussian-process model and its data, as the loops see them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gp.likelihoods import Expectation
from gp.sites import Sites
from vi.module import module, static

FLOOR = 1e-6  # of the mean curvature, below which no site's precision falls


@module
class Model:
    """What is trained: kernel, mean and likelihood; hyperparameters are the leaves."""

    kernel: Any
    mean: Any
    likelihood: Any


@module
class Data:
    """Targets, and the latent value that each is of: targets of equal inputs share one.

    Attributes:
      x: the distinct inputs.
      y: targets.
      index: for each target, the row of its input.
      alone: whether no inputs coincide: ``index`` then counts the rows, and nothing is looked up.
    """

    x: Float[Array, "N D"]
    y: Float[Array, " K"]
    index: Int[Array, " K"]
    alone: bool = static(default=False)

    @classmethod
    def merged(cls, x: np.ndarray, y: np.ndarray) -> "Data":
        """Data with inputs that coincide merged, which changes no posterior; on the host."""
        distinct, index = np.unique(x, axis=0, return_inverse=True)
        alone = len(distinct) == len(x)
        if alone:
            distinct, index = x, np.arange(len(x))
        arrays = map(jnp.asarray, (distinct, y, index.reshape(-1).astype(np.int32)))
        return cls(*arrays, alone=alone)

    def of_targets(self, per_input: Float[Array, "N ..."]) -> Float[Array, "K ..."]:
        """What the input of each target has."""
        return per_input if self.alone else per_input[self.index]

    def collect(self, per_target: Float[Array, "K ..."]) -> Float[Array, "N ..."]:
        """Sums over the targets of each input."""
        if self.alone:
            return per_target
        return jax.ops.segment_sum(per_target, self.index, self.x.shape[0])


def expectations(likelihood: Any, mean: Array, variance: Array, data: Data) -> Expectation:
    """Expected log likelihoods of all targets under marginals of q at the inputs."""
    return likelihood.expect(data.of_targets(mean), data.of_targets(variance), data.y)


def natural_target(likelihood: Any, mean: Array, variance: Array, data: Data) -> tuple:
    r"""Where a natural-gradient step of rate one takes the sites, and E[log p(y | f)].

    .. math:: λ_2 = E_q[-∂^2 \log p], \qquad λ_1 = λ_2 m + E_q[∂ \log p]

    A target's curvature counts as at least 1e-6 of the mean of all, where the likelihood is
    not log-concave.
    """
    found = expectations(likelihood, mean, variance, data)
    floor = FLOOR * jnp.mean(jnp.abs(found.curvature), axis=0)
    curvature = jnp.maximum(found.curvature, floor)
    linear = curvature * data.of_targets(mean) + found.gradient
    return Sites(data.collect(linear), data.collect(curvature)), jnp.sum(found.value)
