"""What every posterior offers for which draws are all that is needed."""

import abc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array

from vi.posterior import evaluate, plots, tables
from vi.posterior.predicted import predicted
from vi.posterior.verdict import Verdict
from vi.targets import Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draws = dict[str, np.ndarray]


class Drawn(abc.ABC):
    """A posterior of a target that can be sampled, with a verdict on its draws."""

    target: Target
    verdict: Verdict

    @abc.abstractmethod
    def sample(self, key: Array, num_samples: int = 1000) -> Draws:
        """Draws of all latent sites and of the deterministic sites, in the model's own space.

        Args:
          key: a key.
          num_samples: number S of draws.

        Returns:
          ``{site: (S, *shape)}``.
        """

    def predictive(
        self, key: Array, *args: Any, num_samples: int = 1000, **kwargs: Any
    ) -> dict[str, Array]:
        """Draws of the model's other sites given posterior draws: NumPyro's ``Predictive``.

        Args:
          key: a key.
          *args: arguments of the model, with ``None`` for the observations to be predicted. Those
            of the fit are not remembered: inputs are given again, or new ones.
          num_samples: number S of draws.
          **kwargs: keyword arguments of the same.

        Returns:
          ``{site: (S, *shape)}``.

        Raises:
          TypeError: if the target is not a NumPyro model, or the arguments are not its own.
          ValueError: if data are given for all that could be predicted.
        """
        return self._predictive(self.sample, key, num_samples, args, kwargs)

    def _predictive(
        self, draw: Callable, key: Array, num_samples: int, args: tuple, kwargs: dict
    ) -> dict[str, Array]:
        owner = f"{type(self).__name__}.predictive"
        draw_key, predict_key = jax.random.split(key)
        latent = set(self.target.layout.names)
        draws = {k: v for k, v in draw(draw_key, num_samples).items() if k in latent}
        return predicted(self.target, draws, predict_key, args, kwargs, owner)

    def _constrained(self, z: Array | np.ndarray) -> Draws:
        return jax.tree.map(np.asarray, evaluate.constrain(self.target, z))

    def __repr__(self) -> str:
        """The sites, and the verdict."""
        sites = zip(self.target.layout.names, self.target.layout.shapes, strict=True)
        named = ", ".join(f"{name}{list(shape) or ''}" for name, shape in sites)
        return f"{type(self).__name__} of {named}\n{self.verdict}"

    def plot_marginals(
        self,
        sites: list[str] | None = None,
        *,
        reference: dict[str, np.ndarray] | None = None,
        most: int = 16,
    ) -> "Figure":
        """Histograms of marginals; returns the matplotlib figure.

        Args:
          sites: which sites; by default the latent ones.
          reference: ``{site: (S, *shape)}``, for instance draws of MCMC, drawn over them.
          most: at most so many panels.
        """
        other = tables.scalars(reference) if reference else None
        return plots.marginals(self._columns(sites, most), other)

    def plot_pairs(self, sites: list[str] | None = None, *, most: int = 6) -> "Figure":
        """Scatter plots of pairs of scalars; arguments and result as `plot_marginals`."""
        return plots.pairs(self._columns(sites, most))

    def _columns(self, sites: list[str] | None, most: int) -> Draws:
        draws = self.sample(jax.random.key(0), 4000)
        columns = tables.scalars(chosen(draws, sites, self.target.layout.names))
        moving = {name: x for name, x in columns.items() if np.ptp(x) > 0}
        return dict(list((moving or columns).items())[:most])


def chosen(draws: Draws, sites: list[str] | None, otherwise: Sequence[str]) -> Draws:
    """The draws of some sites.

    Raises:
      ValueError: if a site is unknown.
    """
    unknown = sorted(set(sites or ()) - set(draws))
    if unknown:
        raise ValueError(f"expected sites out of {sorted(draws)}; got unknown {unknown}.")
    return {name: draws[name] for name in sites or otherwise}
