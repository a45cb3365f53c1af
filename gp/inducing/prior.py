"""The back-end of inducing inputs: a prior over any number of data, known through M of them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from gp.cholesky import cholesky, safe_cholesky
from gp.inducing.algebra import Whitened, basis, features, mapped, summed, whitened
from gp.inducing.choice import greedy_inputs, spread_inputs
from gp.inducing.interdomain import Features
from gp.parameters import as_arrays
from gp.prior import Conditional
from gp.sites import Sites
from vi.compile import quick_jit
from vi.module import module, static
from vi.random import fast_key

NUM_INDUCING = 256
_WORSE = 1.2  # times the variance left by inputs chosen anew, from which on they are taken
_SAID = 0.01  # of the prior variance unexplained, from which on the verdict says so, and
GAP = 0.02  # nats an input by which the bound may be off
_CHOICES = {"greedy": greedy_inputs, "kmeans": spread_inputs}


class InducingFactor(NamedTuple):
    """The posterior of the inducing values, and what they leave: all that predictions need.

    Attributes:
      tril: L, the Cholesky factor of the inducing covariance, shape ``(M, M)``.
      q: of the whitened values v, u = L v.
      rest: variance at each input of the data that z leave unexplained, shape ``(N,)``.
      unexplained: share of the prior variance at the data that this is, shape ``()``.
      gap: between an upper bound on the pseudo-evidence and this one, nats, shape ``()``.
      trace: :math:`Σ_i λ_{2i} (k_{ii} - |a_i|^2)`, by whose half the bound is below that of p(e).
    """

    tril: Array
    q: Whitened
    rest: Array
    unexplained: Array
    gap: Array
    trace: Array


@module
class InducingPrior:
    r"""A Gaussian process known through its values u at M inducing inputs z.

    .. math::

       q(f) = \int p(f \mid u)\, q(u)\, du, \qquad
       q(u) \propto p(u) \prod_i e^{λ_{1i} e_i - λ_{2i} e_i^2 / 2}, \quad
       e_i = k_{iz} K_{zz}^{-1} u

    With a site for each datum this is all that sparse variational inference is: for a Gaussian
    likelihood the best q and the collapsed bound, for others the natural-gradient steps of the
    sparse variational process in their dual form. Whitened, :math:`u = L v`, :math:`A = L^{-1}
    K_{zx}`, :math:`S^{-1} = I + A\,\mathrm{diag}(λ_2) A^T`:

    .. math::

       \log Z = -\tfrac12 \log |S^{-1}| - \tfrac12 \sum_i λ_{2i} (c_i - μ_i)^2
                + \tfrac12 b^T S b - \tfrac12 \sum_i λ_{2i} (k_{ii} - \|a_i\|^2),
       \qquad b = A\,\mathrm{diag}(λ_2) (c - μ),

    a lower bound of the process's own, equal to it where z are all inputs.

    Attributes:
      kernel: k.
      mean: μ(x).
      x: inputs.
      z: inducing inputs, or `gp.inducing.Features`.
      start: how z were chosen: ``"greedy"``, ``"kmeans"`` or ``"given"``.

    Complexity:
      O(N M²) time; O(M²) memory beside the data.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> from gp.inducing import InducingPrior
      >>> x = jnp.linspace(0.0, 9.0, 500)[:, None]
      >>> prior = InducingPrior.of(gp.Matern(), gp.Zero(), x, num_inducing=20)
      >>> q = prior.condition(gp.Sites(jnp.ones(500), jnp.ones(500)))
      >>> q.mean.shape, prior.z.shape
      ((500,), (20, 1))

    Reference: Titsias (2009), "Variational learning of inducing variables in sparse Gaussian
    processes", equation 9; Adam, Chang, Khan and Solin (2021), "Dual parameterization of sparse
    variational Gaussian processes", equations 22 to 25, whose dual variables are sums of these
    sites.
    """

    kernel: Any
    mean: Any
    x: Float[Array, "N D"]
    z: Any
    start: str = static(default="greedy")

    sought = "Inducing inputs"

    @classmethod
    def of(
        cls,
        kernel: Any,
        mean: Any,
        x: Float[Array, "N D"],
        *,
        num_inducing: int = NUM_INDUCING,
        inducing: Any = None,
        start: str = "greedy",
    ) -> "InducingPrior":
        """Make the prior; inducing inputs are chosen among the data on the host.

        Args:
          kernel: the kernel.
          mean: the mean function.
          x: inputs.
          num_inducing: M; all inputs if there are fewer.
          inducing: z, if they are given: inputs, of which those that coincide are merged, or
            `gp.inducing.Features`.
          start: ``"greedy"`` (`greedy_inputs`) or ``"kmeans"`` (`spread_inputs`).

        Returns:
          The prior.

        Raises:
          ValueError: for an unknown start, a count below one, or inducing inputs of another shape.
        """
        x = jnp.asarray(x)
        if isinstance(inducing, Features):
            return cls(kernel, mean, x, as_arrays(inducing, x.dtype), "given")
        if inducing is not None:
            z = _checked(inducing, x)
            _, first = np.unique(z, axis=0, return_index=True)
            return cls(kernel, mean, x, jnp.asarray(z[np.sort(first)]), "given")
        if start not in _CHOICES:
            raise ValueError(
                f"InducingPrior: expected start in {sorted(_CHOICES)}; got {start!r}. For inputs "
                "of your own give inducing."
            )
        if num_inducing < 1:
            raise ValueError(f"InducingPrior: expected num_inducing >= 1; got {num_inducing}.")
        z = _CHOICES[start](kernel, x, num_inducing)
        return cls(kernel, mean, x, jnp.asarray(z, x.dtype), start)

    @property
    def graph(self) -> Any:
        """What the host has chosen."""
        return self.z

    def refreshed(self, kernel: Any) -> "InducingPrior":
        """The prior with another kernel, and other inducing inputs if they explain more by it."""
        same = dataclasses.replace(self, kernel=kernel)
        if self.start == "given":
            return same
        z = jnp.asarray(_CHOICES[self.start](kernel, self.x, len(self.z)), self.x.dtype)
        old, new = (float(_unexplained(kernel, self.x, some)) for some in (self.z, z))
        return dataclasses.replace(same, z=z) if old > _WORSE * new + 1e-6 else same

    def kept(self) -> list[Array]:
        """What is saved with a posterior."""
        return jax.tree.leaves(self.z)

    def with_kept(self, arrays: list[Array]) -> "InducingPrior":
        """The prior with what was saved."""
        z = jax.tree.unflatten(jax.tree.structure(self.z), arrays)
        return dataclasses.replace(self, z=z)

    def condition(self, sites: Sites) -> Conditional:
        """q(f) at the data; see `gp.prior.Prior`."""
        tril, jitter = basis(self.kernel, self.z)
        sums = self._sums(tril, sites)
        q = whitened(sums.linear, sums.precision)

        def rows(shared: tuple, x: Array) -> tuple[Array, Array, Array]:
            kernel, z, tril, q = shared
            a, variances = features(kernel, z, tril, x), kernel.diagonal(x)
            return *q.marginals(a, variances), jnp.maximum(variances - jnp.sum(a**2, 0), 0.0)

        moved, variance, rest = mapped(rows, (self.kernel, self.z, tril, q), self.x)
        factor = InducingFactor(
            tril, q, rest, sums.left / sums.variance, _gap(sums, q), jnp.maximum(sums.trace, 0.0)
        )
        mean = self.mean(self.x) + moved
        return Conditional(mean, variance, q.kl, _bound(sums, q), jitter, factor)

    def log_normalizer(self, sites: Sites) -> Float[Array, ""]:
        """The collapsed bound of pseudo-observations, differentiable; see `gp.prior.Prior`."""
        tril, _ = basis(self.kernel, self.z)
        sums = self._sums(tril, sites)
        return _bound(sums, whitened(sums.linear, sums.precision))

    def _sums(self, tril: Array, sites: Sites) -> "_Sums":
        """Sums over the data."""

        def some(shared: tuple, x: Array, linear: Array, precision: Array, there: Array) -> _Sums:
            kernel, mean, z, tril = shared
            a = jnp.where(there, features(kernel, z, tril, x), 0.0)
            off = Sites(linear, precision).centre - mean(x)
            known = jnp.where(precision > 0, off, 0.0)
            variance = jnp.where(there, kernel.diagonal(x), 0.0)
            left = variance - jnp.sum(a**2, 0)
            return _Sums(
                linear=a @ (precision * known),
                precision=(a * precision) @ a.T,
                square=jnp.sum(precision * known**2),
                trace=jnp.sum(precision * left),
                left=jnp.sum(left),
                variance=jnp.sum(variance),
            )

        sums = summed(some, (self.kernel, self.mean, self.z, tril), self.x, *sites)
        eye = jnp.eye(len(tril), dtype=tril.dtype)
        return sums._replace(precision=eye + sums.precision)

    def predict(
        self, conditional: Conditional, x_new: Float[Array, "M D"], *, full_cov: bool = False
    ) -> tuple[Array, Array]:
        """Means and variances, or the covariance, of the function; O(M²) a point."""
        return _predict(self, conditional.factor, x_new, full_cov=full_cov)

    def sample(
        self, key: Array, conditional: Conditional, x_new: Float[Array, "M D"], num_samples: int
    ) -> Float[Array, "S M"]:
        """Joint draws of the function; cubic in the number of points."""
        noise = jax.random.normal(fast_key(key), (num_samples, len(x_new)), x_new.dtype)
        return _draw(self, conditional.factor, x_new, noise)

    def unexplained(self, conditional: Conditional) -> Array:
        """The part of each variance at the data that inducing inputs leave as it was."""
        return conditional.factor.rest

    def sample_projected(
        self, key: Array, conditional: Conditional, num_samples: int
    ) -> tuple[Array, Array, Array]:
        r"""Joint draws of f at the data and of :math:`e = E[f | u]`, and log Z of sites on e.

        The weights of draws against the process are :math:`Z \prod_i p(y_i | f_i) / t_i(e_i)`.
        """
        shape = (num_samples, len(self.z) + len(self.x))
        noise = jax.random.normal(fast_key(key), shape, self.x.dtype)
        log_normalizer = conditional.log_normalizer + 0.5 * conditional.factor.trace
        return *_draw_projected(self, conditional.factor, noise), log_normalizer

    def anchored(
        self, key: Array, conditional: Conditional, sites: Sites, path: Callable
    ) -> tuple[Array, Array]:
        """How data move draws of the prior; see `gp.prior.Prior`."""
        del sites
        if isinstance(self.z, Features):
            raise ValueError(
                f"Posterior.sample_paths: expected inducing inputs; got {type(self.z).__name__}. "
                "Draw at given points, by Posterior.sample."
            )
        tril, q = conditional.factor.tril, conditional.factor.q
        before = path(self.z)
        drawn = q.mean + jax.random.normal(key, before.shape, before.dtype) @ q.inverse
        moved = drawn.T - solve_triangular(tril, before.T, lower=True)
        return self.z, solve_triangular(tril, moved, lower=True, trans=1).T

    def cautions(self, conditional: Conditional) -> list[str]:
        """What speaks against the approximation: sentences, none where nothing does."""
        factor = conditional.factor
        share, gap = float(jnp.max(factor.unexplained)), float(jnp.sum(factor.gap))
        said = self.z.cautions(self.kernel) if isinstance(self.z, Features) else []
        if share < _SAID and gap < GAP * len(self.x):
            return said
        what, more = ("inducing inputs", "Raise num_inducing.")
        if isinstance(self.z, Features):
            what, more = ("inducing features", "Take more of them, or a lower degree.")
        return [
            f"The {len(self.z)} {what} leave {100 * share:.2g} % of the prior "
            f"variance unexplained; with all inputs the bound would be up to {gap:.3g} nats "
            f"higher. {more}",
            *said,
        ]


class _Sums(NamedTuple):
    linear: Array  # A λ₂ (c - μ)
    precision: Array  # I + A λ₂ Aᵀ
    square: Array  # Σ λ₂ (c - μ)²
    trace: Array  # Σ λ₂ (k_ii - |a_i|²)
    left: Array  # Σ k_ii - |a_i|²
    variance: Array  # Σ k_ii


def _bound(sums: _Sums, q: Whitened) -> Array:
    """The collapsed bound."""
    return 0.5 * (sums.linear @ q.mean - sums.square - sums.trace) - q.half_log_det


def _gap(sums: _Sums, q: Whitened) -> Array:
    r"""How far the bound can be below the pseudo-evidence of the process itself.

    The matrix :math:`I + S K S` is between :math:`I + S A^T A S` and that plus the trace t of what
    is left; with it in place of K the quadratic form is least, the determinant as it is.
    """
    trace = jnp.maximum(sums.trace, 0.0)
    grown = 1 + trace
    eye = jnp.eye(len(sums.linear), dtype=sums.linear.dtype)
    tril = cholesky(trace * eye + sums.precision)  # Woodbury's, for a noise of 1 + t
    half = solve_triangular(tril, sums.linear, lower=True)
    upper = (sums.square - jnp.sum(half**2)) / grown
    lower = sums.square - sums.linear @ q.mean
    return 0.5 * (lower - upper + sums.trace)


def _checked(inducing: Any, x: Array) -> np.ndarray:
    z = np.asarray(inducing, x.dtype)
    z = z[:, None] if z.ndim == 1 else z
    if z.ndim != 2 or z.shape[1] != x.shape[1] or not len(z) or not np.isfinite(z).all():
        raise ValueError(
            f"InducingPrior: expected finite inducing inputs of shape (M, {x.shape[1]}); got "
            f"{z.shape}."
        )
    return z


@quick_jit
def _unexplained(kernel: Any, x: Array, z: Array) -> Array:
    """The share of the prior variance that inducing inputs leave."""
    tril, _ = basis(kernel, z)

    def some(shared: tuple, x: Array, there: Array) -> tuple[Array, Array]:
        kernel, z, tril = shared
        variance = jnp.where(there, kernel.diagonal(x), 0.0)
        a = jnp.where(there, features(kernel, z, tril, x), 0.0)
        return jnp.sum(variance - jnp.sum(a**2, 0)), jnp.sum(variance)

    left, whole = summed(some, (kernel, z, tril), x)
    return left / whole


def _moments(
    prior: InducingPrior, factor: InducingFactor, x_new: Array, *, full_cov: bool
) -> tuple[Array, Array]:
    a = features(prior.kernel, prior.z, factor.tril, x_new)
    mean, variance = factor.q.marginals(a, prior.kernel.diagonal(x_new))
    mean = prior.mean(x_new) + mean
    if not full_cov:
        return mean, variance
    spread = factor.q.inverse @ a
    return mean, prior.kernel(x_new, x_new) - a.T @ a + spread.T @ spread


_predict = quick_jit(_moments, static_argnames="full_cov")


@quick_jit
def _draw(prior: InducingPrior, factor: InducingFactor, x_new: Array, noise: Array) -> Array:
    mean, covariance = _moments(prior, factor, x_new, full_cov=True)
    variance = jnp.mean(prior.kernel.diagonal(x_new))
    tril, _ = safe_cholesky(covariance, jnp.full_like(mean, variance))
    return mean + noise @ tril.T


@quick_jit
def _draw_projected(
    prior: InducingPrior, factor: InducingFactor, noise: Array
) -> tuple[Array, Array]:
    a = features(prior.kernel, prior.z, factor.tril, prior.x)
    v = factor.q.mean + noise[:, : len(prior.z)] @ factor.q.inverse
    through = prior.mean(prior.x) + v @ a
    rest = prior.kernel(prior.x, prior.x) - a.T @ a
    tril, _ = safe_cholesky(rest, prior.kernel.diagonal(prior.x))
    return through + noise[:, len(prior.z) :] @ tril.T, through
