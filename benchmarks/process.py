"""Measurements in fresh processes: one core, one thread, the clock started after import."""

import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version

_ONE_THREAD = {
    "JAX_PLATFORMS": "cpu",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


def run_alone(
    module: str, *arguments: str, timeout: float = 900, python: str = sys.executable
) -> dict:
    """Run ``python -m module --one arguments`` and read the JSON of its last line.

    Returns:
      The measurement; ``{"error": text}`` if the process failed or took too long.
    """
    command = [python, "-m", module, "--one", *arguments]
    if hasattr(os, "sched_getaffinity"):
        core = min(os.sched_getaffinity(0))
        pin = lambda: os.sched_setaffinity(0, {core})
    else:
        pin = None
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **_ONE_THREAD},
            preexec_fn=pin,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no result within {timeout:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


class CpuClock:
    """CPU seconds of this process since it was made: what an idle core would have taken."""

    def __init__(self) -> None:
        self._started = time.process_time()

    def read(self) -> float:
        """Seconds so far."""
        return round(time.process_time() - self._started, 4)


def machine(*packages: str) -> str:
    """One line on where a benchmark ran."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    here = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return f"{here}, {versions}"
