"""A target whose rows are read a minibatch at a time."""

import dataclasses
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from vi.compile import quick_jit
from vi.errors import TargetError, blame_model
from vi.module import module, static
from vi.targets.arguments import is_data
from vi.targets.mesh import shard_axis
from vi.targets.rows import BLOCK, Batch, Rows, filled, sources_in, split_index
from vi.targets.target import Target

_MOST_ROWS = 2**16  # of a block of a pass, whose residuals at 256 points are in memory


class Source:
    """The arguments of a model with `Rows` among them, and what has been read ahead.

    Equal to another of the same shapes, so that what is compiled for one serves the other.
    """

    def __init__(self, args: tuple, kwargs: dict, batch_size: int):
        self.args, self.kwargs, self.batch_size = args, kwargs, batch_size
        self.rows: list[Rows] = sources_in((args, kwargs))
        self.num_rows = len(self.rows[0])
        self._ahead: dict[tuple, Future] = {}
        self._reader: ThreadPoolExecutor | None = None
        self._epoch: tuple[Any, np.ndarray] = (None, np.zeros(0, int))

    def _signature(self) -> tuple:
        return self.batch_size, tuple((x.shape, x.dtype) for x in self.rows)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Source) and self._signature() == other._signature()

    def __hash__(self) -> int:
        return hash(self._signature())

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of all arrays."""
        return sum(x.dtype.itemsize * int(np.prod(x.shape[1:])) for x in self.rows)

    def steps_at_once(self, steps: int) -> int:
        """Minibatches that are in memory at a time: a divisor of the steps."""
        fit = max(1, 2 * BLOCK // (self.row_bytes * self.batch_size))
        return max(k for k in range(1, steps + 1) if steps % k == 0 and k <= fit)

    def some_rows(self) -> list[np.ndarray]:
        """Up to 1,024 rows from everywhere, to tell the data from others."""
        rows = np.unique(np.linspace(0, self.num_rows - 1, 1024).astype(int))
        return [x.read(rows) for x in self.rows]

    def filled(self, rows: np.ndarray) -> tuple[tuple, dict]:
        """The arguments with these rows."""
        return filled((self.args, self.kwargs), rows)

    def rows_of(self, words: tuple[int, ...], first: int, steps: int) -> np.ndarray:
        """The rows of some steps: each epoch is a permutation, of which the odd rest is left out.

        Args:
          words: of the key; with the epoch's number they make the permutation.
          first: the first step.
          steps: how many.

        Returns:
          Shape ``(steps, B)``.
        """
        each = self.num_rows // self.batch_size
        found = []
        for step in range(first, first + steps):
            epoch, place = divmod(step, each)
            if self._epoch[0] != (words, epoch):
                order = np.random.default_rng([*words, epoch]).permutation(self.num_rows)
                self._epoch = (words, epoch), order
            found.append(self._epoch[1][place * self.batch_size : (place + 1) * self.batch_size])
        return np.stack(found)

    def read_ahead(self, words: tuple[int, ...], first: int, steps: int) -> tuple[tuple, dict]:
        """The arguments with the rows of some steps; the next steps are then read by a thread."""
        reader = self._reader = self._reader or ThreadPoolExecutor(1, thread_name_prefix="vi.Rows")
        submit = lambda first: reader.submit(self._read, words, first, steps)
        wanted = self._ahead.pop((words, first, steps), None) or submit(first)
        found = wanted.result()
        self._ahead = {(words, first + steps, steps): submit(first + steps)}
        return found

    def _read(self, words: tuple[int, ...], first: int, steps: int) -> tuple[tuple, dict]:
        return self.filled(self.rows_of(words, first, steps).reshape(-1))


@module
class StepTarget(Target):
    """The minibatches of some steps."""

    moving: tuple[bool, ...] = static(default=())  # which leaves lead with the steps
    first: Any = 0  # step

    def at(self, step: Array) -> Target:
        """The target of one step's minibatch."""
        take = lambda x: jax.lax.dynamic_index_in_dim(x, step - self.first, keepdims=False)
        pairs = zip(self.data, self.moving, strict=True)
        data = [take(x) if moves else x for x, moves in pairs]
        return Target(data, self.structure, self.bound)


@module
class StreamedTarget(Target):
    """A target of `Rows`. Its data are the first minibatch, by which its structure is known.

    `log_densities` makes a pass over all rows; what a jitted function can compute is
    `log_density` with a key, of the minibatches of `steps`.
    """

    source: Source = static(default=None)  # type: ignore[assignment]
    rows_over: Mesh | None = static(default=None)  # devices that share the rows

    @property
    def subsampled(self) -> bool:
        """True."""
        return True

    @property
    def operations(self) -> float:
        """Of one evaluation for all rows."""
        source = self.source
        return super().operations * source.num_rows / source.batch_size

    @property
    def glance(self) -> Target:
        """The estimate by the first minibatch."""
        return Target(self.data, self.structure, self.bound)

    def log_density(self, z: Float[Array, " D"], key: Array | None = None) -> Float[Array, ""]:
        """An error: rows cannot be read from a compiled function."""
        raise TargetError(
            "vi.Rows: expected an algorithm of minibatches; this one needs the log density of all "
            "rows in a compiled function. Use vi.fit with a Gaussian family, or give it arrays in "
            "memory (numpy.asarray)."
        )

    def log_densities(self, z: Float[Array, "S D"]) -> np.ndarray:
        """The log density at many points, by one pass over the rows; shape ``(S,)``, 64-bit.

        The estimate by a block of B of the N rows is scaled by N / B, and the priors are in it
        once, so that the mean of all blocks' estimates, weighted by B / N, is exact.
        """
        source = self.source
        rows = int(np.clip(BLOCK // source.row_bytes, 1, _MOST_ROWS))
        total = np.zeros(len(z))
        for block in source.rows[0].blocks(min(rows, source.num_rows)):
            arguments = source.filled(block)
            data, moving = self.structure.arguments.data(*arguments), _moving(arguments)
            data = self._spread(data, moving, axis=0)
            values = _values(Target(data, self.structure, self.bound), z)
            total += len(block) / source.num_rows * np.asarray(values, float)
        return total

    def steps(self, words: tuple[int, ...], first: int, count: int) -> StepTarget:
        """The minibatches of ``count`` steps."""
        arguments = self.source.read_ahead(words, first, count)
        data, moving = self.structure.arguments.data(*arguments), _moving(arguments)
        pairs = zip(data, moving, strict=True)
        data = [x.reshape(count, -1, *x.shape[1:]) if moves else x for x, moves in pairs]
        data = self._spread(data, moving, axis=1)
        return StepTarget(data, self.structure, self.bound, None, moving, np.int32(first))

    def _spread(self, data: list, moving: tuple[bool, ...], axis: int) -> list:
        """The data with the rows over the devices, if there are several."""
        mesh = self.rows_over
        if mesh is None:
            return data
        pairs = zip(data, moving, strict=True)
        return [shard_axis(x, mesh, axis if moves else 0) for x, moves in pairs]


def at_step(target: Any, step: Array) -> Any:
    """The target that a step of an optimisation sees."""
    return _of(target, StepTarget, lambda found: found.at(step))


def minibatches(target: Any, words: tuple[int, ...], first: int, count: int) -> Any:
    """The target with the rows of ``count`` steps in memory, if they are not all."""
    return _of(target, StreamedTarget, lambda found: found.steps(words, first, count))


def glance(target: Any) -> Any:
    """The target, or the estimate of it by the first rows if they are not all in memory."""
    return _of(target, StreamedTarget, lambda found: found.glance)


def steps_at_once(target: Any, steps: int) -> int:
    """How many of the steps `minibatches` can have in memory."""
    while hasattr(target, "base"):
        target = target.base
    return target.source.steps_at_once(steps) if isinstance(target, StreamedTarget) else steps


def _of(target: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """A target, or one that it wraps, changed if it is of a kind."""
    if isinstance(target, kind):
        return change(target)
    if hasattr(target, "base"):
        return dataclasses.replace(target, base=_of(target.base, kind, change))
    return target


def _moving(arguments: Any) -> tuple[bool, ...]:
    found: list[bool] = []
    for x in jax.tree.leaves(arguments, is_leaf=lambda x: isinstance(x, Batch)):
        if isinstance(x, Batch):
            found += [True, True]
        elif is_data(x):
            found.append(False)
    return tuple(found)


@quick_jit
def _values(target: Target, z: Array) -> Array:
    return target.log_densities(z)


def streamed(make: Callable[..., Target], model: Callable, args: tuple, kwargs: dict) -> Target:
    """The target of a model with `Rows` among its arguments.

    Args:
      make: `vi.targets.target.target`.
      model: a NumPyro model.
      args: its arguments.
      kwargs: the same.

    Raises:
      TargetError: if the model has no plate of the rows with ``subsample_size``.
    """
    source = Source(args, kwargs, _batch_size(model, args, kwargs))
    first = np.arange(source.batch_size)
    args, kwargs = source.filled(first)
    made = make(model, *args, **kwargs)
    return StreamedTarget(made.data, made.structure, made.bound, None, source)


class _Probe:
    """Stands for `Rows` while the model's plates are looked for."""

    def __init__(self, rows: Rows):
        self.shape, self.dtype, self.ndim = rows.shape, rows.dtype, len(rows.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Array:
        rows, rest = split_index(index)
        shape = (*np.shape(rows)[:1], *self.shape[1:])
        return jnp.zeros(shape, jax.dtypes.canonicalize_dtype(self.dtype))[(slice(None), *rest)]


def _batch_size(model: Callable, args: tuple, kwargs: dict) -> int:
    """How many rows the model's plate draws."""
    from numpyro.handlers import seed, trace

    number, given = len(sources_in((args, kwargs))[0]), (args, kwargs)

    def probe(x: Any) -> Any:
        if isinstance(x, Rows):
            return _Probe(x)
        return jnp.asarray(x) if isinstance(x, np.ndarray) and is_data(x) else x

    args, kwargs = jax.tree.map(probe, (args, kwargs))
    plates: dict[str, tuple[int, int | None]] = {}

    def run() -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="subsample_size does not match")
            sites = trace(seed(model, jax.random.key(0))).get_trace(*args, **kwargs)
        plates.update({n: site["args"] for n, site in sites.items() if site["type"] == "plate"})

    with blame_model("vi.target", *given):
        jax.eval_shape(run)
    sizes = {batch for size, batch in plates.values() if size == number}
    wanted = [size for size in sizes if size is not None and size < number]
    if len(sizes) == 1 and not wanted:
        drawn = sizes.pop()
        said = "all rows" if drawn is None else f"{drawn} rows"
        raise TargetError(
            f"vi.target: expected a plate that draws fewer than the {number} rows of vi.Rows; it "
            f"draws {said}. Pass the model's number of rows a step, as in batch_size=100."
        )
    if len(sizes) != 1:
        raise TargetError(
            f"vi.target: expected a model with one plate of the {number} rows of vi.Rows that "
            f"draws fewer of them, numpyro.plate('rows', {number}, subsample_size=100) as rows, "
            f"and the arrays indexed by it, x[rows]; its plates are {plates}."
        )
    return wanted[0]
