"""The result of a fit: draws, densities, diagnostics and a verdict."""

import dataclasses
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array, Float

from vi import storage
from vi.errors import CheckpointError
from vi.posterior import evaluate, export, plots, saved, tables
from vi.posterior.diagnostics import Diagnostics, diagnose
from vi.posterior.drawn import Drawn, Draws, chosen
from vi.posterior.psis import psis
from vi.posterior.verdict import Verdict
from vi.provenance import data_digest
from vi.random import check_count, check_key, host_generator, host_words
from vi.status import Status
from vi.targets import StreamedTarget, Target
from vi.targets import target as make_target

if TYPE_CHECKING:
    import arviz
    import pandas
    import xarray
    from matplotlib.figure import Figure

_HISTORY = ("step", "elbo", "run")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Posterior(Drawn):
    """An approximate posterior, how good it is, and how that is known.

    Attributes:
      target: what was approximated, with its data.
      q: the family on the unconstrained vector.
      status: how the run ended.
      verdict: a grade (``good``, ``fair``, ``poor``, ``failed``) and its reasons; print it.
      diagnostics: fresh draws from q and what they say.
      history: ``{"step", "elbo", "run"}``, the ELBO as the fit saw it, chunk by chunk; each
        search and each refinement is a run.
      cost: ``{"gradients", "log_densities", "seconds", "compile_seconds"}``.
      rungs: for ``family="auto"``, what each family tried came to.
      key: the key of the fit.
      provenance: versions, key, digest of the data, options given, status and cost.
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
    provenance: dict[str, Any]

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

    # ---- draws and densities ---------------------------------------------------------------

    def sample(self, key: Array, num_samples: int = 1000) -> Draws:
        """Draws of all latent sites and of the deterministic sites, in the model's own space.

        Args:
          key: a key.
          num_samples: number S of draws.

        Returns:
          ``{site: (S, *shape)}``.
        """
        z, _ = evaluate.sample(key, self.q, num_samples)
        return self._constrained(z)

    def sample_unconstrained(self, key: Array, num_samples: int) -> tuple[dict[str, Array], Array]:
        """Draws of the latent sites in NumPyro's unconstrained space, and their log density.

        Args:
          key: a key.
          num_samples: number S of draws.

        Returns:
          ``{site: (S, *unconstrained shape)}`` and log q there, shape ``(S,)``, nats.
        """
        z, log_q = evaluate.sample(key, self.q, num_samples)
        return self.target.layout.unravel(z), log_q

    def resample(self, key: Array, num_samples: int = 1000) -> Draws:
        """Importance-corrected draws: fresh draws, resampled by their Pareto-smoothed weights.

        They correct the misfit of q as far as the verdict is not poor; if it is, they are better
        than plain draws but not to be trusted. With replacement, from four times as many draws.

        Args:
          key: a key.
          num_samples: number S of draws.

        Returns:
          ``{site: (S, *shape)}``.
        """
        check_key("Posterior.resample", key, "It comes first, then the number of draws.")
        check_count("Posterior.resample", "num_samples", num_samples)
        return self._constrained(self._resampled(key, num_samples)[0])

    def _resampled(self, key: Array, num_samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Unconstrained draws by weight, with log p and log q there."""
        size = max(4 * num_samples, len(self.diagnostics.log_p))
        found = diagnose(key, self.q, self.target, size)
        weights = np.exp(psis(found.log_p - found.log_q).log_weights)
        generator = host_generator(key, 3)
        rows = generator.choice(len(weights), num_samples, p=weights / weights.sum())
        return found.draws[rows], found.log_p[rows], found.log_q[rows]

    def predictive(
        self,
        key: Array,
        *args: Any,
        num_samples: int = 1000,
        corrected: bool = False,
        **kwargs: Any,
    ) -> dict[str, Array]:
        """Draws of the model's other sites given posterior draws: NumPyro's ``Predictive``.

        Args:
          key: a key.
          *args: arguments of the model, with ``None`` for the observations to be predicted. Those
            of the fit are not remembered: inputs are given again, or new ones.
          num_samples: number S of draws.
          corrected: use `resample` instead of `sample`.
          **kwargs: keyword arguments of the same.

        Returns:
          ``{site: (S, *shape)}``.

        Raises:
          TypeError: if the target is not a NumPyro model, or the arguments are not its own.
          ValueError: if data are given for all that could be predicted.
        """
        draw = self.resample if corrected else self.sample
        return self._predictive(draw, key, num_samples, args, kwargs)

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
        return evaluate.log_prob(self.q, self.target, values)

    # ---- for people ------------------------------------------------------------------------

    def summary(
        self, sites: list[str] | None = None, *, num_samples: int = 4000, corrected: bool = False
    ) -> "pandas.DataFrame":
        """Mean, standard deviation and quantiles of every scalar of every site.

        Args:
          sites: which sites; by default all, deterministic ones included.
          num_samples: draws to summarise; a fixed key makes the table reproducible.
          corrected: use `resample` instead of `sample`.

        Returns:
          A data frame with rows ``site[i,j]`` and columns mean, sd, 5%, 50%, 95%.
        """
        draw = self.resample if corrected else self.sample
        draws = draw(jax.random.key(0), num_samples)
        return tables.summary(chosen(draws, sites, list(draws)))

    def to_datatree(
        self, num_samples: int = 1000, *, log_likelihood: bool = False, corrected: bool = False
    ) -> "xarray.DataTree":
        """An xarray DataTree for ArviZ.

        Args:
          num_samples: S; a fixed key makes the export reproducible.
          log_likelihood: with the log density of each observation at each draw, which
            ``arviz.loo`` and ``arviz.compare`` ask for: S N numbers.
          corrected: use the draws of `resample` instead of those of `sample`.

        Returns:
          Groups ``posterior`` (one chain of S independent draws, deterministic sites included),
          ``sample_stats`` (``lp``, ``log_q`` and, unless they are corrected, ``log_weight`` of the
          draws) and, for NumPyro models, ``observed_data``, and ``log_likelihood`` if asked for.
          The verdict is among the attributes.

        Raises:
          TypeError: if ``log_likelihood`` is asked of a target without observed sites.
        """
        if corrected:
            z, log_p, log_q = self._resampled(jax.random.key(0), num_samples)
            statistics = {"lp": log_p, "log_q": log_q}
        else:
            z, log_q = evaluate.sample(jax.random.key(0), self.q, num_samples)
            log_p = evaluate.log_density(self.target, z)
            statistics = {"lp": log_p, "log_q": log_q, "log_weight": log_p - log_q}
        groups = {
            "posterior": {k: v[None] for k, v in self._constrained(z).items()},
            "sample_stats": {k: np.asarray(v)[None] for k, v in statistics.items()},
        }
        streamed = isinstance(self.target, StreamedTarget)  # its rows are not in memory
        observed = {} if streamed else self.target.structure.observed(self.target.data)
        if observed:
            groups["observed_data"] = jax.tree.map(np.asarray, observed)
        if log_likelihood:
            if not observed:
                raise TypeError(
                    "Posterior.to_datatree: expected a NumPyro model with observed sites for "
                    "log_likelihood=True, and their rows in memory; the target has none."
                )
            pointwise = evaluate.log_likelihood(self.target, z)
            groups["log_likelihood"] = {k: np.asarray(v)[None] for k, v in pointwise.items()}
        attributes = {
            "inference_library": "kullback",
            "grade": self.verdict.grade,
            "verdict": self.verdict.text,
            "khat": self.khat,
            "elbo": self.elbo,
            "elbo_sem": self.elbo_sem,
        }
        return export.datatree(groups, attributes)

    def to_arviz(
        self, num_samples: int = 1000, *, log_likelihood: bool = False, corrected: bool = False
    ) -> "arviz.InferenceData | xarray.DataTree":
        """What the installed ArviZ takes: InferenceData before 1.0, `to_datatree` from 1.0 on."""
        options = {"log_likelihood": log_likelihood, "corrected": corrected}
        tree = self.to_datatree(num_samples, **options)
        return export.for_arviz(tree)

    def plot_elbo(self, axis: Any = None) -> "Figure":
        """The ELBO as the run saw it, on ``axis`` or a new one; returns the matplotlib figure."""
        return plots.trace(self.history, self.elbo, axis)

    # ---- on disk ---------------------------------------------------------------------------

    def save(self, path: str | os.PathLike) -> None:
        """Write the posterior, without the model and its data, to one file; see `load`.

        Args:
          path: where to; a file there is kept as ``NAME.previous``.

        Raises:
          TypeError: if the family is not one of this library.
        """
        found, layout = self.diagnostics, self.target.layout
        q = self.q.detached() if hasattr(self.q, "detached") else self.q
        arrays = [
            q,
            [found.draws, found.log_p, found.log_q],
            [self.history[name] for name in _HISTORY],
        ]
        meta = {
            "kind": "posterior",
            "family": saved.describe_structure(q),
            "sites": [list(layout.names), [list(shape) for shape in layout.shapes]],
            "data": data_digest(self.target),
            "status": self.status.name,
            "verdict": list(self.verdict),
            "diagnostics": dict(zip(found._fields[3:], found[3:], strict=True)),
            "cost": self.cost,
            "rungs": list(self.rungs),
            "key": host_words(self.key),
            "provenance": self.provenance,
        }
        storage.save(path, arrays, meta)

    @classmethod
    def load(
        cls, path: str | os.PathLike, model: Callable | Target, *args: Any, **kwargs: Any
    ) -> "Posterior":
        """Read a posterior that `save` wrote. No code in the file is executed.

        Args:
          path: the file.
          model: the model or log density, or a `Target`; it is not in the file.
          *args: arguments of the model: the data, which are not in the file either.
          **kwargs: keyword arguments of the model.

        Returns:
          The posterior.

        Raises:
          CheckpointError: if the file is not whole or not a posterior, or if the model's sites or
            data are not those it was fitted to.
        """
        leaves, meta = storage.load(path)
        target = make_target(model, *args, **kwargs)
        layout = target.layout
        found = {
            "kind": "posterior",
            "sites": [list(layout.names), [list(shape) for shape in layout.shapes]],
            "data": data_digest(target),
        }
        for name, value in found.items():
            if meta.get(name) != value:
                raise CheckpointError(
                    f"{path}: expected {name} {value!r}; the file has {meta.get(name)!r}. Give the "
                    "model and data that the posterior was fitted to."
                )
        q = saved.rebuild(meta["family"], leaves)
        q = q.attached(target) if hasattr(q, "attached") else q
        draws, log_p, log_q, *history = map(np.asarray, leaves)
        saved.check_density(path, target, draws, log_p)
        words = np.asarray(meta["key"], np.uint32)
        return cls(
            target=target,
            q=q,
            status=Status[meta["status"]],
            verdict=Verdict(*meta["verdict"]),
            diagnostics=Diagnostics(draws, log_p, log_q, **meta["diagnostics"]),
            history=dict(zip(_HISTORY, history, strict=True)),
            cost=meta["cost"],
            rungs=tuple(meta["rungs"]),
            key=words,
            provenance=meta["provenance"],
        )
