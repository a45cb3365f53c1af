"""How noisy the gradients of an objective are, parameter group by parameter group."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vi.program.objective import Objective

_BLOCK = 16  # gradients computed side by side


class GroupNoise(NamedTuple):
    """Noise of the gradient in one group of parameters.

    Attributes:
      size: number of parameters.
      norm: norm of the mean gradient.
      variance: of one estimate, summed over the group.
      snr: median over parameters of |mean| / standard deviation of one estimate.
    """

    size: int
    norm: float
    variance: float
    snr: float


class GradientNoise(NamedTuple):
    """Noise of the gradient estimates of an objective at one point.

    Attributes:
      groups: by leaf of a family, or by ``param`` site of a guide and model.
      value: mean of the objective, nats.
      value_sem: its standard error.
      num_samples: gradients it was estimated from.
    """

    groups: dict[str, GroupNoise]
    value: float
    value_sem: float
    num_samples: int

    @property
    def variance(self) -> float:
        """Variance of one gradient estimate, summed over all parameters."""
        return sum(group.variance for group in self.groups.values())

    def __str__(self) -> str:
        """A table."""
        lines = [f"objective {self.value:.4g} ± {self.value_sem:.2g} nats"]
        width = max(map(len, self.groups), default=0)
        for name, g in self.groups.items():
            lines.append(
                f"{name:{width}s}  size {g.size:<6d} |mean| {g.norm:<9.3g} "
                f"variance {g.variance:<9.3g} snr {g.snr:.3g}"
            )
        return "\n".join(lines)


def gradient_noise(
    objective: Objective,
    key: Array,
    at: Any,
    *problem: Any,
    num_samples: int = 1024,
    **kwargs: Any,
) -> GradientNoise:
    """Mean, variance and signal-to-noise ratio of an objective's gradient estimates.

    Compare estimators on your own model: the same call for each of them, at the same point.

    Args:
      objective: with its estimator.
      key: a key.
      at: a family, or a dictionary of the constrained parameters of a guide and model.
      *problem: the target of a family; or model, guide and their arguments.
      num_samples: gradients to estimate from, rounded up to a multiple of 16.
      **kwargs: keyword arguments of model and guide.

    Returns:
      The noise by group. The mean's norm includes noise of size sqrt(variance / num_samples).

    Complexity: ``num_samples`` gradients, in blocks of 16.

    Example:
      >>> import jax, jax.numpy as jnp, vi
      >>> target = vi.target(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(3))
      >>> q = vi.mean_field(3)  # exact: sticking the landing has no noise here
      >>> for estimator in (vi.Pathwise(), vi.StickingTheLanding()):
      ...     noise = vi.gradient_noise(vi.elbo(estimator=estimator), jax.random.key(0), q, target)
      ...     print(noise.variance > 1e-6)
      True
      False
    """
    num_blocks = -(-num_samples // _BLOCK)

    def one(key: Array, at: Any) -> tuple[Array, Any]:
        if hasattr(at, "log_prob"):
            loss, grads = objective(key, at, *problem)
            return -loss, jax.tree.map(jnp.negative, grads)
        return jax.value_and_grad(lambda p: -objective.loss(key, p, *problem, **kwargs))(at)

    found = _moments(one, key, at, num_blocks)
    first, total, squares = jax.tree.map(np.asarray, found)
    count = num_blocks * _BLOCK
    mean = jax.tree.map(lambda a, b: a + b / count, first, total)
    variance = jax.tree.map(lambda a, b: (b - a * a / count) / (count - 1), total, squares)
    groups = {}
    leaves = jax.tree_util.tree_leaves_with_path(mean[1])
    for (path, m), v in zip(leaves, jax.tree.leaves(variance[1]), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        sd = np.sqrt(np.maximum(v, np.finfo(float).tiny))
        norm, snr = float(np.sqrt(np.sum(m**2))), float(np.median(np.abs(m) / sd))
        groups[name] = GroupNoise(m.size, norm, float(np.sum(v)), snr)
    sem = float(np.sqrt(max(float(variance[0]), 0.0) / count))
    return GradientNoise(groups, float(mean[0]), sem, count)


def _moments(one: Callable, key: Array, at: Any, num_blocks: int) -> tuple[Any, Any, Any]:
    """A first estimate, and sums of the others' differences to it and of their squares."""

    @jax.jit
    def run(key: Array, at: Any) -> tuple[Any, Any, Any]:
        first = one(jax.random.fold_in(key, 0), at)

        def block(carry: tuple, i: Array) -> tuple[tuple, None]:
            keys = jax.random.split(jax.random.fold_in(key, i + 1), _BLOCK)
            each = jax.vmap(one, in_axes=(0, None))(keys, at)
            off = jax.tree.map(lambda x, x0: x - x0, each, first)
            total, squares = carry
            total = jax.tree.map(lambda a, x: a + x.sum(0), total, off)
            return (total, jax.tree.map(lambda a, x: a + (x**2).sum(0), squares, off)), None

        zero = jax.tree.map(jnp.zeros_like, first)
        (total, squares), _ = jax.lax.scan(block, (zero, zero), jnp.arange(num_blocks))
        return first, total, squares

    return run(key, at)
