"""From what a user gives to a model and its data, checked, in one precision."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gp import defaults
from gp.inputs import Missing, as_inputs, as_targets
from gp.likelihoods import Gaussian, Likelihood
from gp.model import Data, Model
from gp.parameters import as_arrays, check_positive


class Prepared(NamedTuple):
    """A model, its data, and how many targets were missing."""

    model: Model
    data: Data
    missing: int


def prepare(
    x: Any,
    y: Any,
    kernel: Any,
    likelihood: Any,
    mean: Any,
    missing: Missing,
    owner: str,
) -> Prepared:
    """Check data and model, fill in defaults, and bring all to the data's precision.

    With L > 1 latent functions every hyperparameter of kernel and mean gets a first axis of length
    L: each function has its own. Kernels and means may then be given as sequences of L.

    Raises:
      TypeError: if the likelihood is none of `gp`'s kind.
      ValueError: for data, shapes or hyperparameters that cannot be.
    """
    if not isinstance(likelihood, (Likelihood, type(None))):
        raise TypeError(
            f"{owner}: expected a likelihood such as gp.Bernoulli(); got {likelihood!r}."
        )
    for name, part in (("kernel", kernel), ("mean", mean)):
        if isinstance(part, str):
            raise TypeError(
                f"{owner}: expected a {name} such as "
                f"{'gp.Matern()' if name == 'kernel' else 'gp.ConstantMean()'}; got {part!r}."
            )
    x = as_inputs(x, owner)
    if likelihood is None:
        x, y, gone = as_targets(x, y, Gaussian(), missing, owner)
        likelihood = defaults.default_likelihood(x, y)
    else:
        x, y, gone = as_targets(x, y, likelihood, missing, owner)
    count = likelihood.latents
    if kernel is None:
        kernel = defaults.default_kernel(x, y, likelihood)
    else:
        kernel = _for_each(kernel, count, x.dtype, "kernel", owner)
    if mean is None:
        mean = defaults.default_mean(y, likelihood)
    else:
        mean = _for_each(mean, count, x.dtype, "mean", owner)
    model = as_arrays(Model(kernel, mean, likelihood), x.dtype)
    check_positive(model, owner)
    _try_kernel(model, x[:1])
    return Prepared(model, Data.merged(x, y), gone)


def _for_each(part: Any, count: int, dtype: np.dtype, name: str, owner: str) -> Any:
    """A kernel or mean, for each of several latent functions if there are several."""
    if not isinstance(part, Sequence):
        part = as_arrays(part, dtype)
        wide = lambda leaf: jnp.broadcast_to(leaf, (count, *jnp.shape(leaf)))
        return part if count == 1 else jax.tree.map(wide, part)
    parts = [as_arrays(one, dtype) for one in part]
    structures = {jax.tree.structure(one) for one in parts}
    shapes = {tuple(map(jnp.shape, jax.tree.leaves(one))) for one in parts}
    if len(parts) != count or len(structures) != 1 or len(shapes) != 1 or count == 1:
        raise ValueError(
            f"{owner}: expected one {name}, or {count} of the same structure and shapes where the "
            f"likelihood has {count} latent functions; got {len(parts)}: {list(parts)}."
        )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)


def _try_kernel(model: Model, point: np.ndarray) -> None:
    """Let kernel and mean raise their own errors about shapes before anything is compiled."""
    one = (model.kernel, model.mean)
    if model.likelihood.latents > 1:
        one = jax.tree.map(lambda leaf: leaf[0], one)
    jax.eval_shape(lambda kernel, mean, x: (kernel(x, x), mean(x)), *one, point)
