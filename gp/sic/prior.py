"""The sparse inverse Cholesky back-end: a prior over many inputs, conditioned in linear time."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gp.local import local_left_out
from gp.prior import Conditional
from gp.sic import conditional as algebra
from gp.sic.columns import conditional_columns
from gp.sic.evidence import column_evidence
from gp.sic.graph import SICGraph, sic_graph, training_groups
from gp.sic.groups import Groups
from gp.sic.neighbors import nearest_before
from gp.sic.pattern import Pattern, rounded
from gp.sic.prediction import Known, joint_draws, joint_moments, marginal_moments
from gp.sic.queries import joint_queries, marginal_queries
from gp.sites import Sites, misfits
from vi.compile import quick_jit
from vi.module import module, static

NUM_NEIGHBORS = 30
# The gap at a third of the noise above which the verdict warns. With data drawn from Matérn and
# squared exponential kernels in 2 to 10 dimensions, where predictions of new data lost more than
# 0.02 nats against the process, it was larger; they lost at most about four times the gap.
GAP, OF_NOISE = 0.01, 0.3
MANY_POINTS = 2000  # above which latent evidence is trained with
COARSE = 15, 8  # neighbours, and ancestors from each scale
_MANY = 5  # coordinates, in which neighbours say less


@module
class SICPrior:
    r"""A Gaussian process at N inputs, each conditioned on m of those before it.

    .. math::

       K^{-1} \approx U U^T, \qquad \Sigma^{-1} = U U^T + \mathrm{diag}(λ_2) \approx V V^T,
       \qquad (U U^T + \mathrm{diag}(λ_2))\,(m - μ) = λ_1 - λ_2 μ

    U is the sparse upper triangular factor of least Kullback-Leibler divergence from the process,
    with inputs in a coarse-to-fine order and their nearest predecessors as its pattern; V is an
    incomplete Cholesky factor on that pattern, and the mean is solved for with V as the
    preconditioner. Variances are sums over the ancestors of a point. For m = N - 1 all is exact.
    Smooth kernels, under which neighbours leave next to nothing uncertain, get a nugget of a
    thousandth of the noise or more where V would not be a posterior's factor without.

    It suits functions of up to about five coordinates; in more, neighbours say less and m has to
    grow (`neighbor_gap` measures it). Inputs should be distinct: equal ones get the jitter.

    Attributes:
      kernel: k.
      mean: μ(x).
      x: inputs.
      geometry: the kernel in whose metric the graph was made.
      graph: order and neighbours.
      groups: groups of nearby inputs with their ancestors.
      rows: positions of the inputs whose columns stand for all in `log_normalizer`.
      latent: whether `log_normalizer` is that of the sparse prior, or of sparse observations.
      per_block: ancestors of a point from each scale: each index block [2ᵇ, 2ᵇ⁺¹) of the order.

    Complexity:
      O(N m³) time and O(N m) memory to condition; O(B m³) for the evidence of B rows.

    Reference: Cao, Kang, Jimenez, Sang, Schäfer and Katzfuss (2023), "Variational sparse inverse
    Cholesky approximation for latent Gaussian processes via double Kullback-Leibler minimization".
    Two things differ: q is found through sites, with V their consequence instead of N m free
    numbers, and the mean is polished by conjugate gradients.
    """

    kernel: Any
    mean: Any
    x: Float[Array, "N D"]
    geometry: Any
    graph: SICGraph
    groups: Groups
    rows: Int[Array, " B"]
    latent: bool = static(default=False)
    per_block: int = static(default=16)

    @classmethod
    def of(
        cls,
        kernel: Any,
        mean: Any,
        x: Float[Array, "N D"],
        *,
        num_neighbors: int = NUM_NEIGHBORS,
        num_rows: int | None = None,
        latent: bool = False,
        per_block: int = 16,
    ) -> "SICPrior":
        """Make the prior; order and neighbours are found on the host.

        Args:
          kernel: the kernel.
          mean: the mean function.
          x: inputs, shape ``(N, D)``.
          num_neighbors: m.
          num_rows: B, the number of columns by which `log_normalizer` is estimated; all if not
            given. They are drawn once, so that what training maximises stays the same function.
          latent: make `log_normalizer` that of the sparse prior. It is the better one where data
            are noisy, as those of non-Gaussian likelihoods are, and takes all columns. By default
            observations are conditioned on their neighbours' instead, which is good where the
            noise is small and takes any part of the columns.
          per_block: ancestors from each scale. Variances lack what reaches a point through points
            that are not among them. Measured in the plane, their relative error is about 1e-3 for
            16 where the noise is a tenth of the variance, and for 32 where it is five times it.

        Returns:
          The prior.

        Raises:
          ValueError: if inputs are not finite, or both ``latent`` and ``num_rows`` are given.

        Example:
          >>> import gp, jax.numpy as jnp
          >>> from gp.sic import SICPrior
          >>> x = jnp.linspace(0.0, 1.0, 50)[:, None]
          >>> prior = SICPrior.of(gp.Matern(0.3), gp.Zero(), x, num_neighbors=5)
          >>> q = prior.condition(gp.Sites(jnp.ones(50), jnp.ones(50)))
          >>> q.mean.shape, bool(q.kl > 0)
          ((50,), True)
        """
        if latent and num_rows is not None:
            raise ValueError(
                "SICPrior.of: expected num_rows only with latent=False; got num_rows "
                f"{num_rows}, latent True. The evidence of the latent form takes all rows."
            )
        points = np.asarray(kernel.metric(x), float)
        graph = sic_graph(points, num_neighbors)
        groups = training_groups(graph, points[graph.order], per_block)
        count = len(points) if num_rows is None else min(num_rows, len(points))
        rows = np.random.default_rng(0).permutation(len(points))[:count].astype(np.int32)
        arrays = jax.tree.map(jnp.asarray, (graph, groups, rows))
        return cls(
            kernel, mean, jnp.asarray(x), kernel, *arrays, latent=latent, per_block=per_block
        )

    block = 2**16  # new points that are best predicted at once

    @property
    def inputs(self) -> Float[Array, "N D"]:
        """Inputs by position."""
        return self.x[self.graph.order]

    def _sites(self, sites: Sites) -> Sites:
        return Sites(sites.linear[self.graph.order], sites.precision[self.graph.order])

    def condition(self, sites: Sites) -> Conditional:
        """q(f) at the data; see `gp.prior.Prior`. Its factor is by position."""
        pattern, sites = self.graph.pattern, self._sites(sites)
        found = algebra.condition(self.kernel, self.mean, self.inputs, pattern, self.groups, sites)
        place = self.graph.position
        return found._replace(mean=found.mean[place], variance=found.variance[place])

    def log_normalizer(self, sites: Sites) -> Float[Array, ""]:
        """The pseudo-evidence, differentiable; see `gp.prior.Prior`."""
        pattern, sites = self.graph.pattern, self._sites(sites)
        common = self.kernel, self.mean, self.inputs
        if self.latent:
            return algebra.latent_evidence(*common, pattern, self.groups, sites)
        return column_evidence(*common, sites, pattern.neighbors, self.rows)

    def divergence(self, conditional: Conditional) -> Float[Array, ""]:
        """KL(q ‖ p) at fixed q, differentiable in kernel and mean; O(N m³ + N P²)."""
        where = self.inputs, self.graph.pattern, self.groups
        factor, centre = conditional.factor, conditional.mean[self.graph.order]
        return algebra.divergence(self.kernel, self.mean, *where, factor, centre)

    def left_out(self, sites: Sites, own: Sites, index: np.ndarray) -> tuple:
        """The law at the inputs of some targets without these; `gp.local.local_left_out`.

        Dividing a marginal by its site magnifies the variance's error where the datum says much
        more than all others.
        """
        return local_left_out(self.kernel, self.mean, self.x, sites, own, index)

    def _known(self, conditional: Conditional) -> Known:
        pattern = self.graph.pattern
        return Known(self.kernel, self.mean, self.inputs, pattern, conditional.factor)

    def _points(self, x: Array) -> np.ndarray:
        return np.asarray(self.geometry.metric(x), float)

    def predict(
        self, conditional: Conditional, x_new: Float[Array, "M D"], *, full_cov: bool = False
    ) -> tuple[Array, Array]:
        """Means and variances, or the covariance, of the function; not inside `jax.jit`.

        Neighbours of the new points are looked up on the host. Without ``full_cov`` each new point
        is conditioned on the data alone; with it, on the new points before it as well. A new
        point that equals a training input gets its mean and variance, up to the jitter.

        Complexity:
          O(M m³ + M P²) time, O(M m) memory; with ``full_cov`` O(N m M) time and O(N M) memory.
        """
        if full_cov:
            return joint_moments(self._known(conditional), *self._joint(x_new))
        count = len(x_new)
        x_new = _filled(x_new)
        data, queries = self._points(self.inputs), self._points(x_new)
        near, groups = marginal_queries(self.graph, data, queries, self.per_block)
        mean, variance = marginal_moments(self._known(conditional), x_new, near, groups)
        return mean[:count], variance[:count]

    def sample(
        self, key: Array, conditional: Conditional, x_new: Float[Array, "M D"], num_samples: int
    ) -> Float[Array, "S M"]:
        """Joint draws of the function, of all data and new points at once; not inside `jax.jit`.

        Complexity:
          O(S (N + M) m) time, O(S (N + M)) memory.
        """
        joint = self._joint(x_new)
        noise = jax.random.normal(key, (num_samples, len(self.x) + len(x_new)), self.x.dtype)
        return joint_draws(self._known(conditional), noise, *joint)

    def anchored(
        self, key: Array, conditional: Conditional, sites: Sites, path: Callable
    ) -> tuple[Array, Array]:
        """How data move draws of the prior; see `gp.prior.Prior`."""
        factor, pattern, own = conditional.factor, self.graph.pattern, self._sites(sites)
        rest = misfits(key, own, self.mean(self.inputs) + path(self.inputs))

        def one(c: Array) -> Array:
            common = pattern, factor.prior, factor.posterior, own.precision
            return own.precision * (c - algebra.posterior_shift(*common, own.precision * c).x)

        return self.inputs, jax.lax.map(one, rest)

    def _joint(self, x_new: Array) -> tuple[Array, Array, Pattern]:
        """New points in their order, the place of each in it, and the pattern with them."""
        data, queries = self._points(self.inputs), self._points(x_new)
        order, pattern = joint_queries(self.graph, data, queries)
        return x_new[order], jnp.asarray(np.argsort(order)), jax.tree.map(jnp.asarray, pattern)

    def refreshed(self, kernel: Any, *, tolerance: float = 0.2) -> "SICPrior":
        """The prior with another kernel, and order and neighbours anew if distances have changed.

        Args:
          kernel: the kernel, such as one trained with this prior's graph.
          tolerance: relative change of distances between inputs, beyond a common factor, up to
            which the graph is kept.

        Returns:
          This prior with the kernel replaced; if the graph was made anew, another one of the same
          shapes of neighbours, whose evidence is another function of the hyperparameters.
        """
        same = dataclasses.replace(self, kernel=kernel)
        if _distortion(self._points(self.x), np.asarray(kernel.metric(self.x), float)) < tolerance:
            return same
        return dataclasses.replace(self._made_in(kernel), kernel=kernel)

    def _made_in(self, geometry: Any) -> "SICPrior":
        """The prior with order and neighbours in the metric of a kernel."""
        made = SICPrior.of(
            geometry,
            self.mean,
            self.x,
            num_neighbors=self.graph.pattern.num_neighbors,
            num_rows=None if self.latent else len(self.rows),
            latent=self.latent,
            per_block=self.per_block,
        )
        return dataclasses.replace(made, kernel=self.kernel)

    def coarser(self) -> "SICPrior | None":
        """A cheaper prior to train hyperparameters with, if the prior is too dear for it.

        The latent evidence takes all columns, and most of its cost are variances. With fewer
        neighbours and ancestors it is shifted, by nearly as much at all hyperparameters.
        """
        if not self.latent or len(self.x) <= MANY_POINTS:
            return None
        return SICPrior.of(
            self.kernel,
            self.mean,
            self.x,
            num_neighbors=min(self.graph.pattern.num_neighbors, COARSE[0]),
            latent=True,
            per_block=min(self.per_block, COARSE[1]),
        )

    @property
    def trained(self) -> str:
        """A sentence on what was trained with this prior in the place of a finer one."""
        m = self.graph.pattern.num_neighbors
        return f"Hyperparameters were trained with {m} neighbours and fewer ancestors."

    def kept(self) -> list[Array]:
        """What is saved with a posterior: the kernel in whose metric the graph was made."""
        return jax.tree.leaves(self.geometry)

    def with_kept(self, arrays: list[Array]) -> "SICPrior":
        """The prior with the graph of a saved one, which is made again, to the same bits."""
        geometry = jax.tree.unflatten(jax.tree.structure(self.geometry), arrays)
        same = jax.tree.map(np.array_equal, geometry, self.geometry)
        return self if all(jax.tree.leaves(same)) else self._made_in(geometry)

    def cautions(self, conditional: Conditional) -> list[str]:
        """What speaks against the approximation: sentences, none where nothing does."""
        said, factor = [], conditional.factor
        gap = float(neighbor_gap(self, nugget=jnp.maximum(factor.nugget, OF_NOISE * factor.noise)))
        if gap > GAP:
            said.append(
                f"Twice the neighbours would bring the sparse prior nearer to the process by "
                f"{gap:.2g} nats an input: predictions may lose up to {4 * gap:.1g} nats each. "
                "Raise num_neighbors in method_options"
            )
            said[-1] += (
                f"; with {self.x.shape[1]} coordinates, and Gaussian noise, also compare "
                "predict(x, method='local')."
                if self.x.shape[1] >= _MANY
                else "."
            )
        if not bool(factor.solved):
            residual = float(factor.residual)
            said.append(
                f"The sparse factor of the posterior is not good: the mean is solved for only to a "
                f"relative residual of {residual:.1e}, and variances are off by a factor of about "
                f"{float(factor.balance):.2g}."
            )
        return said


def _filled(x: Array) -> Array:
    """Points with copies of the last behind them, to one of few counts."""
    return jnp.concatenate([x, jnp.broadcast_to(x[-1:], (rounded(len(x)) - len(x), x.shape[1]))])


def _distortion(before: np.ndarray, after: np.ndarray) -> float:
    """Largest relative change of a distance among some pairs, about the median change."""
    generator = np.random.default_rng(0)
    first, second = generator.integers(len(before), size=(2, 2000))
    length = lambda points: np.linalg.norm(points[first] - points[second], axis=1)
    old, new = length(before), length(after)
    if not (old > 0).any():
        return 0.0
    ratio = new[old > 0] / old[old > 0]
    return float(np.quantile(np.abs(ratio / np.median(ratio) - 1), 0.9))


def neighbor_gap(
    prior: SICPrior, num_columns: int = 256, *, nugget: Array | float = 0.0
) -> Float[Array, ""]:
    r"""How much the approximation would gain by twice the neighbours, nats per input.

    The Kullback-Leibler divergence of the sparse prior from the process is
    :math:`-\sum_k \log U_{kk} - \tfrac12 \log |K|`; twice the neighbours can only lower it. The
    difference, averaged over a sample of columns, bounds the divergence per input from below.

    Args:
      prior: the prior.
      num_columns: size of the sample.
      nugget: what is added to all variances, such as ``posterior.q.factor.nugget``.

    Returns:
      Shape ``()``: below about 0.01 the approximation is good; near 0.1 and above, use more
      neighbours, or another method.

    Complexity:
      O(B m³) for B columns, and one neighbour search.
    """
    n, m = prior.graph.pattern.size, prior.graph.pattern.num_neighbors
    rows = np.sort(np.random.default_rng(1).permutation(n)[:num_columns])
    return _gap(prior, rows, _wider(prior, rows, min(2 * m, max(1, n - 1))), nugget)


def _wider(prior: SICPrior, rows: np.ndarray, m: int) -> np.ndarray:
    """More predecessors in the coarse-to-fine order of some positions."""
    points = prior._points(prior.inputs)
    coarse, rank = np.asarray(prior.graph.coarse), prior.graph.rank
    limits = np.empty(len(coarse), int)
    limits[coarse] = np.arange(len(coarse))
    near = nearest_before(points[coarse], points[rows], limits[rows], m)
    return np.sort(rank[near], axis=1)


@quick_jit
def _gap(prior: SICPrior, rows: Array, wide: Array, nugget: Array) -> Array:
    n, narrow = prior.graph.pattern.size, prior.graph.pattern.neighbors[rows]
    narrow = jnp.pad(narrow, [(0, 0), (0, wide.shape[1] - narrow.shape[1])], constant_values=n)
    sets, points = jnp.concatenate([narrow, wide]), prior.inputs[jnp.concatenate([rows, rows])]
    columns, _ = conditional_columns(prior.kernel, prior.inputs, points, sets, nugget)
    few, many = jnp.split(jnp.log(columns[:, -1]), 2)
    return jnp.mean(many - few)
