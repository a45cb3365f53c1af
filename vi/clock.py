"""How long a block took, and how much of that XLA spent compiling."""

import time
from typing import Any

import jax

_compiling = 0.0
_EVENTS = ("/jax/core/compile/backend_compile_duration", "/jax/core/compile/jaxpr_trace_duration")


def _listen(event: str, seconds: float, **_: Any) -> None:
    global _compiling
    if event in _EVENTS:
        _compiling += seconds


jax.monitoring.register_event_duration_secs_listener(_listen)


class Clock:
    """Wall seconds since it was made, and the part that went into tracing and compiling."""

    def __init__(self) -> None:
        self._started, self._compiled = time.perf_counter(), _compiling

    def read(self) -> dict[str, float]:
        """``{"seconds": total, "compile_seconds": part}``; other threads' compilations count."""
        return {
            "seconds": round(time.perf_counter() - self._started, 4),
            "compile_seconds": round(_compiling - self._compiled, 4),
        }
