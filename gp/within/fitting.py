"""One call from inputs and targets to a process through thousands of inducing inputs."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from gp.evidence import known_sites
from gp.fitting import full_names, number_of_steps, trained
from gp.inputs import Missing, as_inputs
from gp.model import Data, Model
from gp.natural_gradient import start_sites
from gp.parameters import unconstrained
from gp.predictive import Predictive
from gp.preparation import Prepared, prepare
from gp.within.family import Within, start
from gp.within.neighbours import Neighbours, cover, nearest, points_of
from gp.within.training import WithinRun
from vi.clock import Clock
from vi.compile import quick_jit
from vi.loop import Callback, LoopOptions, iterate
from vi.status import Status
from vi.threads import blas_threads

BLOCK = 4096  # predictions made at once


@dataclasses.dataclass(frozen=True, eq=False)
class WithinPosterior(Predictive):
    """A Gaussian process through thousands of inducing inputs, each datum seeing the nearest few.

    Attributes:
      family: hyperparameters and q(u).
      num_neighbors: H.
      status: how training ended.
      history: ``{"step", "elbo"}``, the ELBO's estimate of each chunk of 50 steps, nats.
      cost: ``{"steps", "seconds", "compile_seconds"}``.
    """

    family: Within
    num_neighbors: int
    status: Status
    history: dict[str, np.ndarray]
    cost: dict[str, float]

    @property
    def model(self) -> Model:
        """Kernel, mean and likelihood with their hyperparameters."""
        return self.family.model

    def predict(self, x_new: Float[Array, "M D"]) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances of the latent function, ``(M,)``.

        Args:
          x_new: M inputs.
        """
        z = self.family.z
        rows = as_inputs(x_new, "WithinPosterior.predict", z.shape[1]).astype(z.dtype)
        points, queries = (points_of(self.model.kernel, some) for some in (z, rows))
        near = nearest(points, queries, self.num_neighbors)
        parts = []
        with blas_threads(self.num_neighbors):
            for begin in range(0, len(rows), BLOCK):
                some = slice(begin, begin + BLOCK)
                found = _predict(self.family, jnp.asarray(rows[some]), near[some])
                parts.append([*map(np.asarray, found)])
        mean, variance = map(np.concatenate, zip(*parts, strict=True))
        return mean, variance

    def __repr__(self) -> str:
        """Its sizes, and how training ended."""
        size, dim = self.family.z.shape
        last = (
            f"ELBO about {self.history['elbo'][-1]:.4g} nats" if len(self.history["elbo"]) else ""
        )
        return (
            f"Gaussian process (sparse within sparse; M = {size}, H = {self.num_neighbors}, "
            f"D = {dim})\n{last}. {self.status.message}"
        )


@quick_jit
def _predict(family: Within, x: Array, near: Array) -> tuple[Array, Array]:
    return family.marginals(x, near)


def sparse_within_sparse(
    x: Float[Array, "N D"],
    y: Float[Array, " N"],
    *,
    key: Array,
    kernel: Any = None,
    likelihood: Any = None,
    mean: Any = None,
    num_inducing: int = 5000,
    inducing: Float[Array, "M D"] | None = None,
    num_neighbors: int = 32,
    width: int = 1,
    divergence: Literal["chain", "average"] = "chain",
    move: bool = False,
    batch_size: int = 256,
    num_steps: int = 2000,
    optimizer: optax.GradientTransformation | None = None,
    priors: dict[str, Any] | None = None,
    fixed: Sequence[str] = (),
    missing: Missing = "raise",
    progress: bool | None = None,
    callback: Callback | None = None,
    checkpoint: str | os.PathLike | None = None,
) -> WithinPosterior:
    r"""Fit a Gaussian process through thousands of inducing inputs at a cost that they do not set.

    A datum sees the H inducing variables that are nearest to it, as in `gp.within.Within`. The ELBO
    is maximised over hyperparameters and q(u) by an optimizer on minibatches.

    The divergence ``"chain"`` is that of q(u) from a prior in which each inducing variable depends
    on the H nearest ones before it; with ``width=1`` the objective is then a lower bound on the log
    evidence of the process that this prior and the H nearest variables of each datum define.
    ``"average"`` is :math:`E_i[KL(q(u_{I_i}) ‖ p(u_{I_i}))]`, the divergence of one block of H for
    all data, which is how the method was published: weak where M is much more than H, so that noise
    is understated. With H = M both are the bound of the sparse variational process.

    Neither predicts better everywhere. At equal CPU time (``python -m benchmarks.within``, 100,000
    data, M = 10,000) ``"average"`` had 0.077 nats a datum more on heights with next to no noise,
    ``"chain"`` 0.033 more on a draw with noise of a fifth of its variance, of which it learned
    0.202 where ``"average"`` learned 0.189. ``"chain"`` is the default since its noise and its
    ELBO mean what they say, and its steps take 0.6 of the time; take ``"average"`` where data are
    all but exact and only predictions matter.

    Args:
      x: inputs, shape ``(N, D)``, or ``(N,)``.
      y: targets.
      key: a key.
      kernel: as of `gp.fit`.
      likelihood: as of `gp.fit`, with one latent function.
      mean: as of `gp.fit`.
      num_inducing: M; inputs that cover the data evenly. All, if there are fewer.
      inducing: z, if they are given; those that coincide are merged.
      num_neighbors: H.
      width: W, entries in each row of the factor of S; 1 is a diagonal covariance.
      divergence: ``"chain"`` or ``"average"``.
      move: whether inducing inputs are trained too.
      batch_size: B.
      num_steps: how many.
      optimizer: any optax transformation; Adam from 0.01 by a cosine to zero if None.
      priors: as of `gp.fit`.
      fixed: as of `gp.fit`.
      missing: as of `gp.fit`.
      progress: as of `gp.fit`.
      callback: as of `gp.fit`.
      checkpoint: as of `gp.fit`.

    Returns:
      The posterior.

    Raises:
      ValueError: for data or options that cannot be.

    Complexity:
      O(B H³) a step (with ``width``, O(B H² W) more), O(M (D + W)) memory.

    Example:
      >>> import gp, jax, jax.numpy as jnp
      >>> x = jnp.linspace(0.0, 20.0, 400)
      >>> found = gp.sparse_within_sparse(x, jnp.sin(x), key=jax.random.key(0), num_inducing=100,
      ...                                 num_neighbors=8, num_steps=50, batch_size=64)
      >>> found.family.z.shape, found.predict(x)[0].shape
      ((100, 1), (400,))

    References:
      Tran, Milios, Michiardi and Filippone (2021), "Sparse within sparse Gaussian processes using
      neighbor information"; Wu, Pleiss and Cunningham (2022), "Variational nearest neighbor
      Gaussian process", for the chain.
    """
    clock, owner = Clock(), "gp.sparse_within_sparse"
    prepared = prepare(x, y, kernel, likelihood, mean, missing, owner)
    _check(prepared, num_inducing, num_neighbors, width, batch_size, divergence)
    model, data = prepared.model, prepared.data
    z = _inducing(model.kernel, data, num_inducing, inducing)
    neighbours = Neighbours.of(points_of(model.kernel, z), num_neighbors)
    own = Neighbours.of(neighbours.points, width - 1).before[:, :-1]
    cell = nearest(neighbours.points, points_of(model.kernel, data.x), 1)[:, 0]
    likelihood = model.likelihood
    sites = known_sites(likelihood, data) if likelihood.conjugate else start_sites(likelihood, data)
    family = start(model, jnp.asarray(z), cell, sites, data.x, own)
    names = trained(family, [*fixed, *([] if move else ["z"])])
    schedule = optax.cosine_decay_schedule(0.01, number_of_steps(num_steps, 2000))
    run = WithinRun(
        family,
        data,
        unconstrained(family, names),
        full_names(family, priors or {}),
        key,
        optimizer or optax.adam(schedule),
        num_steps,
        num_neighbors=num_neighbors,
        batch_size=batch_size,
        average=divergence == "average",
        before=neighbours,
    )
    options = LoopOptions(progress=progress, callback=callback, checkpoint=checkpoint)
    state, stopped = iterate(run, options, total=num_steps)
    status = Status(int(state.status)) if stopped == Status.RUNNING else stopped
    return WithinPosterior(
        run.result(state),
        num_neighbors,
        status,
        {"step": state.steps, "elbo": state.elbos},
        {"steps": int(state.step), **clock.read()},
    )


def _check(
    prepared: Prepared, size: int, neighbors: int, width: int, batch: int, divergence: str
) -> None:
    owner = "gp.sparse_within_sparse"
    if prepared.model.likelihood.latents != 1:
        raise ValueError(
            f"{owner}: expected a likelihood with one latent function; got "
            f"{prepared.model.likelihood!r}. Use gp.fit with method='inducing'."
        )
    counts = {"num_inducing": size, "num_neighbors": neighbors, "width": width, "batch_size": batch}
    for name, value in counts.items():
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{owner}: expected {name} to be an integer >= 1; got {value!r}.")
    if divergence not in ("chain", "average"):
        raise ValueError(f"{owner}: expected divergence 'chain' or 'average'; got {divergence!r}.")


def _inducing(kernel: Any, data: Data, count: int, given: Any) -> np.ndarray:
    """The inducing inputs, coarse to fine."""
    if given is None:
        return cover(kernel, np.asarray(data.x), count)
    dtype = np.asarray(data.x).dtype
    z = as_inputs(given, "gp.sparse_within_sparse(inducing=...)", data.x.shape[1]).astype(dtype)
    return cover(kernel, np.unique(z, axis=0), len(z))
