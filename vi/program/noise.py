"""How noisy the gradients of an objective are, parameter group by parameter group."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vi.errors import LOOKS_AT_DATA
from vi.program.objective import Objective
from vi.program.requirements import COUNT, check_options
from vi.targets.arguments import Arguments
from vi.targets.identity import key_after_run, model_key

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

    Raises:
      ValueError: if ``num_samples`` is less than 1.

    Complexity: ``num_samples`` gradients, in blocks of 16. Compiled once for an objective's and a
    problem's structure, whatever the point, the data and ``num_samples``.

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
    check_options("gradient_noise", {"num_samples": num_samples}, {"num_samples": COUNT})
    num_blocks = -(-num_samples // _BLOCK)
    if hasattr(at, "log_prob"):
        if len(problem) != 1 or kwargs:
            raise TypeError(
                f"gradient_noise: expected with a family its target alone; got {len(problem)} "
                f"arguments and {sorted(kwargs)}. Give vi.target(model, ...)."
            )
        found = _of_family(objective, key, at, *problem, num_blocks)
    else:
        model, guide, *args = problem
        given = objective, key, at, model, guide, tuple(args), kwargs, num_blocks
        try:
            found = _of_guide(*given, bake=False)
        except LOOKS_AT_DATA:
            found = _of_guide(*given, bake=True)
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


@jax.jit
def _of_family(objective: Objective, key: Array, q: Any, target: Any, num_blocks: Array) -> tuple:
    def one(key: Array) -> tuple[Array, Any]:
        loss, grads = objective(key, q, target)
        return -loss, jax.tree.map(jnp.negative, grads)

    return _moments(one, key, num_blocks)


def _of_guide(
    objective: Objective,
    key: Array,
    params: dict[str, Array],
    model: Callable,
    guide: Callable,
    args: tuple,
    kwargs: dict,
    num_blocks: int,
    *,
    bake: bool,
) -> tuple:
    """The same for a guide, compiled once for all data of the same shapes."""
    arguments, programs = Arguments(args, kwargs, bake=bake), (model, guide)
    keys = tuple(map(model_key, programs))
    run = _COMPILED.pop((arguments, *keys), None) or _compile(model, guide, arguments)
    found = run(objective, key, params, arguments.data(args, kwargs), num_blocks)
    known = (key_after_run(p, before) for p, before in zip(programs, keys, strict=True))
    _COMPILED[(arguments, *known)] = run
    if len(_COMPILED) > _MAX_COMPILED:
        _COMPILED.pop(next(iter(_COMPILED)))
    return found


_COMPILED: dict[tuple, Callable] = {}
_MAX_COMPILED = 32


def _compile(model: Callable, guide: Callable, arguments: Arguments) -> Callable:
    @jax.jit
    def run(objective: Objective, key: Array, params: dict, data: list, num_blocks: Array) -> tuple:
        args, kwargs = arguments.join(data)
        value = lambda p, key: -objective.loss(key, p, model, guide, *args, **kwargs)
        return _moments(lambda key: jax.value_and_grad(value)(params, key), key, num_blocks)

    return run


def _moments(
    one: Callable[[Array], tuple[Array, Any]], key: Array, num_blocks: Array
) -> tuple[Any, Any, Any]:
    """A first estimate, and sums of the others' differences to it and of their squares."""
    first = one(jax.random.fold_in(key, 0))

    def block(i: Array, sums: tuple) -> tuple:
        each = jax.vmap(one)(jax.random.split(jax.random.fold_in(key, i + 1), _BLOCK))
        off = jax.tree.map(lambda x, x0: x - x0, each, first)
        total, squares = sums
        total = jax.tree.map(lambda a, x: a + x.sum(0), total, off)
        return total, jax.tree.map(lambda a, x: a + (x**2).sum(0), squares, off)

    zero = jax.tree.map(jnp.zeros_like, first)
    return first, *jax.lax.fori_loop(0, num_blocks, block, (zero, zero))
