"""The sparse prior conditioned on sites."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from gp.prior import Conditional
from gp.sic.columns import conditional_columns
from gp.sic.conjugate_gradients import Solution, conjugate_gradients
from gp.sic.groups import Groups
from gp.sic.incomplete import incomplete_cholesky
from gp.sic.pattern import Pattern
from gp.sic.solve import product, solve, solve_transposed, transposed_product
from gp.sic.variances import column_norms, traces_of
from gp.sites import Sites

_DIGITS = 0.55  # of the precision, to which the mean is polished
MAX_ITERATIONS = 60
_BALANCE = 0.1  # by which the factor's trace may be off
_NUGGETS = (0.0, 1e-3, 1e-2, 1e-1)  # in units of the mean noise variance of the sites


class SICFactor(NamedTuple):
    r"""What predictions are made from; all by position.

    Attributes:
      prior: columns of U, :math:`K^{-1} \approx U U^T`, shape ``(n, m + 1)``.
      posterior: columns of V, :math:`Σ^{-1} \approx V V^T`, the same shape.
      shift: mean of q less that of the prior, shape ``(n,)``.
      residual: of the system that the shift solves, relative.
      iterations: of conjugate gradients that it took.
      nugget: what was added to all variances of the process.
      balance: an estimate of :math:`\mathrm{tr}(V^{-1} (U U^T + W) V^{-T}) / n`, which is one for
        the exact factor.
      noise: the mean noise variance of the sites; 0 where they say nothing.
    """

    prior: Float[Array, "n m1"]
    posterior: Float[Array, "n m1"]
    shift: Float[Array, " n"]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]
    nugget: Float[Array, ""]
    balance: Float[Array, ""]
    noise: Float[Array, ""]

    @property
    def solved(self) -> Array:
        """Whether the mean is what it aims at, and the factor a posterior's."""
        good = self.residual <= _tolerance(self.shift.dtype)
        return good & (jnp.abs(self.balance - 1) < _BALANCE)


def posterior_shift(
    pattern: Pattern,
    prior: Float[Array, "n m1"],
    posterior: Float[Array, "n m1"],
    precision: Float[Array, " n"],
    rhs: Float[Array, " n"],
) -> Solution:
    r"""Solve :math:`(U U^T + \mathrm{diag}(w))\, δ = b` by conjugate gradients.

    The incomplete factor is the preconditioner; a handful of iterations do where without it
    hundreds would be needed, and the mean of the factor alone can be far off.

    Args:
      pattern: that of the factors.
      prior: columns of U.
      posterior: columns of V.
      precision: w.
      rhs: b.

    Returns:
      The solution; its residual says whether the iteration reached the rounding it aims at.

    Complexity:
      O(n m) an iteration.
    """
    return conjugate_gradients(
        lambda x: product(pattern, prior, transposed_product(pattern, prior, x)) + precision * x,
        lambda x: solve_transposed(pattern, posterior, solve(pattern, posterior, x)),
        rhs,
        tolerance=_tolerance(rhs.dtype),
        max_iterations=MAX_ITERATIONS,
    )


def _tolerance(dtype: Any) -> float:
    return float(jnp.finfo(dtype).eps) ** _DIGITS


def factorise(kernel: Any, mean: Array, inputs: Array, pattern: Pattern, sites: Sites) -> tuple:
    r"""Factors of the prior and of the posterior, the posterior mean, and the jitter.

    Where neighbours leave next to nothing uncertain, as under smooth kernels, entries of U are huge
    beside the data's precisions, and what an incomplete factor leaves out is not small. Should
    conjugate gradients not get there, or a trace of the factor be off by a tenth, all variances get
    a nugget of :math:`10^{-3}` of the mean noise variance :math:`1/\bar λ_2`, then of ten and a
    hundred times that.

    Args:
      kernel: the kernel.
      mean: of the prior, by position.
      inputs: by position.
      pattern: that of the factors.
      sites: by position.

    Returns:
      The `SICFactor` and the jitter relative to the prior variance; no derivatives.

    Complexity:
      O(n m³) time for each nugget tried, O(n m) memory.
    """
    kernel, mean, sites = lax.stop_gradient((kernel, mean, sites))
    precision, rhs = sites.precision, sites.linear - sites.precision * mean
    known = precision > 0
    average = jnp.sum(precision) / jnp.maximum(jnp.sum(known), 1)
    noise = jnp.where(average > 0, 1 / jnp.where(average > 0, average, 1), 0)
    nuggets = noise * jnp.asarray(_NUGGETS, inputs.dtype)

    def attempt(state: tuple) -> tuple:
        i, _, _ = state
        prior, jitter = conditional_columns(kernel, inputs, inputs, pattern.neighbors, nuggets[i])
        posterior = incomplete_cholesky(pattern, prior, precision)
        found = posterior_shift(pattern, prior, posterior, precision, rhs)
        balance = _balance(pattern, prior, posterior, precision)
        found = found.x, found.residual, found.iterations
        factor = SICFactor(prior, posterior, *found, nuggets[i], balance, noise)
        return i + 1, factor, jitter

    wanting = lambda state: ~state[1].solved & (state[0] < len(_NUGGETS))
    empty = jnp.zeros((pattern.size, pattern.num_neighbors + 1), inputs.dtype)
    zero = jnp.zeros((), inputs.dtype)
    nothing = SICFactor(empty, empty, empty[:, 0], zero + jnp.inf, jnp.asarray(0), zero, zero, zero)
    _, factor, jitter = lax.while_loop(wanting, attempt, (0, nothing, zero))
    return factor, jitter


def _balance(pattern: Pattern, prior: Array, posterior: Array, precision: Array) -> Array:
    """One random sign for each position estimates the trace; without error, if it is exact."""
    mixed = jnp.arange(pattern.size, dtype=jnp.uint32) * jnp.uint32(2654435769)
    signs = 1 - 2 * (mixed >> 31).astype(precision.dtype)
    half = solve_transposed(pattern, posterior, signs)
    white = transposed_product(pattern, prior, half)
    return (white @ white + half @ (precision * half)) / pattern.size


def log_normalizer(factor: SICFactor, mean: Float[Array, " n"], sites: Sites) -> Float[Array, ""]:
    r"""The pseudo-evidence under the sparse prior.

    .. math::

       \sum_k \log U_{kk} - \sum_k \log V_{kk} - \tfrac12 \sum_i w_i r_i (r_i - δ_{k(i)}),
       \qquad r_i = λ_{1i}/λ_{2i} - μ_i

    Args:
      factor: of prior and posterior.
      mean: of the prior, by position.
      sites: by position.

    Returns:
      Nats; exact for the sparse prior but for the determinant of V.

    Complexity:
      O(n).
    """
    misfit = sites.centre - mean
    quadratic = jnp.sum(sites.precision * misfit * (misfit - factor.shift))
    determinants = jnp.log(factor.prior[:, -1]) - jnp.log(factor.posterior[:, -1])
    return jnp.sum(determinants) - 0.5 * quadratic


def divergence_terms(
    columns: Float[Array, "B m1"],
    posterior_diagonal: Float[Array, " B"],
    residuals: Float[Array, " B"],
    traces: Float[Array, " B"],
) -> Float[Array, " B"]:
    r"""The terms of KL(q ‖ p), one for each column of U.

    .. math::

       \log V_{kk} - \log U_{kk} + \tfrac12 (U_{:,k}^T (ν - μ))^2
       + \tfrac12 \|V^{-1} U_{:,k}\|^2 - \tfrac12

    Args:
      columns: of U.
      posterior_diagonal: V_kk.
      residuals: :math:`U_{:,k}^T (ν - μ)`.
      traces: :math:`\|V^{-1} U_{:,k}\|^2`.

    Returns:
      The terms, whose sum is the divergence.

    Reference: Cao et al. (2023), "Variational sparse inverse Cholesky approximation for latent
    Gaussian processes via double Kullback-Leibler minimization", proposition 2, with the constant
    that they leave out.
    """
    logs = jnp.log(posterior_diagonal) - jnp.log(columns[:, -1])
    return logs + 0.5 * (residuals**2 + traces - 1)


def condition(
    kernel: Any, mean: Any, inputs: Array, pattern: Pattern, groups: Groups, sites: Sites
) -> Conditional:
    """q(f) at the data; everything by position.

    Args:
      kernel: the kernel.
      mean: the mean function.
      inputs: by position.
      pattern: that of the factors.
      groups: of the points.
      sites: by position.

    Returns:
      The conditional; its factor is a `SICFactor`.

    Complexity:
      O(n m³ + n P²) time, O(n m) memory.
    """
    mu = mean(inputs)
    factor, jitter = factorise(kernel, mu, inputs, pattern, sites)
    variances, traces = column_norms(pattern, factor.posterior, factor.prior, *_arrays(groups))
    residuals = transposed_product(pattern, factor.prior, factor.shift)
    kl = jnp.sum(divergence_terms(factor.prior, factor.posterior[:, -1], residuals, traces))
    return Conditional(
        mean=mu + factor.shift,
        variance=variances,
        kl=kl,
        log_normalizer=log_normalizer(factor, mu, sites),
        jitter=factor.nugget + jitter * jnp.mean(kernel.diagonal(inputs)),
        factor=factor,
    )


def divergence(
    kernel: Any,
    mean: Any,
    inputs: Array,
    pattern: Pattern,
    groups: Groups,
    factor: SICFactor,
    centre: Float[Array, " n"],
) -> Float[Array, ""]:
    """KL(q ‖ p) of a given q, differentiable in kernel and mean.

    Args:
      kernel: the kernel.
      mean: the mean function.
      inputs: by position.
      pattern: that of the factors.
      groups: of the points.
      factor: of q, whose columns V count, and its nugget.
      centre: the mean of q, by position.

    Returns:
      Nats.

    Complexity:
      O(n m³ + n P²) time, O(n m) memory.
    """
    posterior, nugget = lax.stop_gradient((factor.posterior, factor.nugget))
    prior, _ = conditional_columns(kernel, inputs, inputs, pattern.neighbors, nugget)
    traces = traces_of(pattern, posterior, prior, *_arrays(groups))
    residuals = transposed_product(pattern, prior, centre - mean(inputs))
    return jnp.sum(divergence_terms(prior, posterior[:, -1], residuals, traces))


def latent_evidence(
    kernel: Any, mean: Any, inputs: Array, pattern: Pattern, groups: Groups, sites: Sites
) -> Float[Array, ""]:
    r"""The pseudo-evidence of the sparse prior, with its derivatives.

    As of `log_normalizer`. By Fisher's identity its derivative is that of

    .. math:: E_q\Big[\log p_θ(f) - \tfrac12 \sum_i λ_{2i} (f_i - λ_{1i}/λ_{2i})^2\Big]

    at fixed q, so that nothing is differentiated through the factorisation or the iteration.

    Args:
      kernel: the kernel.
      mean: the mean function.
      inputs: by position.
      pattern: that of the factors.
      groups: of the points.
      sites: by position.

    Returns:
      Nats, differentiable in kernel, mean and sites.

    Complexity:
      O(n m³ + n P²) time, O(n m) memory.
    """
    mu = mean(inputs)
    factor, _ = factorise(kernel, mu, inputs, pattern, sites)
    value = log_normalizer(factor, mu, sites)
    norms = column_norms(pattern, factor.posterior, factor.prior, *_arrays(groups))
    variances, shift = lax.stop_gradient((norms[0], factor.shift + mu))
    kl = divergence(kernel, mean, inputs, pattern, groups, factor, shift)
    squares = jnp.where(sites.precision > 0, (sites.centre - shift) ** 2 + variances, 0)
    energy = -kl - 0.5 * jnp.sum(sites.precision * squares)
    return lax.stop_gradient(value) + energy - lax.stop_gradient(energy)


def _arrays(groups: Groups) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(groups.members), jnp.asarray(groups.ancestors)
