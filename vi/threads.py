"""BLAS on one thread where matrices are so small that more only wait for each other."""

import contextlib
import functools
from typing import Any

SMALL = 400  # rows; below, a factorisation on several threads is slower, and on a busy machine much


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
    if dim >= SMALL:
        return contextlib.nullcontext()
    return _controller().limit(limits=1, user_api="blas")
