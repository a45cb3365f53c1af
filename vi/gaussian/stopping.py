"""When a refinement has nothing left to gain: a test on its residuals."""

import math
from typing import NamedTuple

import numpy as np

CONFIDENCE = 2.394  # one-sided 5 %, shared among up to six looks
STEP_TOLERANCE = 4e-3  # nats a step of rate one may still gain, for up to 50 coordinates
NOISE_TOLERANCE = 0.02  # nats the noise of the final average may cost
FEWEST = 3  # residuals in a chunk, to see how they vary


class Window(NamedTuple):
    """Sums over the steps of an averaging window; a pytree of arrays and numbers."""

    count: int
    total: np.ndarray  # sum of residuals
    squares: float  # sum of their squared norms
    chunks: int
    first_order: float  # sums over chunks of the two parts of the variance of the estimate
    second_order: float
    elbo: float  # sum over chunks of mean ELBOs

    @classmethod
    def empty(cls, size: int) -> "Window":
        """A window without steps, for residuals of the given length."""
        return cls(0, np.zeros(size), 0.0, 0, 0.0, 0.0, 0.0)

    def add(self, gram: np.ndarray, total: np.ndarray, elbo: float) -> "Window":
        """The window with a chunk more, unless fewer than three of its steps were taken.

        Args:
          gram: the residuals' Gram matrix, NaN in the rows and columns of steps not taken.
          total: sum of the residuals of the steps that were.
          elbo: mean ELBO.

        Returns:
          The window, with sums over the steps that were taken.
        """
        taken = np.isfinite(np.diag(gram))
        n = int(taken.sum())
        if n < FEWEST:
            return self
        gram = gram[np.ix_(taken, taken)]
        off = gram - np.diag(np.diag(gram))
        projections = off.sum(1) / (n - 1)
        return Window(
            count=self.count + n,
            total=self.total + total,
            squares=self.squares + float(np.trace(gram)),
            chunks=self.chunks + 1,
            first_order=self.first_order + float(projections.var(ddof=1)),
            second_order=self.second_order + float((off**2).sum() / (n * (n - 1))),
            elbo=self.elbo + elbo,
        )

    def left_to_gain(self) -> tuple[float, float, float]:
        r"""What a natural-gradient step would still gain.

        With residuals R_i of mean R the gain is ½‖R‖² to second order; its U-statistic
        :math:`\tfrac{1}{2n(n-1)} \sum_{i\ne j} R_i^T R_j` has no bias from the noise.

        Returns:
          The estimate, its standard error, and what the noise of one step costs, in nats; NaN if
          the window is empty.
        """
        if not self.chunks:
            return math.nan, math.nan, math.nan
        n = self.count
        mean = (float(np.sum(self.total**2)) - self.squares) / (n * (n - 1))
        variance = 4 * self.first_order / self.chunks / n
        variance += 2 * self.second_order / self.chunks / (n * (n - 1))
        noise = max(self.squares / n - max(mean, 0.0), 0.0)
        return 0.5 * mean, 0.5 * math.sqrt(variance), 0.5 * noise


def step_tolerance(dim: int) -> float:
    """Nats that a step may still gain when the refinement ends: 4e-3, or 8e-5 a coordinate."""
    return STEP_TOLERANCE * max(1.0, dim / 50)


def finished(window: Window, gain: float, tolerance: float) -> bool:
    """Whether to stop: with 95 % confidence a step gains too little, and the average is precise.

    Args:
      window: of the averaging steps.
      gain: of the last step, the share of one residual's noise that is left in the average.
      tolerance: nats that a step of rate one may still gain.

    Returns:
      Whether both hold.
    """
    left, sem, noise = window.left_to_gain()
    return left + CONFIDENCE * sem < tolerance and noise * gain < NOISE_TOLERANCE
