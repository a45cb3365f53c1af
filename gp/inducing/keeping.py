"""Streams on disk."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gp.inducing.algebra import Whitened
from gp.inducing.coordinates import Natural
from gp.inducing.relearning import functions
from gp.inducing.stream import Memory, Stream, law_of
from gp.inducing.streamed import StreamedPrior
from gp.kernels import Matern
from gp.likelihoods import Gaussian, Ordinal
from gp.means import ConstantMean, Zero
from gp.model import Model
from gp.parameters import parameters
from gp.sites import Sites
from vi import storage
from vi.errors import CheckpointError

_CLOSE = 1e-3  # relative; a law by another order of sums differs in the last digits


def load_stream(
    path: str | os.PathLike, *, kernel: Any = None, likelihood: Any = None, mean: Any = None
) -> Stream:
    """Read a stream that `gp.Stream.save` wrote. No code in the file is executed.

    Args:
      path: the file.
      kernel: as given to `gp.fit` for the first batch; only its structure matters.
      likelihood: the same.
      mean: the same.

    Returns:
      The stream, which goes on as it would have.

    Raises:
      CheckpointError: if the file is not whole, or of another model.

    Example:
      >>> import gp, jax, jax.numpy as jnp, os, tempfile
      >>> x = jnp.linspace(0.0, 6.0, 30)
      >>> first = gp.fit(x, jnp.sin(x), key=jax.random.key(0), method="inducing",
      ...                method_options={"inducing": x[::5]}, train=False)
      >>> path = os.path.join(tempfile.mkdtemp(), "stream.npz")
      >>> gp.stream(first, key=jax.random.key(1)).save(path)
      >>> gp.load_stream(path).count
      30
    """
    likelihood = likelihood or Gaussian()
    mean = mean or (Zero() if isinstance(likelihood, Ordinal) else ConstantMean())
    kernel = kernel or Matern()
    first = lambda part: part[0] if isinstance(part, (list, tuple)) else part
    model = Model(first(kernel), first(mean), likelihood)
    leaves, meta = storage.load(path)
    names = list(parameters(model))
    wanted = {"kind": "stream", "likelihood": type(likelihood).__name__, "hyperparameters": names}
    for name, value in wanted.items():
        if meta.get(name) != value:
            raise CheckpointError(
                f"{path}: expected a stream with {name} {meta.get(name)}, as in the file; got "
                f"{value}. Give the kernel, likelihood and mean of its first batch."
            )
    like = Stream(model, 0, Natural(0, 0), Memory(0, 0, Sites(0, 0)), 0, 0, Whitened(0, 0))
    structure = jax.tree.structure(like)
    if structure.num_leaves != len(leaves):
        raise CheckpointError(
            f"{path}: expected {structure.num_leaves} arrays for this model; got {len(leaves)}. "
            "Give the kernel, likelihood and mean of its first batch."
        )
    arrays = [leaf if isinstance(leaf, int) else jnp.asarray(leaf) for leaf in leaves]
    found = jax.tree.unflatten(structure, arrays)
    _check_law(path, found)
    return found


def _check_law(path: Any, found: Stream) -> None:
    """Raise a `CheckpointError` if the stream's law is not that of its kernel and mean."""
    memory = found.memory
    prior = StreamedPrior(*functions(found.model), memory.x, found.z, found.base)
    again = law_of(prior, memory.sites)
    near = lambda a, b: np.allclose(a, b, rtol=_CLOSE, atol=_CLOSE * float(np.abs(b).max()))
    pairs = zip(jax.tree.leaves(again), jax.tree.leaves((found.tril, found.q)), strict=True)
    if not all(near(a, b) for a, b in pairs):
        raise CheckpointError(
            f"{path}: expected the kernel and mean of the stream; with these its law is another. "
            "Give those of its first batch."
        )
