"""The state-space back-end: the exact prior over points of time, conditioned in linear time."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gp.means import Zero
from gp.prior import Conditional
from gp.sites import Sites, misfits
from gp.state_space.blocks import Chain, Future, Law, seen, times
from gp.state_space.evidence import between, log_normalizer, smooth
from gp.state_space.paths import draw_path
from gp.state_space.process import process
from vi.compile import quick_jit
from vi.module import module
from vi.random import fast_key

_COLUMNS = 256  # of a covariance that are found at once


class StateSpaceFactor(NamedTuple):
    """What predictions are made from: by time, with one more at the start and one at the end."""

    law: Law  # of the state after each datum; before all, the stationary one
    future: Future  # of the state before each datum; after all, nothing
    sites: Sites  # by time


@module
class StateSpacePrior:
    r"""The Gaussian process itself over N points of one coordinate, as a Markov process.

    .. math:: z_t = Φ_t z_{t-1} + N(0, Q_t), \qquad f_t = h^T z_t

    A Kalman filter and smoother over the points in their order give all that dense matrices would,
    to rounding: posterior, evidence and its derivatives, predictions between, before and after the
    data, joint draws. For any likelihood, since sites are Gaussian. Kernels are those that
    `gp.state_space.process` knows. Time is cut into about :math:`\sqrt N` blocks that are filtered
    side by side, so that a computer that does many numbers at once has them; the compiled program
    does not grow with N.

    Attributes:
      kernel: k.
      mean: μ(x).
      x: inputs, shape ``(N, 1)``.
      order: the inputs by time.
      position: the place of each input in that order.

    Complexity:
      O(N s³) time and O(N s²) memory for a state of s numbers: ν + ½ for a Matérn kernel, those of
      the terms together for a sum, their product for a product.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> from gp.state_space import StateSpacePrior
      >>> prior = StateSpacePrior.of(gp.Matern(), gp.Zero(), jnp.linspace(0.0, 9.0, 500)[:, None])
      >>> q = prior.condition(gp.Sites(jnp.ones(500), jnp.ones(500)))
      >>> q.mean.shape, bool(q.kl > 0)
      ((500,), True)

    Reference: Hartikainen and Särkkä (2010), "Kalman filtering and smoothing solutions to temporal
    Gaussian process regression models"; for other likelihoods Chang, Wilkinson, Khan and Solin
    (2020), "Fast variational learning in state-space Gaussian process models".
    """

    kernel: Any
    mean: Any
    x: Float[Array, "N 1"]
    order: Int[Array, " N"]
    position: Int[Array, " N"]

    exact = True
    block = 2**16  # new points that are best predicted at once

    @classmethod
    def of(cls, kernel: Any, mean: Any, x: Float[Array, "N 1"]) -> "StateSpacePrior":
        """Make the prior; the order is found on the host.

        Args:
          kernel: the kernel.
          mean: the mean function.
          x: inputs, shape ``(N, 1)``.

        Returns:
          The prior.

        Raises:
          ValueError: if inputs are of more than one coordinate, or the kernel is no Markov process.
        """
        points = np.asarray(x)
        if points.ndim != 2 or points.shape[1] != 1:
            raise ValueError(
                f"StateSpacePrior: expected inputs of one coordinate, shape (N, 1); got "
                f"{points.shape}. Use another method for more."
            )
        order = np.argsort(points[:, 0], kind="stable").astype(np.int32)
        arrays = map(jnp.asarray, (points, order, np.argsort(order).astype(np.int32)))
        prior = cls(kernel, mean, *arrays)
        _size(prior)  # raises if there is no such process
        return prior

    def _by_time(self, sites: Sites) -> Sites:
        """Sites of the function less its mean, in the order of time."""
        linear = sites.linear - sites.precision * self.mean(self.x)
        return Sites(linear[self.order], sites.precision[self.order])

    def condition(self, sites: Sites) -> Conditional:
        """q(f) at the data; see `gp.prior.Prior`."""
        own = self._by_time(sites)
        chain, stationary, observed = _chain(self.kernel, self.x[self.order, 0], own)
        found = smooth(chain, stationary, observed)
        count = len(own.linear)
        mean, variance = (_unblocked(a, count) for a in (found.mean, found.variance))
        off = mean - own.centre
        kl = -0.5 * jnp.sum(own.precision * (off**2 + variance)) - found.log_normalizer
        law = Law(jnp.zeros_like(stationary[:1]), stationary[None])
        laws = [_unblocked(a, count) for a in found.after]
        futures = [_unblocked(a, count) for a in found.future]
        factor = StateSpaceFactor(
            Law(*(jnp.concatenate(both) for both in zip(law, laws, strict=True))),
            Future(*(jnp.concatenate([a, jnp.zeros_like(a[:1])]) for a in futures)),
            own,
        )
        return Conditional(
            mean=mean[self.position] + self.mean(self.x),
            variance=variance[self.position],
            kl=kl,
            log_normalizer=found.log_normalizer,
            jitter=jnp.zeros_like(kl),
            factor=factor,
        )

    def log_normalizer(self, sites: Sites) -> Float[Array, ""]:
        """The pseudo-evidence, its derivatives by a closed form; see `gp.prior.Prior`."""
        chain, stationary, observed = _chain(
            self.kernel, self.x[self.order, 0], self._by_time(sites)
        )
        return log_normalizer(chain, stationary, observed)

    def predict(
        self, conditional: Conditional, x_new: Float[Array, "M 1"], *, full_cov: bool = False
    ) -> tuple[Array, Array]:
        """Means and variances of the function, O(M log N); with its covariance O(N M + M²)."""
        mean, variance = _predict(self, conditional.factor, x_new)
        if not full_cov:
            return mean, variance
        parts = [
            _covariance(self, conditional.factor, x_new, x_new[start : start + _COLUMNS])
            for start in range(0, len(x_new), _COLUMNS)
        ]
        full = jnp.concatenate(parts, 1)
        return mean, 0.5 * (full + full.T)

    def sample(
        self, key: Array, conditional: Conditional, x_new: Float[Array, "M 1"], num_samples: int
    ) -> Float[Array, "S M"]:
        r"""Joint draws of the function: draws of the prior moved by what data say of them.

        .. math:: f_* + K_{*x} (K + Λ^{-1})^{-1} (c - f - ε), \qquad ε \sim N(0, Λ^{-1})

        Complexity:
          O(S (N + M)) time and memory.
        """
        count = len(self.x)
        normal = jax.random.normal(
            fast_key(key), (num_samples, 2 * count + len(x_new), _size(self)), self.x.dtype
        )
        return _draw(self, conditional.factor, x_new, normal)

    def anchored(
        self, key: Array, conditional: Conditional, sites: Sites, path: Callable
    ) -> tuple[Array, Array]:
        """How data move draws of the prior; see `gp.prior.Prior`."""
        del conditional
        rest = misfits(key, sites, self.mean(self.x) + path(self.x))
        follow = lambda c: _bare(self).condition(Sites(sites.precision * c, sites.precision)).mean
        return self.x, sites.precision * (rest - jax.vmap(follow)(rest))


def _size(prior: StateSpacePrior) -> int:
    """Numbers in the state."""
    found = jax.eval_shape(process, prior.kernel, jax.ShapeDtypeStruct((1,), prior.x.dtype))
    return found.transition.shape[0]


def _blocked(a: Array) -> Array:
    """An array by time as ``(T, ..., B)``, with zeros behind it."""
    blocks = math.ceil(math.sqrt(len(a)))
    length = math.ceil(len(a) / blocks)
    filled = jnp.concatenate([a, jnp.zeros((blocks * length - len(a), *a.shape[1:]), a.dtype)])
    return filled.reshape(blocks, length, *a.shape[1:]).swapaxes(0, 1)


def _unblocked(a: Array, count: int) -> Array:
    """The inverse, with blocks on the last axis."""
    a = jnp.moveaxis(a, -1, 0)
    return a.reshape(-1, *a.shape[2:])[:count]


def _chain(kernel: Any, time: Array, sites: Sites) -> tuple[Chain, Array, tuple[int, ...]]:
    """The chain of sites by time; behind the last, steps of no length without data."""
    steps = _blocked(jnp.diff(time, prepend=time[:1]))
    found = process(kernel, steps)
    shape = (steps.shape[0], *found.transition.shape[-3:-1], steps.shape[1])
    wide = lambda a: jnp.broadcast_to(a, shape)
    chain = Chain(
        wide(found.transition),
        wide(found.noise),
        _blocked(sites.precision),
        _blocked(sites.centre),
    )
    return chain, found.stationary, found.observed


def _moments(prior: StateSpacePrior, factor: StateSpaceFactor, time: Array) -> tuple[Array, Array]:
    """Means, less the mean function, and variances of the function at points of time."""
    known = prior.x[prior.order, 0]
    place = jnp.searchsorted(known, time, side="right")
    last = jnp.take(factor.law.mean, place, axis=0)
    before = jnp.where(place > 0, time - known[jnp.maximum(place - 1, 0)], 0.0)
    after = jnp.where(place < len(known), known[jnp.minimum(place, len(known) - 1)] - time, 0.0)
    pick = lambda a: jnp.moveaxis(a[place], 0, -1)
    law = Law(last.T, pick(factor.law.covariance))
    future = Future(*map(pick, factor.future))
    to, on = process(prior.kernel, before), process(prior.kernel, after)
    predicted, ahead = between((to.transition, on.transition), to.noise, law, future)
    gain = seen(predicted.covariance, to.observed)
    mean = seen(predicted.mean, to.observed) + jnp.sum(gain * ahead.slope, 0)
    variance = seen(gain, to.observed) - jnp.sum(gain * times(ahead.bend, gain), 0)
    return mean, jnp.maximum(variance, 0.0)


@quick_jit
def _predict(prior: StateSpacePrior, factor: StateSpaceFactor, x_new: Array) -> tuple[Array, Array]:
    mean, variance = _moments(prior, factor, x_new[:, 0])
    return prior.mean(x_new) + mean, variance


def _follow(prior: StateSpacePrior, sites: Sites, centre: Array, x_new: Array) -> Array:
    """Predictions for other pseudo-observations of the same precisions; linear in them."""
    bare = _bare(prior)
    moved = Sites(sites.precision * centre, sites.precision)
    back = Sites(*(a[prior.position] for a in moved))
    return _moments(bare, bare.condition(back).factor, x_new[:, 0])[0]


def _bare(prior: StateSpacePrior) -> StateSpacePrior:
    """The prior with mean zero."""
    return dataclasses.replace(prior, mean=Zero())


@quick_jit
def _covariance(
    prior: StateSpacePrior, factor: StateSpaceFactor, x_new: Array, columns: Array
) -> Array:
    """Columns of the covariance: the kernel's, less what would be predicted if they were seen."""
    seen_there = prior.kernel(columns, prior.x[prior.order])
    explained = jax.vmap(lambda c: _follow(prior, factor.sites, c, x_new))(seen_there)
    return prior.kernel(x_new, columns) - explained.T


@quick_jit
def _draw(prior: StateSpacePrior, factor: StateSpaceFactor, x_new: Array, normal: Array) -> Array:
    known, sites = prior.x[prior.order, 0], factor.sites
    count = len(known)
    both = jnp.concatenate([known, x_new[:, 0]])
    order = jnp.argsort(both)
    path = draw_path(prior.kernel, both[order], normal[:, count:])
    path = path[:, jnp.argsort(order)]
    at_data, at_new = path[:, :count], path[:, count:]
    there = sites.precision > 0
    spread = jnp.where(there, 1 / jnp.sqrt(jnp.where(there, sites.precision, 1.0)), 0.0)
    rest = sites.centre - at_data - spread * normal[:, :count, 0]
    moved = jax.vmap(lambda c: _follow(prior, sites, c, x_new))(rest)
    return prior.mean(x_new) + at_new + moved
