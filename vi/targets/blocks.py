"""A stream of blocks of rows, written to disk once, as one .npy of each array."""

import contextlib
import errno
import math
import os
import pathlib
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import jax
import numpy as np

_NUMBERS = "biufc"  # kinds of dtypes: what JAX computes with


class Folder:
    """A folder; a temporary one is removed with the last reference to this, or at exit."""

    def __init__(self, path: pathlib.Path, *, temporary: bool):
        self.path = path
        if temporary:
            weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)


def write(blocks: Iterable[Any], folder: str | os.PathLike | None) -> tuple[Folder, Any]:
    """Write the blocks into a folder, which has its name only when all are written.

    Args:
      blocks: pytrees of arrays that lead with the same number of rows; read once.
      folder: a new one, or None for a temporary one.

    Returns:
      The folder, and the pytree of the paths in it.
    """
    if hasattr(blocks, "shape") or not isinstance(blocks, Iterable):
        raise TypeError(
            "vi.Rows.from_blocks: expected an iterable of blocks, such as a generator of tuples of "
            f"arrays; got {type(blocks).__name__}. An array goes to vi.Rows itself."
        )
    if folder is None:
        part = made = pathlib.Path(tempfile.mkdtemp(prefix="kullback-rows-"))
    else:
        made = _new(pathlib.Path(folder).absolute())
        made.parent.mkdir(parents=True, exist_ok=True)
        part = made.with_name(f"{made.name}.{secrets.token_hex(4)}.part")
        part.mkdir()
    try:
        names = _Writer(part, durable=folder is not None).run(blocks)
        if part != made:
            if _new(made).exists():
                made.rmdir()  # empty
            os.replace(part, made)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return Folder(made, temporary=folder is None), jax.tree.map(lambda name: made / name, names)


def _new(folder: pathlib.Path) -> pathlib.Path:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(
            f"vi.Rows.from_blocks: expected a new or an empty folder; {folder} is there. What an "
            "earlier run wrote is read by vi.Rows(numpy.load(path, mmap_mode='r')); to write it "
            "again, delete the folder."
        )
    return folder


class _Writer:
    """Files that grow by blocks."""

    def __init__(self, folder: pathlib.Path, *, durable: bool):
        self.folder, self.durable = folder, durable
        self.structure: Any = None
        self.names: list[str] = []
        self.kinds: list[tuple[np.dtype, tuple[int, ...]]] = []  # dtype, shape of a row
        self.files: list[BinaryIO] = []

    def run(self, blocks: Iterable[Any]) -> Any:
        """Write all blocks; the pytree of the files' names."""
        number, total = -1, 0
        try:
            for number, block in enumerate(blocks):
                leaves, rows = self._checked(number, block)
                if rows:
                    self._guarded(self._append, leaves)
                total += rows
            if total == 0:
                raise ValueError(
                    f"vi.Rows.from_blocks: expected blocks with rows; got {number + 1} blocks and "
                    "no rows. An iterator that has been read before gives none: make a new one."
                )
            self._guarded(self._finish, total)
        finally:
            for file in self.files:
                with contextlib.suppress(OSError):  # a full disk, which has been told by then
                    file.close()
        return jax.tree.unflatten(self.structure, self.names)

    def _checked(self, number: int, block: Any) -> tuple[list[np.ndarray], int]:
        """The arrays of a block, and their rows, if they are like those of the first."""
        where = f"vi.Rows.from_blocks: block {number}: expected"
        paths, structure = jax.tree.flatten_with_path(block)
        if any(np.ma.is_masked(leaf) for _, leaf in paths):
            raise ValueError(
                f"{where} no masked values. Leave such rows out, or give them a value that the "
                "model knows, x.filled(numpy.nan)."
            )
        leaves = [np.asarray(leaf) for _, leaf in paths]
        kinds = [(x.dtype, x.shape[1:]) for x in leaves]
        lengths = {len(x) if x.ndim else -1 for x in leaves}
        if len(lengths) != 1 or -1 in lengths:
            shapes = jax.tree.unflatten(structure, [x.shape for x in leaves])
            raise ValueError(
                f"{where} arrays that lead with the same number of rows; their shapes are {shapes}."
            )
        (rows,) = lengths
        if rows == 0:
            return leaves, 0
        if self.structure is None:
            self._start(paths, structure, leaves, where)
        if structure != self.structure:
            raise ValueError(
                f"{where} the structure of the blocks before it, {self.structure}; got {structure}."
            )
        for name, (dtype, shape), (found, other) in zip(self.names, self.kinds, kinds, strict=True):
            if (found.newbyteorder("="), other) != (dtype, shape):
                raise ValueError(
                    f"{where} '{name[:-4]}' with the dtype {dtype} and rows of shape {shape}, as "
                    f"in the blocks before it; got {found} and {other}. Convert each block to one "
                    "dtype, numpy.asarray(x, numpy.float32)."
                )
        return leaves, rows

    def _start(self, paths: list, structure: Any, leaves: list[np.ndarray], where: str) -> None:
        """Take the first block's structure and open the files."""
        for (path, _), x in zip(paths, leaves, strict=True):
            name = jax.tree_util.keystr(path, simple=True, separator=".") or "rows"
            name = "".join(c if c.isalnum() or c in "._- " else "_" for c in name) + ".npy"
            if x.dtype.kind not in _NUMBERS:
                raise TypeError(
                    f"{where} numbers in '{name[:-4]}'; got the dtype {x.dtype}. Convert each "
                    "block, numpy.asarray(x, numpy.float32); code strings and categories as "
                    "integers; read columns of several dtypes as arrays of their own."
                )
            if name in self.names:
                raise ValueError(f"{where} names that make different files; got '{name}' twice.")
            self.names.append(name)
            self.kinds.append((x.dtype.newbyteorder("="), x.shape[1:]))
        self.structure = structure
        self._guarded(self._open)

    def _open(self) -> None:
        for name in self.names:
            self.files.append(open(self.folder / name, "wb"))  # noqa: SIM115
        self._headers(0)

    def _append(self, leaves: list[np.ndarray]) -> None:
        for file, x, (dtype, _) in zip(self.files, leaves, self.kinds, strict=True):
            file.write(np.ascontiguousarray(x, dtype).data)

    def _headers(self, rows: int) -> None:
        """The headers, in the room that NumPy leaves in each for the number of rows to grow."""
        for file, (dtype, shape) in zip(self.files, self.kinds, strict=True):
            file.seek(0)
            about = {"shape": (rows, *shape), "fortran_order": False}
            about["descr"] = np.lib.format.dtype_to_descr(dtype)
            np.lib.format.write_array_header_1_0(file, about)

    def _finish(self, rows: int) -> None:
        self._headers(rows)
        for file in self.files:
            file.flush()
            if self.durable:
                os.fsync(file.fileno())

    def _guarded(self, work: Callable, *args: Any) -> None:
        """Run what writes; a full disk is said to be one of this folder."""
        try:
            work(*args)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            row = sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.kinds)
            raise OSError(
                error.errno,
                f"vi.Rows.from_blocks: {error.strerror}. A row takes {row} bytes; what was written "
                "is removed. Give folder= on a disk with more room. It was",
                str(self.folder),
            ) from error
