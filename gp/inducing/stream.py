"""Streams: data in batches, each seen once, remembered as sums and by a few of its points."""

import dataclasses
import operator
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from gp.evidence import exact_sites
from gp.inducing.algebra import Whitened, basis, features
from gp.inducing.choice import greedy_inputs
from gp.inducing.coordinates import Natural
from gp.inducing.interdomain import Features
from gp.inducing.relearning import functions, relearned
from gp.inducing.streamed import StreamedPrior, dual_sums, each
from gp.inputs import as_inputs, as_targets
from gp.model import Data, Model
from gp.natural_gradient import ascend, start_sites
from gp.parameters import parameters
from gp.predictive import Predictive
from gp.sites import Sites
from vi import storage
from vi.compile import quick_jit
from vi.module import module
from vi.random import fast_key


class Memory(NamedTuple):
    """Data that are kept, with the sites that they have now.

    Attributes:
      x: inputs.
      y: targets.
      sites: of the data, one for each.
    """

    x: Float[Array, "K D"]
    y: Float[Array, " K"]
    sites: Sites


@module
class Stream(Predictive):
    r"""A sparse Gaussian process of all data that came by, at the cost of the last batch.

    .. math:: q(u) \propto p(u)\; e^{\barλ^T w - w^T \barΛ w / 2}
              \prod_{i \in \mathrm{memory}} t_i(e_i), \qquad w = K_{zz}^{-1} u

    Of the data that are forgotten there are the sums :math:`\barλ = \sum_i k_{zi} λ_{1i}` and
    :math:`\barΛ = \sum_i λ_{2i} k_{zi} k_{iz}`; those in memory have their sites for themselves,
    which are found anew with each batch. For a Gaussian likelihood nothing is lost: with the same
    inducing inputs it is the sparse posterior of all data. For others what is forgotten stays as
    it was understood when it went, and memory holds the rest up to date. What is kept is drawn in
    proportion to its leverage :math:`λ_{2i} v_i`, from the old and the new by their numbers.

    Made by `stream`.

    Attributes:
      model: hyperparameters.
      z: inducing inputs.
      base: the sums over forgotten data, for each latent function on a first axis.
      memory: data that are kept.
      count: targets seen.
      tril: the factor L of the inducing covariance, for each latent function.
      q: of whitened inducing variables, for each latent function.

    Complexity:
      O((B + K) M² + M³) a batch of B, for a memory of K; O(M² + K) memory.

    Reference: Chang, Verma, John, Solin and Khan (2023), "Memory-based dual Gaussian processes for
    sequential learning", equations 11 to 17. Here memory is not part of the sums, so that nothing
    is ever subtracted from them.
    """

    model: Model
    z: Float[Array, "M D"]
    base: Natural
    memory: Memory
    count: int
    tril: Float[Array, "L M M"]
    q: Whitened

    def update(
        self,
        x: Float[Array, "B D"],
        y: Float[Array, " B"],
        *,
        key: Array,
        num_memory: int = 100,
        move: bool = False,
        num_steps: int = 0,
    ) -> "Stream":
        """The process after one more batch.

        Args:
          x: inputs.
          y: their targets.
          key: a key, for what is kept.
          num_memory: K, how many data to keep; 0 for none.
          move: choose inducing inputs anew, by `greedy_inputs` among the present ones and the
            batch's, and project what is known onto them. What the new ones do not span is lost.
          num_steps: steps in hyperparameters, for which memory stands for all data before
            (`gp.inducing.relearning.relearned`); needs a memory. Sums over what is forgotten are
            as the old ones had it, so that a Gaussian stream is then no longer exact.

        Returns:
          The new stream; this one stays as it is.

        Raises:
          ValueError: for inputs or targets that cannot be, a class that the likelihood does not
            have among them; for inducing inputs so close that rounding spoils the sums.
          TypeError: for a number of steps that is none.
        """
        owner, likelihood = "Stream.update", self.model.likelihood
        rows = as_inputs(x, owner, self.z.shape[1]).astype(self.z.dtype)
        rows, targets = _suiting(likelihood, rows, y, owner)
        if num_memory < 0 or operator.index(num_steps) < 0:
            raise ValueError(
                f"{owner}: expected num_memory >= 0 and num_steps >= 0; got {num_memory}, "
                f"{num_steps}."
            )
        if num_steps and not len(self.memory.y):
            raise ValueError(
                f"{owner}: expected a memory, to learn hyperparameters from; there is none. Begin "
                "the stream with num_memory, or leave out num_steps."
            )
        same = _moved(self, rows) if move else self
        new = _data(rows, targets)
        begin = exact_sites if likelihood.conjugate else start_sites
        sites = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b]), self.memory.sites, begin(likelihood, new)
        )
        data = _data(
            jnp.concatenate([self.memory.x, new.x]), jnp.concatenate([self.memory.y, new.y])
        )
        prior = StreamedPrior(*functions(self.model), data.x, same.z, same.base)
        sites, leverage = _look(prior, likelihood, data, sites)
        if num_steps:
            old = self.count / len(self.memory.y)
            weights = jnp.where(jnp.arange(len(data.y)) < len(self.memory.y), old, 1.0)
            weights = weights.astype(data.y.dtype)
            model = relearned(self.model, prior, data, sites, weights, num_steps)
            same, likelihood = dataclasses.replace(same, model=model), model.likelihood
            if likelihood.conjugate:
                sites = exact_sites(likelihood, data)
            prior = StreamedPrior(*functions(model), data.x, same.z, same.base)
            sites, leverage = _look(prior, likelihood, data, sites)
        kept = _kept(key, np.asarray(leverage), len(self.memory.y), self.count, num_memory)
        return _remembered(same, data, sites, kept, self.count + len(new.y))

    def save(self, path: str | os.PathLike) -> None:
        """Write the stream to one file; `gp.load_stream` reads it.

        Args:
          path: where to; a file there is kept as ``NAME.previous``.
        """
        meta = {
            "kind": "stream",
            "likelihood": type(self.model.likelihood).__name__,
            "hyperparameters": list(parameters(self.model)),
        }
        storage.save(path, self, meta)

    def predict(self, x_new: Float[Array, "M D"]) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances of the latent function, ``(M,)`` or ``(M, L)``.

        Args:
          x_new: M inputs.
        """
        rows = as_inputs(x_new, "Stream.predict", self.z.shape[1]).astype(self.z.dtype)
        mean, variance = _predict(self, jnp.asarray(rows))
        return np.asarray(mean), np.asarray(variance)


def stream(posterior: Any, *, key: Array, num_memory: int = 100) -> Stream:
    """Begin a stream from the posterior of its first batch.

    Args:
      posterior: of `gp.fit` with ``method="inducing"``; its hyperparameters and inducing inputs.
      key: a key, for what is kept.
      num_memory: how many data to keep.

    Returns:
      The stream.

    Raises:
      ValueError: if the posterior is not through inducing inputs, or these are so close to one
        another that rounding spoils the sums over data.

    Example:
      >>> import gp, jax, jax.numpy as jnp
      >>> x = jnp.linspace(0.0, 6.0, 60)
      >>> first = gp.fit(x[:30], jnp.sin(x[:30]), key=jax.random.key(0), method="inducing",
      ...                method_options={"inducing": x[::5]}, train=False)
      >>> flow = gp.stream(first, key=jax.random.key(1))
      >>> flow = flow.update(x[30:], jnp.sin(x[30:]), key=jax.random.key(2))
      >>> flow.count, flow.predict(x)[0].shape
      (60, (60,))
    """
    prior = getattr(posterior.prior, "prior", posterior.prior)
    if isinstance(getattr(prior, "z", None), Features):
        raise ValueError(
            "gp.stream: expected a posterior through inducing inputs; got "
            f"{type(prior.z).__name__}. Fit the first batch with inducing inputs."
        )
    if not hasattr(prior, "z"):
        raise ValueError(
            "gp.stream: expected a posterior through inducing inputs; got the method "
            f"{posterior.provenance['method']!r}. Fit the first batch with method='inducing'."
        )
    model, old = posterior.model, posterior.data
    latents, size = model.likelihood.latents, len(prior.z)
    nothing = Natural(
        jnp.zeros((latents, size), prior.z.dtype), jnp.zeros((latents, size, size), prior.z.dtype)
    )
    none = jax.tree.map(lambda a: a[:0], Memory(old.x, old.y, posterior.sites))
    tril = jnp.zeros_like(nothing.precision)
    empty = Stream(
        model, prior.z, nothing, none, 0, tril, Whitened(nothing.linear, nothing.precision)
    )
    return empty.update(old.x[old.index], old.y, key=key, num_memory=num_memory)


def _suiting(likelihood: Any, x: np.ndarray, y: Any, owner: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, if the targets are of the stream's likelihood."""
    try:
        return as_targets(x, y, likelihood, "raise", owner)[:2]
    except ValueError as error:
        raise ValueError(
            f"{error} The likelihood of this stream is {likelihood!r}, with the classes it had at "
            "its beginning: fit a first batch with another one, and begin another stream."
        ) from error


def _data(x: Any, y: Any) -> Data:
    """Data of which each target has a row of its own."""
    return Data(jnp.asarray(x), jnp.asarray(y), jnp.arange(len(y), dtype=np.int32))


@quick_jit
def _look(prior: StreamedPrior, likelihood: Any, data: Data, sites: Sites) -> tuple[Sites, Array]:
    """The best sites of memory and batch, and the leverage of each datum."""
    if not likelihood.conjugate:
        sites = ascend(prior, likelihood, data, sites).sites
    found = prior.condition(sites)
    leverage = sites.precision * found.variance
    return sites, jnp.sum(leverage.reshape(len(data.y), -1), 1)


def _kept(key: Array, leverage: np.ndarray, old: int, seen: int, wanted: int) -> np.ndarray:
    """Rows to keep: without replacement by leverage, of old and new as many as there were."""
    wanted, new = min(wanted, len(leverage)), len(leverage) - old
    of_old = min(old, round(wanted * seen / (seen + new)))
    of_old = max(of_old, wanted - new)
    noise = np.asarray(jax.random.gumbel(fast_key(key), leverage.shape), float)
    order = np.argsort(-(np.log(np.maximum(leverage, 1e-300)) + noise), kind="stable")
    return np.concatenate([order[order < old][:of_old], order[order >= old][: wanted - of_old]])


def _remembered(before: Stream, data: Data, sites: Sites, kept: np.ndarray, count: int) -> Stream:
    """The stream with these rows in memory and the others in the sums."""
    rest = np.setdiff1d(np.arange(len(data.y)), kept)
    pick = lambda rows: jax.tree.map(lambda a: a[rows], Memory(data.x, data.y, sites))
    both, gone = functions(before.model), pick(rest)
    base = _with(both, before.z, before.base, gone.x, gone.sites)
    memory = pick(kept)
    prior = StreamedPrior(*both, memory.x, before.z, base)
    tril, q = law_of(prior, memory.sites)
    if not all(np.all(np.isfinite(a)) for a in jax.tree.leaves(q)):
        raise ValueError(
            f"gp.Stream: expected sums over data that rounding leaves as they are; with these "
            f"{len(before.z)} inducing inputs, too close to one another for the length scale, it "
            "does not. Take fewer inducing inputs, farther apart"
            + (", or 64-bit floats." if before.z.dtype == jnp.float32 else ".")
        )
    return dataclasses.replace(before, base=base, memory=memory, count=count, tril=tril, q=q)


@quick_jit
def _with(functions: tuple, z: Array, base: Natural, x: Array, sites: Sites) -> Natural:
    """The sums with some data added."""
    return jax.tree.map(jnp.add, base, dual_sums(functions, z, x, sites))


@quick_jit
def law_of(prior: StreamedPrior, sites: Sites) -> tuple[Array, Whitened]:
    """The factor of the inducing variables' covariance, and their law given sums and sites."""
    return prior.condition(sites).factor


def _moved(old: Stream, x: np.ndarray) -> Stream:
    """The stream with inducing inputs chosen anew, and its sums projected onto them."""
    kernel = functions(old.model)[0]
    first = jax.tree.map(lambda a: a[0], kernel)
    z = greedy_inputs(first, jnp.concatenate([old.z, jnp.asarray(x)]), len(old.z))
    z = jnp.asarray(z, old.z.dtype)
    return dataclasses.replace(old, z=z, base=_project(kernel, old, z))


@quick_jit
def _project(kernel: Any, old: Stream, z: Array) -> Natural:
    def one(kernel: Any, base: Natural) -> Natural:
        from_old = project(kernel, old.z, z)
        return Natural(from_old.T @ base.linear, from_old.T @ base.precision @ from_old)

    return each(one, len(old.base.linear))(kernel, old.base)


def project(kernel: Any, old: Float[Array, "M D"], new: Float[Array, "K D"]) -> Array:
    """K_oo⁻¹ K_on, by which sums over data go from one set of inducing inputs to another."""
    tril, _ = basis(kernel, old)
    half = features(kernel, old, tril, new)
    return solve_triangular(tril, half, lower=True, trans=1)


@quick_jit
def _predict(flow: Stream, x_new: Array) -> tuple[Array, Array]:
    def one(kernel: Any, mean: Any, tril: Array, q: Whitened) -> tuple[Array, Array]:
        a = features(kernel, flow.z, tril, x_new)
        moved, variance = q.marginals(a, kernel.diagonal(x_new))
        return mean(x_new) + moved, variance

    latents = len(flow.tril)
    found = each(one, latents)(*functions(flow.model), flow.tril, flow.q)
    mean, variance = (a[0] if latents == 1 else a.T for a in found)
    return mean, variance
