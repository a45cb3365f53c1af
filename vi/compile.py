"""Jit for functions whose compilation costs the user more than their run."""

import functools
from collections.abc import Callable
from typing import Any

import jax

_QUICK = {"xla_cpu_use_fusion_emitters": False}


@functools.cache
def quick_options() -> dict[str, Any]:
    """Compiler options that halve the time XLA takes over small programs on a CPU.

    The older of XLA's two code generators for CPU compiles twice as fast, and its code is about
    as fast. Where the backend is another, or XLA does not know the option, there are none.
    """
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=_QUICK).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # it does not know the option
        return {}
    return _QUICK


def quick_jit(function: Callable | None = None, **options: Any) -> Callable:
    """`jax.jit` with `quick_options`, which are looked up at the first call, not at import.

    Args:
      function: to compile; without it, returns a decorator.
      **options: for `jax.jit`, for instance ``static_argnames``.

    Returns:
      The compiled function; compilation is cached as by `jax.jit`.
    """
    if function is None:
        return functools.partial(quick_jit, **options)

    @functools.cache
    def compiled() -> Callable:
        return jax.jit(function, compiler_options=quick_options(), **options)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return compiled()(*args, **kwargs)

    return call
