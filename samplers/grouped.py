"""Draws in groups that should agree: chains, or populations of particles."""

import abc
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Array, Float

from samplers.convergence import rhat_and_ess
from vi.posterior import Drawn, tables
from vi.posterior.drawn import Draws, chosen
from vi.random import host_generator

if TYPE_CHECKING:
    import pandas


class Grouped(Drawn):
    """A posterior by C groups of S draws."""

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
        found = [rhat_and_ess(x.reshape(lead)) for x in tables.scalars(flat).values()]
        rhat, bulk, tail = np.array(found).T
        return table.assign(ess_bulk=bulk.round(), ess_tail=tail.round(), r_hat=rhat.round(3))
