"""The result of `gp.fit`: predictions, draws, and how far to trust them."""

import dataclasses
import operator
import os
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gp import plots
from gp.checking import Checks
from gp.inputs import as_inputs
from gp.local import local_kriging
from gp.model import Data, Model
from gp.parameters import digest, parameters
from gp.paths import Paths, draw_paths
from gp.prior import Conditional
from gp.sites import Sites
from vi import storage
from vi.compile import quick_jit
from vi.posterior.verdict import Verdict
from vi.random import host_words
from vi.status import Status
from vi.threads import blas_threads

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

BLOCK = 1024  # predictions made at once


class Prediction(NamedTuple):
    """Means and variances (or a covariance) at new inputs, one row each."""

    mean: np.ndarray
    variance: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Posterior:
    """A Gaussian process given data, how good the approximation is, and how that is known.

    Attributes:
      model: kernel, mean and likelihood with their hyperparameters.
      prior: the back-end.
      data: distinct inputs and targets.
      sites: what the targets say of the latent values.
      q: the law of the latent values at the distinct inputs.
      elbo: evidence lower bound, nats; the log evidence where the likelihood is Gaussian.
      status: how training ended.
      verdict: a grade (``good``, ``fair``, ``poor``, ``failed``) and its reasons; print it.
      checks: k-hat, and leave-one-out densities.
      history: ``{"step", "elbo"}`` of training, with log priors in the ELBO.
      cost: ``{"steps", "seconds", "compile_seconds"}``.
      key: the key of the fit.
      provenance: versions, key, digest of the data, method, options, status and cost.
    """

    model: Model
    prior: Any
    data: Data
    sites: Sites
    q: Conditional
    elbo: float
    status: Status
    verdict: Verdict
    checks: Checks
    history: dict[str, np.ndarray]
    cost: dict[str, float]
    key: Array
    provenance: dict[str, Any]

    # ---- predictions -----------------------------------------------------------------------

    def predict(
        self,
        x_new: Float[Array, "M D"],
        *,
        method: Literal["posterior", "local"] = "posterior",
        num_neighbors: int = 50,
        full_cov: bool = False,
    ) -> Prediction:
        """The latent function at new inputs, without the noise of new data.

        At an input of the data it is the posterior there, `q`, up to the jitter.

        Args:
          x_new: M inputs.
          method: ``"posterior"``, or ``"local"``: kriging on the nearest data alone
            (`gp.local.local_kriging`), for Gaussian likelihoods.
          num_neighbors: for ``"local"``.
          full_cov: the covariance of all M values instead of variances.

        Returns:
          Means ``(M,)``, and variances ``(M,)`` or the covariance ``(M, M)``. With L latent
          functions ``(M, L)`` and ``(L, M, M)``.

        Raises:
          ValueError: for inputs of another shape or not finite, or ``"local"`` where it cannot be.
        """
        rows = as_inputs(x_new, "Posterior.predict", self.data.x.shape[1])
        rows = rows.astype(self.data.x.dtype)
        if method == "local":
            return self._local(rows, num_neighbors, full_cov=full_cov)
        if method != "posterior":
            raise ValueError(
                f"Posterior.predict: expected method 'posterior' or 'local'; got {method!r}."
            )
        if full_cov:
            found = self.prior.predict(self.q, jnp.asarray(rows), full_cov=True)
            return Prediction(*map(np.asarray, found))
        parts = []
        with blas_threads(len(self.data.x)):
            block = getattr(self.prior, "block", BLOCK)
            for start in range(0, len(rows), block):
                some = rows[start : start + block]
                size = min(BLOCK, 1 << (len(some) - 1).bit_length())
                size = max(size, len(some))
                filled = np.concatenate([some, np.repeat(some[-1:], size - len(some), 0)])
                found = self.prior.predict(self.q, jnp.asarray(filled))
                parts.append([np.asarray(part)[: len(some)] for part in found])
        return Prediction(*map(np.concatenate, zip(*parts, strict=True)))

    def _local(self, x_new: np.ndarray, count: int, *, full_cov: bool) -> Prediction:
        likelihood = self.model.likelihood
        if operator.index(count) < 1:
            raise ValueError(
                f"Posterior.predict: expected num_neighbors >= 1 for method='local'; got {count}."
            )
        if not likelihood.conjugate or full_cov:
            raise ValueError(
                "Posterior.predict: expected a Gaussian likelihood and full_cov=False for "
                f"method='local'; got {type(likelihood).__name__}, full_cov={full_cov}. "
                "Leave out method."
            )
        found = local_kriging(
            self.model.kernel, self.model.mean, self.data.x, self.sites, x_new, count
        )
        return Prediction(*found)

    def predict_y(self, x_new: Float[Array, "M D"], **options: Any) -> Prediction:
        """Mean and variance of new data: with classes, of their indicators, ``(M, C)``.

        Args:
          x_new: M inputs.
          **options: ``method`` and ``num_neighbors`` of `predict`.

        Returns:
          The prediction.
        """
        latent = self.predict(x_new, **options)
        found = _predict_y(self.model.likelihood, *map(jnp.asarray, latent))
        return Prediction(*map(np.asarray, found))

    def log_predictive_density(
        self, x_new: Float[Array, "M D"], y_new: Float[Array, " M"], **options: Any
    ) -> np.ndarray:
        """Log density of each new datum, log E[p(y | f)], nats, shape ``(M,)``.

        Args:
          x_new: M inputs.
          y_new: their targets.
          **options: ``method`` and ``num_neighbors`` of `predict`.

        Returns:
          The log densities; minus their average is what is called NLPD.

        Raises:
          ValueError: as `predict`, or for targets outside the likelihood's support.
        """
        latent = self.predict(x_new, **options)
        targets = np.asarray(y_new).astype(self.data.y.dtype)
        if targets.shape != latent.mean.shape[:1]:
            raise ValueError(
                f"Posterior.log_predictive_density: expected targets of shape "
                f"{latent.mean.shape[:1]}; got {targets.shape}."
            )
        self.model.likelihood.check(targets)
        args = map(jnp.asarray, (*latent, targets))
        return np.asarray(_log_predictive(self.model.likelihood, *args))

    def sample(self, key: Array, x_new: Float[Array, "M D"], num_samples: int = 1) -> np.ndarray:
        """Joint draws of the latent function, shape ``(S, M)``, or ``(S, M, L)``.

        Args:
          key: a key.
          x_new: M inputs.
          num_samples: S.

        Returns:
          The draws.
        """
        rows = as_inputs(x_new, "Posterior.sample", self.data.x.shape[1])
        points = jnp.asarray(rows.astype(self.data.x.dtype))
        return np.asarray(self.prior.sample(key, self.q, points, num_samples))

    def sample_paths(self, key: Array, num_paths: int = 1, *, num_features: int = 1024) -> Paths:
        """Draws of the latent function as functions, to be called and differentiated anywhere.

        For kernels made of stationary ones. Their means and covariances over draws are the
        posterior's (with sparse inverse Cholesky factors, near those of ``predict``); single draws
        are normal in the limit of many features.

        Args:
          key: a key.
          num_paths: S.
          num_features: frequencies of each draw.

        Returns:
          The draws; ``paths(x)`` has shape ``(S, M)``, or ``(S, M, L)``.

        Raises:
          ValueError: for a kernel that is not made of stationary ones.

        Complexity:
          One solve with the posterior's factor for each draw; then O(R + N) a draw and point, or
          O(R + M) with M inducing inputs.
        """
        return draw_paths(key, self.prior, self.q, self.sites, num_paths, num_features)

    def leave_one_out(self) -> np.ndarray:
        """Log predictive density of each target given all others, nats; see `checks`."""
        return self.checks.loo

    # ---- for people ------------------------------------------------------------------------

    def __repr__(self) -> str:
        """The kind of model, and the verdict."""
        kinds = (type(part).__name__ for part in (self.model.kernel, self.model.likelihood))
        n, d = self.data.x.shape
        return f"Gaussian process ({', '.join(kinds)}; N = {n}, D = {d})\n{self.verdict}"

    def summary(self) -> "pandas.DataFrame":
        """The hyperparameters: a data frame of one row for each number."""
        import pandas

        rows = {}
        for name, value in parameters(self.model).items():
            for place, number in np.ndenumerate(np.asarray(value)):
                label = f"{name}[{','.join(map(str, place))}]" if place else name
                rows[label] = float(number)
        return pandas.DataFrame({"value": rows})

    def plot(self, *, points: int = 200) -> "Figure":
        """The function, over one or two coordinates; returns the matplotlib figure.

        Over one, mean and two standard deviations of the function and of new data; over two, maps
        of the mean of new data and of the function's standard deviation.

        Args:
          points: of the grid, along each coordinate.

        Raises:
          ValueError: if there are more than two coordinates, or several latents or classes.
        """
        x = np.asarray(self.data.x)
        if x.shape[1] > 2 or self.model.likelihood.latents > 2:
            raise ValueError(
                f"Posterior.plot: expected one or two coordinates and no classes; got "
                f"D = {x.shape[1]}, {self.model.likelihood.latents} latent functions. Plot "
                "predict() along what matters."
            )
        ends = zip(x.min(0), x.max(0), strict=True)
        axes = [np.linspace(low, high, points) for low, high in ends]
        if x.shape[1] == 1:
            new = self.predict_y(axes[0])
            bands = [(new.mean, np.sqrt(new.variance))]
            if self.model.likelihood.conjugate:
                latent = self.predict(axes[0])
                bands.append((latent.mean, np.sqrt(latent.variance)))
            where = x[np.asarray(self.data.index), 0]
            return plots.curve(where, np.asarray(self.data.y), axes[0], bands, "y")
        grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
        latent, mean = self.predict(grid), self.predict_y(grid).mean
        spread = np.sqrt(latent.variance.reshape(len(grid), -1)[:, 0])
        shape = (points, points)
        return plots.maps(x, (axes[0], axes[1]), mean.reshape(shape), spread.reshape(shape), "mean")

    # ---- on disk ---------------------------------------------------------------------------

    def save(self, path: str | os.PathLike) -> None:
        """Write hyperparameters and sites, without the data, to one file; `gp.load` reads it.

        Args:
          path: where to; a file there is kept as ``NAME.previous``.
        """
        arrays = [self.model, self.sites, [self.history["step"], self.history["elbo"]]]
        loo, checks = self.checks.loo, self.checks._asdict()
        kept = self.prior.kept() if hasattr(self.prior, "kept") else []
        meta = {
            "kind": "gaussian process",
            "model": digest(self.model),
            "status": self.status.name,
            "verdict": list(self.verdict),
            "checks": {name: value for name, value in checks.items() if name != "loo"},
            "elbo": self.elbo,
            "cost": self.cost,
            "key": host_words(self.key),
            "provenance": self.provenance,
            "kept": len(kept),
        }
        storage.save(path, [*kept, *arrays, loo], meta)


@quick_jit
def _predict_y(likelihood: Any, mean: Array, variance: Array) -> tuple[Array, Array]:
    return likelihood.predict(mean, variance)


@quick_jit
def _log_predictive(likelihood: Any, mean: Array, variance: Array, y: Array) -> Array:
    return likelihood.log_predictive(mean, variance, y)
