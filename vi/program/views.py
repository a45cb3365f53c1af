"""What an objective's program sees of a family and of a target."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.program.estimators import Estimator
from vi.targets import Target


class FamilyView:
    """A family, with the parameters of its density live or stopped as the estimator says."""

    def __init__(self, key: Array, q: Any, estimator: Estimator):
        self._key = key
        self._path = q
        self._density = estimator.density(q)

    def sample(self, num_particles: int) -> Float[Array, "K D"]:
        """Reparameterised draws; for families whose draws are equally weighted."""
        z, weights = self._path.draw(self._path.noise(self._key, num_particles))
        if z.shape[0] != num_particles:
            raise TypeError(
                f"q.sample: expected a family with equally weighted draws; "
                f"{type(self._path).__name__} has weighted ones, one set for each component. "
                "Write the objective with q.expect, which uses the weights."
            )
        del weights
        return z

    def expect(self, f: Callable[[Array], Array], num_particles: int) -> Float[Array, ""]:
        """Estimate of E_q[f(z)] from ``num_particles`` draws (of each component, in a mixture).

        Args:
          f: maps draws of shape ``(K, D)`` to values of shape ``(K,)``.
          num_particles: number of draws.

        Returns:
          Shape ``()``.
        """
        z, weights = self._path.draw(self._path.noise(self._key, num_particles))
        return jnp.sum(weights * f(z))

    def log_density(self, z: Float[Array, "K D"]) -> Float[Array, " K"]:
        """Log density of q at draws, in nats."""
        return self._density.log_prob(z)


class TargetView:
    """A target; all particles of one evaluation see the same minibatch."""

    def __init__(self, key: Array | None, target: Target):
        self._key = key
        self._target = target

    def log_density(self, z: Float[Array, "K D"]) -> Float[Array, " K"]:
        """Log density of the target at draws, in nats; unbiased under subsampling."""
        return jax.vmap(lambda x: self._target.log_density(x, self._key))(z)
