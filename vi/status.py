"""How a run ended, as a number that can live in a jitted state."""

import enum


class Status(enum.IntEnum):
    """Outcome of a fit. Jitted code stores the number; people read `message`.

    ``CONVERGED``: the stopping test found nothing left worth its tolerance. ``MAX_STEPS``: all
    steps were taken before that. ``STALLED``: the optimizer stopped moving short of the optimum.
    ``STOPPED``: a callback asked for it. ``INTERRUPTED``: Ctrl-C; the state is the last good one.
    ``NONFINITE`` and ``CHOLESKY_FAILED``: broken numbers; the state is the last good one, and
    `failed` is true. ``RUNNING``: not at its end.

    Example:
      >>> import vi
      >>> vi.Status.CONVERGED.message
      'The stopping test found no improvement left worth the tolerance.'
    """

    RUNNING = 0
    CONVERGED = 1
    MAX_STEPS = 2
    NONFINITE = 3
    CHOLESKY_FAILED = 4
    STOPPED = 5
    INTERRUPTED = 6
    STALLED = 7

    @property
    def message(self) -> str:
        """One sentence for people."""
        return _MESSAGES[self]

    @property
    def failed(self) -> bool:
        """Whether the state is the last good one before a numerical failure."""
        return self in (Status.NONFINITE, Status.CHOLESKY_FAILED)


_MESSAGES = {
    Status.RUNNING: "The run has not ended.",
    Status.CONVERGED: "The stopping test found no improvement left worth the tolerance.",
    Status.MAX_STEPS: "All steps were taken before the stopping test was satisfied.",
    Status.NONFINITE: (
        "The objective or its gradient became non-finite; this is the last good state."
    ),
    Status.CHOLESKY_FAILED: (
        "A covariance lost positive definiteness; this is the last good state."
    ),
    Status.STOPPED: "A callback asked to stop.",
    Status.INTERRUPTED: (
        "The run was interrupted; this is the last good state. With a checkpoint the same call "
        "goes on from there."
    ),
    Status.STALLED: (
        "The optimizer stopped moving short of the optimum: its steps were refused, not finite, or "
        "of rate zero."
    ),
}
