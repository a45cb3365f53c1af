"""The result of MCMC: draws of several chains, and a verdict on them."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from samplers.convergence import Convergence
from samplers.grouped import Grouped
from samplers.kept import Transition
from samplers.saved import fields, read, told
from vi import Posterior, Target, Verdict, storage
from vi.posterior.saved import check_density
from vi.status import Status
from vi.targets import target as make_target


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Chains(Grouped):
    """Draws of a posterior by Markov chains, how far they can be trusted, and what they cost.

    Attributes:
      target: what was sampled, with its data.
      transitions: every draw, ``(C, S, D)`` on the unconstrained space, with its statistics.
      status: how the run ended.
      verdict: a grade (``good``, ``fair``, ``poor``, ``failed``) and its reasons; print it.
      convergence: R-hat, effective sample sizes and divergences behind the verdict.
      cost: ``{"gradients", "warmup_gradients", "seconds", "compile_seconds"}``; what the start cost
        is in ``start.cost``.
      start: the approximation whose coordinates the chains ran in, or None for chains from disk.
      key: the key of the run.
      provenance: versions, key, digest of the data, options.
    """

    target: Target
    transitions: Transition
    status: Status
    verdict: Verdict
    convergence: Convergence
    cost: dict[str, float]
    start: Posterior | None
    key: Any
    provenance: dict[str, Any]

    @property
    def _points(self) -> Float[np.ndarray, "C S D"]:
        return np.asarray(self.transitions.z)

    def _statistics(self) -> dict[str, Any]:
        kept = self.transitions
        return {
            "lp": kept.log_density,
            "acceptance_rate": kept.acceptance,
            "diverging": kept.divergent,
            "n_steps": kept.leapfrogs,
            "energy": kept.energy,
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write the draws, without the model and its data, to one file; see `load`.

        Args:
          path: where to; a file there is kept as ``NAME.previous``.
        """
        meta = {
            **told("chains", self),
            "convergence": self.convergence._asdict(),
        }
        storage.save(path, list(self.transitions), meta)

    @classmethod
    def load(
        cls, path: str | os.PathLike, model: Callable | Target, *args: Any, **kwargs: Any
    ) -> "Chains":
        """Read chains that `save` wrote. No code in the file is executed.

        Args:
          path: the file.
          model: the model or log density, or a `vi.Target`; it is not in the file.
          *args: arguments of the model: the data, which are not in the file either.
          **kwargs: keyword arguments of the model.

        Raises:
          CheckpointError: if the file is not whole or not of chains, or if the model's sites or
            data are not those that were sampled.
        """
        target = make_target(model, *args, **kwargs)
        leaves, meta = read(path, "chains", target)
        kept = Transition(*map(np.asarray, leaves))
        check_density(path, target, kept.z[0], kept.log_density[0])
        return cls(
            target=target,
            transitions=kept,
            convergence=Convergence(**meta["convergence"]),
            **fields(meta),
        )
