"""The result of a fit: draws, densities, diagnostics and a verdict."""

import dataclasses
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array, Float

from vi import provenance
from vi.compile import quick_jit
from vi.diagnostics import Diagnostics, diagnose
from vi.random import fast_key, host_generator
from vi.status import Status
from vi.target import Target
from vi.verdict import Verdict

if TYPE_CHECKING:
    import arviz
    import pandas
    import xarray

Draws = dict[str, np.ndarray]


@partial(quick_jit, static_argnames=("num_samples",))
def _sample(key: Array, q: Any, num_samples: int) -> tuple[Array, Array]:
    return q.sample_and_log_prob(fast_key(key), num_samples)


@quick_jit
def _constrain(target: Target, z: Array) -> dict[str, Array]:
    return jax.vmap(target.constrain)(z)


@quick_jit
def _log_prob(q: Any, target: Target, values: dict[str, Array]) -> Array:
    z = target.unconstrain(values)
    return q.log_prob(z) - target.structure.log_jacobian(target.data, z)


@dataclasses.dataclass(frozen=True, eq=False)
class Posterior:
    """An approximate posterior, how good it is, and how that is known.

    Attributes:
      target: what was approximated, with its data.
      q: the family on the unconstrained vector.
      status: how the run ended.
      verdict: a grade (``good``, ``fair``, ``poor``, ``failed``) and its reasons; print it.
      diagnostics: fresh draws from q and what they say.
      history: ``{"step", "elbo"}``, the ELBO as the run saw it.
      cost: ``{"gradients", "log_densities", "seconds", "compile_seconds"}``.
      rungs: for ``family="auto"``, what each family tried came to.
      key: the key of the fit.
      options: the options of the fit that were given.
    """

    target: Target
    q: Any
    status: Status
    verdict: Verdict
    diagnostics: Diagnostics
    history: dict[str, np.ndarray]
    cost: dict[str, float]
    rungs: tuple[dict[str, Any], ...]
    key: Array
    options: dict[str, Any]

    # ---- what is known of its quality ------------------------------------------------------

    @property
    def elbo(self) -> float:
        """Evidence lower bound in nats, from fresh draws; its standard error is `elbo_sem`."""
        return self.diagnostics.elbo

    @property
    def elbo_sem(self) -> float:
        """Standard error of `elbo`, nats."""
        return self.diagnostics.elbo_sem

    @property
    def khat(self) -> float:
        """Pareto tail shape of the importance weights of fresh draws; above 0.7 is bad."""
        return self.diagnostics.khat

    @property
    def provenance(self) -> dict[str, Any]:
        """Versions, key, digest of the data, options and cost of the fit."""
        about = provenance.describe(self.target, self.key, self.options)
        return {**about, "status": self.status.name, "cost": self.cost}

    # ---- draws and densities ---------------------------------------------------------------

    def sample(self, key: Array, num_samples: int = 1000) -> Draws:
        """Draws of all latent sites and of the deterministic sites, in the model's own space.

        Args:
          key: a key.
          num_samples: S.

        Returns:
          ``{site: (S, *shape)}``.
        """
        z, _ = _sample(key, self.q, num_samples)
        return self._constrained(z)

    def sample_unconstrained(self, key: Array, num_samples: int) -> tuple[dict[str, Array], Array]:
        """Draws of the latent sites in NumPyro's unconstrained space, and their log density.

        Args:
          key: a key.
          num_samples: S.

        Returns:
          ``{site: (S, *unconstrained shape)}`` and log q there, shape ``(S,)``, nats.
        """
        z, log_q = _sample(key, self.q, num_samples)
        return self.target.layout.unravel(z), log_q

    def resample(self, key: Array, num_samples: int = 1000) -> Draws:
        """Importance-corrected draws: fresh draws, resampled by their Pareto-smoothed weights.

        They correct the misfit of q as far as k-hat is below 0.7; above, they are better than
        plain draws but not to be trusted. With replacement, from four times as many draws.

        Args:
          key: a key.
          num_samples: S.

        Returns:
          ``{site: (S, *shape)}``.
        """
        found = diagnose(key, self.q, self.target, max(4 * num_samples, len(self.diagnostics.log_p)))
        weights = np.exp(found.psis.log_weights)
        generator = host_generator(key, 3)
        chosen = generator.choice(len(weights), num_samples, p=weights / weights.sum())
        return self._constrained(found.draws[chosen])

    def log_prob(self, values: dict[str, Array]) -> Float[Array, ""]:
        """Log density of q at one point given by constrained values of all latent sites.

        Args:
          values: ``{site: value}``.

        Returns:
          Shape ``()``, nats, with respect to the constrained values (for a simplex, ordered
          vector or other constrained site, in the coordinates of NumPyro's transform).

        Raises:
          TargetError: if a site is unknown or missing.
        """
        return _log_prob(self.q, self.target, values)

    def predictive(
        self, key: Array, *args: Any, num_samples: int = 1000, **kwargs: Any
    ) -> dict[str, Array]:
        """Draws of the model's other sites given posterior draws: NumPyro's ``Predictive``.

        Args:
          key: a key.
          *args: arguments of the model, with ``None`` for the observations to be predicted.
          num_samples: S.
          **kwargs: keyword arguments of the same.

        Returns:
          ``{site: (S, *shape)}``.

        Raises:
          TypeError: if the target is not a NumPyro model.
        """
        from numpyro.infer import Predictive

        model = getattr(self.target.structure, "model", None)
        if model is None:
            raise TypeError(
                "Posterior.predictive: expected a NumPyro model; the target is a plain log "
                "density, which cannot generate data. Map your own function over sample()."
            )
        draw_key, predict_key = jax.random.split(key)
        latent = set(self.target.layout.names)
        draws = {k: v for k, v in self.sample(draw_key, num_samples).items() if k in latent}
        return Predictive(model, draws)(predict_key, *args, **kwargs)

    def _constrained(self, z: Array | np.ndarray) -> Draws:
        return jax.tree.map(np.asarray, _constrain(self.target, z))

    # ---- for people ------------------------------------------------------------------------

    def summary(self, *, num_samples: int = 4000, corrected: bool = False) -> "pandas.DataFrame":
        """Mean, standard deviation and quantiles of every scalar of every site.

        Args:
          num_samples: draws to summarise; a fixed key makes the table reproducible.
          corrected: use `resample` instead of `sample`.

        Returns:
          A data frame with rows ``site[i,j]`` and columns mean, sd, 5%, 50%, 95%.
        """
        import pandas

        key = jax.random.key(0)
        draw = self.resample if corrected else self.sample
        rows = {}
        for site, values in draw(key, num_samples).items():
            for index in np.ndindex(values.shape[1:]):
                x = values[(slice(None), *index)]
                name = f"{site}[{','.join(map(str, index))}]" if index else site
                rows[name] = [x.mean(), x.std(ddof=1), *np.quantile(x, [0.05, 0.5, 0.95])]
        columns = ["mean", "sd", "5%", "50%", "95%"]
        return pandas.DataFrame.from_dict(rows, orient="index", columns=columns).round(3)

    def __repr__(self) -> str:
        """One line for each of: sites, verdict."""
        sites = ", ".join(
            f"{n}{list(s)}"
            for n, s in zip(self.target.layout.names, self.target.layout.shapes, strict=True)
        )
        return f"Posterior of {sites}\n{self.verdict}"

    def to_datatree(self, num_samples: int = 1000) -> "xarray.DataTree":
        """Draws, sample statistics and observed data as an xarray DataTree; see `vi.export`."""
        from vi.export import to_datatree

        return to_datatree(self, num_samples)

    def to_arviz(self, num_samples: int = 1000) -> "arviz.InferenceData | xarray.DataTree":
        """What the installed ArviZ takes: InferenceData before 1.0, a DataTree from 1.0 on."""
        from vi.export import to_arviz

        return to_arviz(self, num_samples)

    def plot_marginals(self, **options: Any) -> Any:
        """Marginal densities of the scalars; see `vi.plots.marginals`."""
        from vi.plots import marginals

        return marginals(self, **options)

    def plot_pairs(self, **options: Any) -> Any:
        """Scatter of pairs of scalars; see `vi.plots.pairs`."""
        from vi.plots import pairs

        return pairs(self, **options)

    def plot_elbo(self, **options: Any) -> Any:
        """The ELBO over the run; see `vi.plots.elbo`."""
        from vi.plots import elbo

        return elbo(self, **options)

    def save(self, path: str | os.PathLike) -> None:
        """Write the posterior to one file, without the model and its data; see `vi.load`."""
        from vi.saved import save

        save(self, path)

