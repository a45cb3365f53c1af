"""What a posterior computes of its family and target, compiled once for each structure."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from vi.compile import quick_jit
from vi.random import check_count, check_key, fast_key
from vi.targets import StreamedTarget, Target

_KEY_FIRST = "It comes first, then the number of draws: sample(jax.random.key(1), 1000)."


@partial(quick_jit, static_argnames=("num_samples",))
def _drawn(key: Array, q: Any, num_samples: int) -> tuple[Array, Array]:
    return q.sample_and_log_prob(fast_key(key), num_samples)


def sample(key: Array, q: Any, num_samples: int) -> tuple[Array, Array]:
    """Draws of a family, shape ``(S, D)``, and log q there.

    Raises:
      TypeError: if the key is none.
      ValueError: if the number is none.
    """
    check_key("Posterior", key, _KEY_FIRST)
    check_count("Posterior", "the number of draws", num_samples)
    return _drawn(key, q, num_samples)


@quick_jit
def constrain(target: Target, z: Array) -> dict[str, Array]:
    """Values of the latent and deterministic sites at draws, ``{site: (S, *shape)}``."""
    return jax.vmap(target.constrain)(z)


def log_density(target: Target, z: Array) -> Array | np.ndarray:
    """The target's log density at draws, shape ``(S,)``."""
    if isinstance(target, StreamedTarget):
        return target.log_densities(z)
    return _log_density(target, z)


@quick_jit
def _log_density(target: Target, z: Array) -> Array:
    return target.log_densities(z)


@quick_jit
def log_likelihood(target: Target, z: Array) -> dict[str, Array]:
    """The log density of each observation at draws, ``{site: (S, *shape)}``."""
    one = lambda z: target.structure.log_likelihoods(target.data, z)
    return jax.lax.map(one, z, batch_size=64)


@quick_jit
def log_prob(q: Any, target: Target, values: dict[str, Array]) -> Array:
    """Log density of a family at one point of the constrained space."""
    z = target.unconstrain(values)
    return q.log_prob(z) - target.structure.log_jacobian(target.data, z)
