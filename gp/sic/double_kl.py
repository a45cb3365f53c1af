r"""The double Kullback-Leibler objective: a free sparse factor, trained on minibatches.

The prior is the nearest of its pattern to the process, :math:`K^{-1} \approx U U^T`, and
:math:`q(f) = N(ν, (V V^T)^{-1})` the nearest of that pattern to the posterior, with mean, factor
and hyperparameters all free. Sites reach as good a q with 2 n numbers (`SICPrior.condition`); the
free factor is for hyperparameters on minibatches, and for posteriors that sites do not give.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gp.model import Data, Model
from gp.parameters import Values, constrained, unconstrained
from gp.prior import Conditional
from gp.sic.columns import conditional_columns, gather
from gp.sic.conditional import SICFactor, divergence_terms
from gp.sic.groups import Groups
from gp.sic.pattern import Pattern
from gp.sic.prior import SICPrior
from gp.sic.variances import column_norms, half_norms
from vi.module import module, static
from vi.targets.layout import Layout


@module
class SparseGaussian:
    r"""What is trained: q(f) by its mean and sparse factor, and hyperparameters.

    Attributes:
      mean: ν, by position, shape ``(n,)``.
      columns: those of V, the last entry of each the logarithm of the diagonal's, ``(n, m + 1)``.
      values: hyperparameters in the optimizer's coordinates.
    """

    mean: Float[Array, " n"]
    columns: Float[Array, "n m1"]
    values: Values

    def factor(self, index: Array | None = None) -> Array:
        """Columns of V, all or at an index; zeros past the end."""
        rows = self.columns if index is None else gather(self.columns, index)
        diagonal = jnp.exp(rows[..., -1:])
        if index is not None:
            diagonal = jnp.where((index < len(self.columns))[..., None], diagonal, 0)
        return jnp.concatenate([rows[..., :-1], diagonal], axis=-1)


@module
class LatentProcess:
    """The model and its data, by position, as `vi.stochastic.StochasticRun` takes a target.

    Attributes:
      model: kernel, mean and likelihood.
      inputs: shape ``(n, D)``.
      y: targets.
      targets: for each position, rows of ``y``; K where there are no more, shape ``(n, t)``.
      pattern: of both factors.
      groups: of nearby positions.
      nugget: what is added to all variances of the process.
    """

    model: Model
    inputs: Float[Array, "n D"]
    y: Float[Array, " K"]
    targets: Int[Array, "n t"]
    pattern: Pattern
    groups: Groups
    nugget: Float[Array, ""]

    @property
    def layout(self) -> Layout:
        """The latent values, as one site."""
        return Layout(("f",), ((len(self.inputs),),), str(self.inputs.dtype))

    @property
    def data(self) -> list[Array]:
        """All arrays, for digests."""
        return jax.tree.leaves(self)


@module
class DoubleKL:
    r"""Minus the ELBO on a random share of the groups, and its gradient.

    .. math::

       \mathrm{ELBO} = \sum_k \Big( E_{N(ν_k, \|V^{-1} e_k\|^2)}[\log p(y_k | f)] + \log U_{kk} -
       \log V_{kk} - \tfrac12 (U_{:,k}^T (ν - μ))^2 - \tfrac12 \|V^{-1} U_{:,k}\|^2 +
       \tfrac12 \Big)

    An estimator in the sense of `vi.stochastic.StochasticRun`. Each point is in one group, so that
    the sum over groups drawn without replacement, times all over drawn, is unbiased. For the
    full pattern and V the exact posterior's factor, it is the log evidence.

    Attributes:
      num_groups: groups in a minibatch, of up to 16 points each; all if not given.

    Reference: Cao, Kang, Jimenez, Sang, Schäfer and Katzfuss (2023), "Variational sparse inverse
    Cholesky approximation for latent Gaussian processes via double Kullback-Leibler minimization",
    proposition 2, with the constant that they leave out; minibatches there are of single points.
    """

    num_groups: int | None = static(default=8)

    def __call__(
        self, key: Array, q: SparseGaussian, target: LatentProcess
    ) -> tuple[Float[Array, ""], SparseGaussian]:
        """Loss in nats, shape ``()``, and its gradient, a pytree like ``q``.

        Complexity:
          As of `on_rows`, and O(n m) to fill the gradient, which is zero on all other rows.
        """
        loss, index, some = self.on_rows(key, q, target)
        put = lambda whole, few: jnp.zeros_like(whole).at[index].set(few, mode="drop")
        mean, columns = put(q.mean, some.mean), put(q.columns, some.columns)
        return loss, SparseGaussian(mean, columns, some.values)

    def on_rows(
        self, key: Array, q: SparseGaussian, target: LatentProcess
    ) -> tuple[Float[Array, ""], Int[Array, " R"], SparseGaussian]:
        """The same with the gradient of the R rows alone that the drawn groups touch.

        Args:
          key: draws the groups.
          q: where.
          target: model and data.

        Returns:
          The loss, the rows, distinct and sorted, with n in free places, and the gradient: that of
          these rows of mean and columns, zero in free places, and of the hyperparameters.

        Complexity:
          O(G s m³ + G P (m log P + P s)) for G groups of s, whatever n.
        """
        total, n = len(target.groups.members), len(target.inputs)
        count = total if self.num_groups is None else min(self.num_groups, total)
        drawn = jnp.arange(total) if count == total else _draw(key, total, count)
        touched = jnp.concatenate(
            [a[drawn].reshape(-1) for a in (target.groups.ancestors, target.groups.members)]
        )
        index = jnp.unique(touched, size=min(len(touched), n), fill_value=n)

        def place(positions: Array) -> Array:
            found = jnp.searchsorted(index, positions, method="scan_unrolled")
            return jnp.where(positions < n, found, len(index))

        some = SparseGaussian(gather(q.mean, index), gather(q.columns, index), q.values)
        elbo = lambda some: _elbo(some, place, target, drawn) * (total / count)
        value, grads = jax.value_and_grad(elbo)(some)
        return -value, index, jax.tree.map(jnp.negative, grads)


def _draw(key: Array, total: int, count: int) -> Int[Array, " count"]:
    """Distinct integers below the total, any set as likely, in O(count²) (Floyd's method)."""
    last = total - count + jnp.arange(count)
    tries = jax.random.randint(key, (count,), 0, last + 1)

    def step(i: Array, drawn: Array) -> Array:
        new = jnp.where(jnp.any(drawn == tries[i]), last[i], tries[i])
        return drawn.at[i].set(new)

    return jax.lax.fori_loop(0, count, step, jnp.full(count, -1, tries.dtype))


def _elbo(q: SparseGaussian, place: Callable, target: LatentProcess, drawn: Array) -> Array:
    """The terms of some groups; ``place`` is where positions are in the rows of q."""
    model, n = constrained(target.model, q.values), len(target.inputs)
    members, ancestors = target.groups.members[drawn], target.groups.ancestors[drawn]
    there = members < n
    near = target.pattern.neighbors.at[members].get(mode="fill", fill_value=n)
    flat = members.reshape(-1)
    points = target.inputs.at[flat].get(mode="clip")
    flat_near = near.reshape(len(flat), -1)
    u, _ = conditional_columns(model.kernel, target.inputs, points, flat_near, target.nugget)
    u = jnp.where(there[..., None], u.reshape(*members.shape, -1), 0)
    sets = jnp.concatenate([near, members[..., None]], axis=-1)
    unit = jnp.zeros_like(u).at[..., -1].set(there)
    both = jnp.concatenate([sets, sets], 1), jnp.concatenate([unit, u], 1)
    factor = lambda positions: q.factor(place(positions))
    variances, traces = jnp.split(half_norms(target.pattern, factor, ancestors, *both), 2, axis=1)
    shift = gather(q.mean, place(sets)) - model.mean(target.inputs.at[sets].get(mode="clip"))
    residuals = jnp.sum(u * shift, axis=-1)
    safe = jnp.where(there[..., None], u, 1).reshape(len(flat), -1)
    diagonal = jnp.where(there, factor(members)[..., -1], 1).reshape(-1)
    terms = divergence_terms(safe, diagonal, residuals.reshape(-1), traces.reshape(-1))
    kl = jnp.sum(jnp.where(there.reshape(-1), terms, 0))
    known = target.targets.at[members].get(mode="fill", fill_value=len(target.y))
    moments = gather(q.mean, place(members)), jnp.where(there, variances, 1)
    mean, variance = (jnp.broadcast_to(a[..., None], known.shape).reshape(-1) for a in moments)
    y = target.y.at[known.reshape(-1)].get(mode="clip")
    fit = model.likelihood.expect(mean, variance, y).value
    return jnp.sum(jnp.where(known.reshape(-1) < len(target.y), fit, 0)) - kl


def double_kl(
    prior: SICPrior, model: Model, data: Data, q: Conditional, names: list[str]
) -> tuple[LatentProcess, SparseGaussian]:
    """Target and start of the double Kullback-Leibler objective.

    Args:
      prior: the sparse prior.
      model: kernel, mean and likelihood of one latent function.
      data: targets.
      q: the prior conditioned on some sites: its mean and incomplete factor are the start.
      names: hyperparameters to train, by full name.

    Returns:
      The target and the family to start from, for `DoubleKL`.

    Raises:
      ValueError: if the likelihood is of several latent functions.
    """
    if model.likelihood.latents != 1:
        raise ValueError(
            "double_kl: expected a likelihood of one latent function; got "
            f"{type(model.likelihood).__name__} of {model.likelihood.latents}. Use gp.fit."
        )
    graph, n = prior.graph, prior.graph.pattern.size
    place = np.asarray(graph.position)[np.asarray(data.index)]
    by_place = np.argsort(place, kind="stable")
    counts = np.bincount(place, minlength=n)
    targets = np.full((n, counts.max()), len(place), np.int32)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    targets[place[by_place], np.arange(len(place)) - first] = by_place
    nugget = q.factor.nugget
    target = LatentProcess(
        model, prior.inputs, data.y, jnp.asarray(targets), graph.pattern, prior.groups, nugget
    )
    columns = q.factor.posterior.at[:, -1].apply(jnp.log)
    return target, SparseGaussian(q.mean[graph.order], columns, unconstrained(model, names))


def free_conditional(prior: SICPrior, target: LatentProcess, q: SparseGaussian) -> Conditional:
    """A trained q as what `SICPrior.predict` and `SICPrior.sample` take.

    Args:
      prior: the prior with the trained kernel and mean.
      target: the target.
      q: the family.

    Returns:
      The conditional. There are no sites, so its ``log_normalizer`` is NaN.
    """
    inputs, pattern, posterior = target.inputs, target.pattern, q.factor()
    near, nugget = pattern.neighbors, target.nugget
    columns, jitter = conditional_columns(prior.kernel, inputs, inputs, near, nugget)
    groups = target.groups.members, target.groups.ancestors
    variances, traces = column_norms(pattern, posterior, columns, *groups)
    shift = q.mean - prior.mean(inputs)
    sets = jnp.concatenate([near, jnp.arange(len(inputs))[:, None]], axis=1)
    residuals = jnp.sum(columns * gather(shift, sets), axis=1)
    place = prior.graph.position
    zero = jnp.zeros((), shift.dtype)
    return Conditional(
        mean=q.mean[place],
        variance=variances[place],
        kl=jnp.sum(divergence_terms(columns, posterior[:, -1], residuals, traces)),
        log_normalizer=zero * jnp.nan,
        jitter=nugget + jitter * jnp.mean(prior.kernel.diagonal(inputs)),
        factor=SICFactor(columns, posterior, shift, zero, jnp.asarray(0), nugget, zero + 1, zero),
    )
