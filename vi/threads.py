"""BLAS on one thread where matrices are so small that more only wait for each other."""

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

SMALL = 400  # rows; below, a factorisation on several threads is slower, and on a busy machine much

_LIMIT = threading.Lock()


@functools.cache
def _controller() -> Any:
    import threadpoolctl

    return threadpoolctl.ThreadpoolController()


def blas_threads(dim: int) -> contextlib.AbstractContextManager:
    """A context in which BLAS, NumPy's and that of XLA on a CPU, is limited to one thread.

    OpenBLAS spreads a decomposition of a hundred rows over all cores, whose threads then spin
    while they wait: where other processes want the cores, ten times as long as on one.

    Args:
      dim: rows of the matrices to be decomposed; from 400 on nothing is limited.

    Returns:
      The context manager.
    """
    return contextlib.nullcontext() if dim >= SMALL else _one_thread()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Only one thread sets the process's limit: two would restore what the other has set."""
    if not _LIMIT.acquire(blocking=False):
        yield
        return
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        _LIMIT.release()
