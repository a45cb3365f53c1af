"""Draws in groups that should agree: chains, or populations of particles."""

import abc
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, Float

from samplers.mixing import rhat_and_ess
from vi.posterior import Drawn, evaluate, export, tables
from vi.posterior.drawn import Draws, chosen
from vi.random import host_generator

if TYPE_CHECKING:
    import arviz
    import pandas
    import xarray


class Grouped(Drawn):
    """A posterior by C groups of S draws, chains or populations: what both offer.

    All draws are one sample of the posterior, and the groups tell whether it has settled. A kind of
    its own has the points, of all groups on the unconstrained space, as ``_points``.
    """

    @property
    @abc.abstractmethod
    def _points(self) -> Float[np.ndarray, "C S D"]:
        """All draws on the unconstrained space."""

    @property
    def num_chains(self) -> int:
        """Number C of chains."""
        return self._points.shape[0]

    @property
    def num_samples(self) -> int:
        """Number S of draws of each chain."""
        return self._points.shape[1]

    def draws(self) -> Draws:
        """All draws of all sites by chain, ``{site: (C, S, *shape)}``, in the model's own space."""
        lead = (self.num_chains, self.num_samples)
        flat = self._constrained(self._points.reshape(-1, self.target.dim))
        return {name: x.reshape(*lead, *x.shape[1:]) for name, x in flat.items()}

    def sample(self, key: Array, num_samples: int = 1000) -> Draws:
        """Draws out of those of all chains, without replacement while there are as many.

        Args:
          key: a key.
          num_samples: number S of draws.

        Returns:
          ``{site: (S, *shape)}``, deterministic sites included.
        """
        z = self._points.reshape(-1, self.target.dim)
        again = num_samples > len(z)
        return self._constrained(z[host_generator(key).choice(len(z), num_samples, replace=again)])

    def summary(self, sites: list[str] | None = None) -> "pandas.DataFrame":
        """Moments and quantiles of every scalar of every site, with R-hat and effective sizes.

        Args:
          sites: which sites; by default all, deterministic ones included.

        Returns:
          A data frame with rows ``site[i,j]`` and columns mean, sd, 5%, 50%, 95%, ess_bulk,
          ess_tail, r_hat.
        """
        by_chain = chosen(self.draws(), sites, list(self.draws()))
        flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in by_chain.items()}
        table = tables.summary(flat)
        lead = (self.num_chains, self.num_samples)
        scalars = np.stack([*tables.scalars(flat).values()], axis=-1)
        rhat, bulk, tail = rhat_and_ess(scalars.reshape(*lead, -1))
        return table.assign(ess_bulk=bulk.round(), ess_tail=tail.round(), r_hat=rhat.round(3))

    def _statistics(self) -> dict[str, Any]:
        """``sample_stats`` of the draws, ``(C, S)`` each."""
        return {}

    def _attributes(self) -> dict[str, Any]:
        """Numbers that are exported with the verdict."""
        return {}

    def to_datatree(self, *, log_likelihood: bool = False) -> "xarray.DataTree":
        """An xarray DataTree for ArviZ.

        Args:
          log_likelihood: with the log density of each observation at each draw, which
            ``arviz.loo`` and ``arviz.compare`` ask for: C S N numbers.

        Returns:
          Groups ``posterior``, ``sample_stats`` where there are some, and, for NumPyro models,
          ``observed_data``, and ``log_likelihood`` if asked for.

        Raises:
          TypeError: if ``log_likelihood`` is asked of a target without observed sites.
        """
        groups: dict[str, Any] = {"posterior": self.draws()}
        if self._statistics():
            groups["sample_stats"] = self._statistics()
        observed = self.target.structure.observed(self.target.data)
        if observed:
            groups["observed_data"] = {k: np.asarray(v) for k, v in observed.items()}
        if log_likelihood:
            if not observed:
                raise TypeError(
                    f"{type(self).__name__}.to_datatree: expected a NumPyro model with observed "
                    "sites for log_likelihood=True; the target has none."
                )
            z = self._points.reshape(-1, self.target.dim)
            found = evaluate.log_likelihood(self.target, z)
            lead = self.num_chains, self.num_samples
            each = {k: np.asarray(v) for k, v in found.items()}
            groups["log_likelihood"] = {k: v.reshape(*lead, *v.shape[1:]) for k, v in each.items()}
        attributes = {
            "inference_library": "kullback",
            "grade": self.verdict.grade,
            "verdict": self.verdict.text,
            **self._attributes(),
        }
        return export.datatree(groups, attributes)

    def to_arviz(self, *, log_likelihood: bool = False) -> "arviz.InferenceData | xarray.DataTree":
        """What the installed ArviZ takes: InferenceData before 1.0, `to_datatree` from 1.0 on."""
        return export.for_arviz(self.to_datatree(log_likelihood=log_likelihood))
