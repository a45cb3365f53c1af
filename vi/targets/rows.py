"""Arrays whose rows stay outside memory, as a model sees them."""

import os
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from vi.errors import TargetError
from vi.module import module, static
from vi.targets.blocks import Folder, write

BLOCK = 2**25  # bytes of the rows of one block, of a pass and of what is read ahead


class Stored(Protocol):
    """What has rows: a NumPy array or memory map, a dataset of h5py or zarr, a class of yours."""

    shape: tuple[int, ...]
    dtype: Any

    def __getitem__(self, rows: Any) -> Any:
        """The rows at increasing indices, an integer array of shape ``(B,)``."""
        ...


class Rows:
    """An array of N rows that is read a minibatch at a time: larger than memory, if need be.

    In place of the array it goes to `vi.fit` or `vi.target`, and the model is that of an array in
    memory: a plate of N rows with ``subsample_size``, and the array indexed by the plate. Rows are
    shuffled anew in each epoch, read ahead by a thread, and scaled by N / B. What asks for all
    rows, as the verdict does, makes a pass over them, block by block. Deterministic sites in the
    plate are left out of draws; ``predictive`` has them, of the rows that it is given.

    Args:
      array: with ``shape``, ``dtype`` and rows by an increasing integer array: `numpy.memmap`,
        ``numpy.load(path, mmap_mode="r")``, a dataset of h5py or zarr. Streams: `from_blocks`.

    Raises:
      TypeError: if it has no rows.

    Complexity:
      Memory of about 100 minibatches, or 64 MB if that is less; a permutation of N integers.

    Example:
      >>> import jax, numpy as np, numpyro, numpyro.distributions as dist, vi
      >>> def model(x, batch_size):
      ...     mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
      ...     with numpyro.plate("rows", len(x), subsample_size=batch_size) as rows:
      ...         numpyro.sample("x", dist.Normal(mu, 1.0), obs=x[rows])
      >>> x = vi.Rows(3.0 + np.random.default_rng(0).normal(size=500))
      >>> posterior = vi.fit(model, x, batch_size=50, key=jax.random.key(0), num_steps=500)
      >>> bool(abs(posterior.sample(jax.random.key(1))["mu"].mean() - 3.0) < 0.2)
      True
    """

    def __init__(self, array: Stored):
        if not (hasattr(array, "shape") and hasattr(array, "dtype") and len(array.shape) > 0):
            raise TypeError(
                "vi.Rows: expected an array with shape, dtype and rows, such as "
                f"numpy.load(path, mmap_mode='r'); got {type(array).__name__}."
            )
        self.array = array
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)
        self._folder: Folder | None = None  # which lives as long as this

    @classmethod
    def from_blocks(cls, blocks: Iterable[Any], folder: str | os.PathLike | None = None) -> Any:
        """The rows of a stream that can only be read from beginning to end.

        The blocks are read once and written to disk, each array as one ``.npy`` file. So the
        number of rows N is known and N / B exact, every epoch has its own order of all rows, and
        a resumed fit reads the same ones.

        The folder has its name only when all blocks are in it: a run that is killed leaves a
        folder ``NAME.*.part``, which can be deleted, and an error, the iterator's own included,
        leaves nothing.

        Args:
          blocks: an iterable of pytrees of arrays, such as tuples or dictionaries. The arrays of a
            block have the same number of rows, which may differ between blocks; structure, dtypes
            and shapes of rows may not. Anything that `numpy.asarray` takes is an array.
          folder: a new one, or an empty one, for files that stay. They are named by the place in
            the pytree, ``X.npy`` or ``0.npy``, and ``rows.npy`` for a single array; read them
            later by ``vi.Rows(numpy.load(path, mmap_mode="r"))``. By default a temporary folder,
            removed with the last `Rows` of it.

        Returns:
          The pytree with a `Rows` in place of each array.

        Raises:
          TypeError: if it is no iterable of blocks, or an array does not hold numbers.
          ValueError: if there are no rows, or a block is not like the first.
          FileExistsError: if the folder has files.
          OSError: if the disk is full.

        Complexity:
          Memory of one block; disk of all rows, in the dtypes that they have.

        Example:
          >>> import numpy as np, vi
          >>> def read():
          ...     for first in range(0, 1000, 300):
          ...         x = np.arange(first, min(first + 300, 1000), dtype=np.float32)
          ...         yield {"X": np.stack([x, -x], axis=1), "t": x > 500}
          >>> data = vi.Rows.from_blocks(read())
          >>> data["X"].shape, data["t"].shape
          ((1000, 2), (1000,))
        """
        made, paths = write(blocks, folder)

        def one(path: os.PathLike) -> Rows:
            rows = cls(np.load(path, mmap_mode="r"))
            rows._folder = made
            return rows

        return jax.tree.map(one, paths)

    def __len__(self) -> int:
        """N."""
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        """An error: only fits read rows."""
        raise TypeError(
            "vi.Rows: expected vi.fit or vi.target, which read rows; elsewhere, as in predictive, "
            "give some of them in memory: the array itself, array[:1000]."
        )

    def read(self, rows: Int[np.ndarray, " B"]) -> np.ndarray:
        """The rows at any indices, in their order; read in increasing order."""
        order = np.argsort(rows, kind="stable")
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        found[order] = np.asarray(self.array[rows[order]])
        return found

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """The indices of all rows, so many at a time."""
        for first in range(0, len(self), rows):
            yield np.arange(first, min(first + rows, len(self)))


@module
class Batch:
    """The rows of a `Rows` that a model is run on, in its place."""

    values: Array
    rows: Int[Array, " B"]
    num_rows: int = static()

    def __len__(self) -> int:
        """N, of the whole array."""
        return self.num_rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return (self.num_rows, *self.values.shape[1:])

    @property
    def ndim(self) -> int:
        """Of the whole array."""
        return self.values.ndim

    @property
    def dtype(self) -> Any:
        """Of its elements."""
        return self.values.dtype

    def __getitem__(self, index: Any) -> Array:
        """The rows of the minibatch: ``x[rows]`` or ``x[rows, ...]``, by the plate's indices."""
        rows, rest = split_index(index)
        if np.shape(rows) != np.shape(self.rows):
            raise ValueError(
                "vi.Rows: expected to be indexed by the indices of a plate, as in 'with "
                f"numpyro.plate('rows', {self.num_rows}, subsample_size=...) as rows: x[rows]'; "
                f"got indices of shape {np.shape(rows)} for {len(self.rows)} rows."
            )
        return self.values[(slice(None), *rest)]

    def __jax_array__(self) -> Array:
        raise TypeError(
            "vi.Rows: expected to be indexed by the indices of a plate, x[rows], before anything "
            "is computed of it: its other rows are not in memory."
        )


def split_index(index: Any) -> tuple[Any, tuple]:
    """The indices of rows, and those of the other axes."""
    return (index[0], index[1:]) if isinstance(index, tuple) else (index, ())


def batches_in(arguments: Any) -> list[Batch]:
    """The minibatches among the arguments of a model."""
    leaves = jax.tree.leaves(arguments, is_leaf=lambda x: isinstance(x, Batch))
    return [x for x in leaves if isinstance(x, Batch)]


def sources_in(arguments: Any) -> list[Rows]:
    """The arrays outside memory among the arguments of a model.

    Raises:
      TargetError: if they have different numbers of rows, or none.
    """
    found = [x for x in jax.tree.leaves(arguments) if isinstance(x, Rows)]
    lengths = sorted({len(x) for x in found})
    if len(lengths) > 1 or lengths == [0]:
        raise TargetError(
            f"vi.target: expected vi.Rows of one number of rows, not zero; got {lengths}."
        )
    return found


def filled(arguments: Any, rows: np.ndarray) -> Any:
    """The arguments with the given rows of every `Rows` read into a `Batch`."""

    def one(x: Any) -> Any:
        if not isinstance(x, Rows):
            return x
        return Batch(jnp.asarray(x.read(rows)), jnp.asarray(rows, jnp.int32), len(x))

    return jax.tree.map(one, arguments)
