r"""Functionals of a law P that Wasserstein flows descend, known by their variational forms.

Each is :math:`F(P) = \sup_u F(P, u)` over functions u, the *critic*, and needs no density of P but
draws of it and of a *reference* law μ:

.. math:: \mathrm{KL}(P \| p) = \sup_u E_P[u + \log μ - \log p] - E_μ[e^u] + 1

Where the density of P is known, as after maps with a known log-determinant, F has a plain
estimate too, by `on_density`.
"""

import abc
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi import Target
from vi.module import module


class Reference(NamedTuple):
    """A law to compare with: normal about ``loc``, or uniform, or rows of a sample."""

    loc: Float[Array, " D"]
    root: Float[Array, "D D"]  # lower Cholesky root of a covariance
    low: Float[Array, " D"]
    high: Float[Array, " D"]

    def whiten(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """What a critic sees of points."""
        solve = jax.scipy.linalg.solve_triangular
        return solve(self.root, (x - self.loc).T, lower=True).T


def _moments(x: Array, margin: float | Array) -> Reference:
    loc, centred = jnp.mean(x, 0), x - jnp.mean(x, 0)
    covariance = centred.T @ centred / len(x)
    jitter = 1e-6 * jnp.trace(covariance) / len(loc)
    root = jnp.linalg.cholesky(covariance + jitter * jnp.eye(len(loc), dtype=x.dtype))
    low, high = jnp.min(x, 0), jnp.max(x, 0)
    return Reference(loc, root, low - margin * (high - low), high + margin * (high - low))


def as_function(density: Any) -> Any:
    """A log density as a pytree that can be called: data of a `vi.Target` are its leaves."""
    if isinstance(density, Target):
        return jax.tree_util.Partial(Target.log_density, density)
    if density is None or isinstance(density, jax.tree_util.Partial):
        return density
    return jax.tree_util.Partial(density)


class Functional(abc.ABC):
    """A functional of a law, by its variational form."""

    def reference(self, x: Float[Array, "N D"]) -> Reference:
        """Of draws of the law as it is before a step."""
        return _moments(x, 0.0)

    @abc.abstractmethod
    def draw(self, key: Array, reference: Reference, num: int) -> Float[Array, "B D"]:
        """Draws of μ."""
        ...

    @abc.abstractmethod
    def value(
        self, reference: Reference, x: Float[Array, "B D"], u: Array, u_reference: Array
    ) -> Float[Array, ""]:
        """F(P, u) by draws x of P, the critic there, and the critic at draws of μ."""
        ...

    def on_density(self, x: Float[Array, "B D"], log_prob: Float[Array, " B"]) -> Float[Array, ""]:
        """F(P) by draws and their log density."""
        raise ValueError(
            f"wasserstein_flow: expected estimate='critic' for {type(self).__name__}, which is "
            "known by samples of its target only; got 'density'."
        )


@module
class RelativeEntropy(Functional):
    r"""KL(P‖p) to an unnormalised density p: its flow is that of Langevin dynamics.

    .. math:: F(P, u) = E_P[u + \log μ - \log p] - E_μ[e^u] + 1

    with μ the Gaussian of the mean and covariance of P before the step. It is KL up to the log
    normaliser of p. Made by `relative_entropy`.

    Attributes:
      log_density: log p, a `jax.tree_util.Partial`.
    """

    log_density: Callable

    def draw(self, key: Array, reference: Reference, num: int) -> Float[Array, "B D"]:
        """Of the Gaussian."""
        noise = jax.random.normal(key, (num, len(reference.loc)), reference.loc.dtype)
        return reference.loc + noise @ reference.root.T

    def value(
        self, reference: Reference, x: Float[Array, "B D"], u: Array, u_reference: Array
    ) -> Float[Array, ""]:
        """As above."""
        log_scale = jnp.sum(jnp.log(jnp.diagonal(reference.root)))
        squared = jnp.sum(reference.whiten(x) ** 2, 1)
        log_mu = -0.5 * squared - log_scale - 0.5 * x.shape[1] * math.log(2 * math.pi)
        log_p = jax.vmap(self.log_density)(x)
        return jnp.mean(u + log_mu - log_p) - jnp.mean(jnp.expm1(u_reference))

    def on_density(self, x: Float[Array, "B D"], log_prob: Float[Array, " B"]) -> Float[Array, ""]:
        """The mean of log P - log p."""
        return jnp.mean(log_prob - jax.vmap(self.log_density)(x))


@module
class SampleRelativeEntropy(Functional):
    r"""KL(P‖Q) to a law Q known by a sample, which is the reference.

    .. math:: F(P, u) = E_P[u] - E_Q[e^u] + 1

    Attributes:
      sample: draws of Q, shape ``(M, D)``.
    """

    sample: Float[Array, "M D"]

    def reference(self, x: Float[Array, "N D"]) -> Reference:
        """Of the sample."""
        del x
        return _moments(self.sample, 0.0)

    def draw(self, key: Array, reference: Reference, num: int) -> Float[Array, "B D"]:
        """Rows of the sample."""
        del reference
        return self.sample[jax.random.randint(key, (num,), 0, len(self.sample))]

    def value(
        self, reference: Reference, x: Float[Array, "B D"], u: Array, u_reference: Array
    ) -> Float[Array, ""]:
        """As above."""
        del reference, x
        return jnp.mean(u) - jnp.mean(jnp.expm1(u_reference))


@module
class JensenShannon(SampleRelativeEntropy):
    r"""The Jensen-Shannon divergence to a law Q known by a sample; at most log 2.

    .. math:: F(P, u) = \tfrac12 E_P[\log 2σ(u)] + \tfrac12 E_Q[\log 2σ(-u)]

    with σ the logistic function: the critic is a classifier (Goodfellow et al. 2014, "Generative
    adversarial nets", equation 4).

    Attributes:
      sample: draws of Q, shape ``(M, D)``.
    """

    def value(
        self, reference: Reference, x: Float[Array, "B D"], u: Array, u_reference: Array
    ) -> Float[Array, ""]:
        """As above."""
        del reference, x
        both = jnp.mean(jax.nn.log_sigmoid(u)) + jnp.mean(jax.nn.log_sigmoid(-u_reference))
        return 0.5 * both + math.log(2)


@module
class GeneralizedEntropy(Functional):
    r"""The entropy :math:`\frac{1}{m-1} \int P^m` and a potential: porous-medium diffusion.

    .. math:: F(P, u) = E_P\Big[\tfrac{m}{m-1} g^{m-1} + V\Big] - E_μ[h^m q^{m-1}], \qquad
        h = \log(1 + e^u), \; g = hq

    with μ uniform, of density q, on the box of the draws before the step, half as wide again on
    each side; the best critic has g = P. Without a potential the flow solves
    :math:`\partial_t P = ΔP^m`. Made by `generalized_entropy`.

    Attributes:
      log_density: -V, a `jax.tree_util.Partial`, or None.
      power: m > 1.
    """

    log_density: Callable | None
    power: float | Array = 2.0

    def reference(self, x: Float[Array, "N D"]) -> Reference:
        """The box."""
        return _moments(x, 0.5)

    def draw(self, key: Array, reference: Reference, num: int) -> Float[Array, "B D"]:
        """Uniform."""
        share = jax.random.uniform(key, (num, len(reference.loc)), reference.loc.dtype)
        return reference.low + share * (reference.high - reference.low)

    def _potential(self, x: Array) -> Array:
        if self.log_density is None:
            return jnp.zeros((), x.dtype)
        return -jnp.mean(jax.vmap(self.log_density)(x))

    def value(
        self, reference: Reference, x: Float[Array, "B D"], u: Array, u_reference: Array
    ) -> Float[Array, ""]:
        """As above."""
        q, m = 1 / jnp.prod(reference.high - reference.low), self.power
        pressure = jnp.mean((jax.nn.softplus(u) * q) ** (m - 1))
        own = jnp.mean(jax.nn.softplus(u_reference) ** m) * q ** (m - 1)
        return m / (m - 1) * pressure + self._potential(x) - own

    def on_density(self, x: Float[Array, "B D"], log_prob: Float[Array, " B"]) -> Float[Array, ""]:
        """The mean of P^(m-1) / (m - 1) + V."""
        m = self.power
        return jnp.mean(jnp.exp((m - 1) * log_prob)) / (m - 1) + self._potential(x)


def relative_entropy(log_density: Target | Callable[[Array], Array]) -> RelativeEntropy:
    """KL to a density, for `wasserstein_flow`.

    Args:
      log_density: a `vi.Target`, or log p of one point, shape ``(D,)``, a pure function; its data
        in a `jax.tree_util.Partial`, if other data are not to compile anew.

    Returns:
      The functional.
    """
    return RelativeEntropy(as_function(log_density))


def generalized_entropy(
    power: float | Array = 2.0, log_density: Target | Callable[[Array], Array] | None = None
) -> GeneralizedEntropy:
    """The entropy of porous media, with a potential or without, for `wasserstein_flow`.

    Args:
      power: m > 1.
      log_density: minus the potential, as for `relative_entropy`; none if not given.

    Returns:
      The functional.
    """
    return GeneralizedEntropy(as_function(log_density), power)
