"""The loop: jitted chunks, and between them, on the host, everything that talks to people."""

import dataclasses
import os
import pathlib
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, Protocol

from vi import storage
from vi.errors import CheckpointError
from vi.status import Status


class Run(Protocol):
    """An algorithm as the loop sees it; its state is a pytree of arrays and numbers."""

    def initial(self) -> Any:
        """The state before the first chunk."""
        ...

    def advance(self, state: Any) -> Any:
        """The state after one more chunk."""
        ...

    def done(self, state: Any) -> bool:
        """Whether there is nothing left to do."""
        ...

    def info(self, state: Any) -> dict[str, Any]:
        """Numbers to show: at least ``step`` and ``gradients``, and what tells how it goes."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be continued by this run; JSON."""
        ...


_SHOWN = {"elbo": "ELBO"}

Callback = Callable[[int, Any, dict[str, Any]], bool | None]


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """What happens between chunks.

    Attributes:
      progress: show a tqdm bar; by default, if standard error is a terminal and the run is long.
      callback: called as ``callback(step, state, info)`` after every chunk; true stops the run.
      checkpoint: file to save the state to, and to continue from if it is there.
      checkpoint_share: largest share of the run's time that may go into saving.
    """

    progress: bool | None = None
    callback: Callback | None = None
    checkpoint: str | os.PathLike | None = None
    checkpoint_share: float = 0.1


def iterate(run: Run, options: LoopOptions, *, total: int | None = None) -> tuple[Any, Status]:
    """Run to the end, or until a callback, an interrupt or an error.

    Args:
      run: the algorithm.
      options: what happens between chunks.
      total: number of steps, for the progress bar, if known.

    Returns:
      The last state, and `Status.RUNNING` if the run ended by itself, else why it was stopped.

    Raises:
      CheckpointError: if the checkpoint belongs to another fit.
    """
    state, saver = _resume(run, options)
    bar = _Bar(wanted=options.progress, total=total)
    try:
        while not run.done(state):
            state = run.advance(state)
            info = run.info(state)
            saver.save(state, force=run.done(state))
            bar.show(info)
            if options.callback and options.callback(info["step"], state, info):
                saver.save(state, force=True)
                return state, Status.STOPPED
    except KeyboardInterrupt:
        saver.save(state, force=True)
        return state, Status.INTERRUPTED
    finally:
        bar.close()
    return state, Status.RUNNING


def _resume(run: Run, options: LoopOptions) -> tuple[Any, "_Saver"]:
    saver = _Saver(options, run.fingerprint() if options.checkpoint else {})
    state = run.initial()
    if options.checkpoint is None or not pathlib.Path(options.checkpoint).exists():
        return state, saver
    state, meta = _last_whole(options.checkpoint, state)
    if meta != saver.fingerprint:
        differ = sorted(
            k for k in {*meta, *saver.fingerprint} if meta.get(k) != saver.fingerprint.get(k)
        )
        raise CheckpointError(
            f"{options.checkpoint}: expected a checkpoint of this fit; it differs in "
            f"{', '.join(differ)}. Delete it to start afresh, or pass another path."
        )
    return state, saver


def _last_whole(path: str | os.PathLike, like: Any) -> tuple[Any, dict]:
    """The state in a checkpoint, or in the one before it if the last one is damaged."""
    try:
        return storage.load_like(path, like)
    except storage.DamagedFileError as error:
        before = storage.previous(path)
        if not before.exists():
            raise
        warnings.warn(f"{error} Going on from {before}, the checkpoint before it.", stacklevel=2)
        return storage.load_like(before, like)


class _Saver:
    """Saves at most so often that saving takes its share of the time.

    A checkpoint that cannot be written costs the run nothing: it is said once, and tried again.
    """

    def __init__(self, options: LoopOptions, fingerprint: dict):
        self.path, self.share, self.fingerprint = (
            options.checkpoint,
            options.checkpoint_share,
            fingerprint,
        )
        self.spent, self.started, self.warned = 0.0, time.perf_counter(), False

    def save(self, state: Any, *, force: bool) -> None:
        if self.path is None:
            return
        now = time.perf_counter()
        if force or self.spent <= self.share * (now - self.started):
            try:
                storage.save(self.path, state, self.fingerprint)
            except OSError as error:
                if not self.warned:
                    warnings.warn(
                        f"{self.path}: the checkpoint could not be written ({error}). The run goes "
                        "on, and the last checkpoint that was written stays; make room.",
                        stacklevel=2,
                    )
                self.warned = True
            self.spent += time.perf_counter() - now


class _Bar:
    """A progress bar that appears only once a run turns out to be long."""

    def __init__(self, *, wanted: bool | None, total: int | None):
        self.wanted = sys.stderr.isatty() if wanted is None else wanted
        self.patience = 0.0 if wanted else 1.0
        self.total, self.bar, self.started = total, None, time.perf_counter()

    def show(self, info: dict[str, Any]) -> None:
        if not self.wanted or time.perf_counter() - self.started < self.patience:
            return
        if self.bar is None:
            import tqdm

            self.bar = tqdm.tqdm(total=self.total, unit="step")
        self.bar.update(info["step"] - self.bar.n)
        shown = {name: x for name, x in info.items() if name not in ("step", "gradients")}
        self.bar.set_postfix_str(", ".join(f"{_SHOWN.get(n, n)} {x:.3f}" for n, x in shown.items()))

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
