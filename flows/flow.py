"""Normalizing flows as families."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flows.compose import Chain
from flows.layer import Mapped
from vi.families import Gaussian
from vi.module import module, static

if TYPE_CHECKING:
    import distrax
    import numpyro.distributions

_MOMENT_DRAWS = 4096
stop = jax.lax.stop_gradient


@module
class Flow:
    r"""The law of noise that has gone through layers and then through a Gaussian's affine map.

    .. math::
        z = m + L\,T(x), \quad x \sim N(0, I), \qquad
        \log q(z) = \log N(x; 0, I) - \log|\det ∂T/∂x| - \log|\det L|

    The factories start with T the identity, so that the flow *is* the Gaussian N(m, L Lᵀ), and
    `vi.fit` starts it from the Gaussian that it finds. Made by `flows.neural_spline`,
    `flows.realnvp`, `flows.maf`, `flows.iaf`, `flows.planar`, `flows.radial`, `flows.sylvester`,
    or from any layers.

    Attributes:
      layers: T, a layer such as `flows.Chain` or `flows.Stack`.
      affine: m and L, a `vi.Gaussian` with as many unit normals as coordinates, or None for
        the identity.
      context: what the conditioners are given, shape ``(C,)`` or ``(S, C)``; see `given`.
      base: a `distrax.Distribution` of vectors in place of N(0, I), or None. It is not trained.
      size: number D of coordinates.
      context_dim: number C of coordinates of the context; 0 for a flow without.
      title: what it is called in verdicts.

    Example:
      >>> import jax, flows
      >>> q = flows.realnvp(3, key=jax.random.key(0))
      >>> z, log_q = q.sample_and_log_prob(jax.random.key(1), 5)
      >>> z.shape, bool(abs(q.log_prob(z) - log_q).max() < 1e-4)
      ((5, 3), True)
    """

    layers: Any
    affine: Gaussian | None
    context: Float[Array, "*S C"] | None
    base: Any
    size: int = static()
    context_dim: int = static(default=0)
    title: str = static(default="flow")

    @classmethod
    def of_gaussian(cls, q: Gaussian) -> "Flow":
        """A Gaussian as a flow without layers.

        Args:
          q: a Gaussian of dimension D with a diagonal, dense or block scale.
        """
        return cls(Chain(()), q, None, None, q.dim, title="Gaussian")

    @property
    def dim(self) -> int:
        """Number D of coordinates."""
        return self.size

    @property
    def dtype(self) -> Any:
        """Of parameters and draws."""
        floating = (x.dtype for x in jax.tree.leaves(self) if jnp.issubdtype(x.dtype, jnp.floating))
        return next(floating, jnp.result_type(float))

    @property
    def explicit(self) -> bool:
        """Whether the density at given points costs no more than a few times a draw."""
        return self.layers.explicit

    @property
    def cheap_score(self) -> bool:
        """Whether `draw_and_score` costs no more than a few draws."""
        return self.layers.cheap_score

    # ---- draws and densities -----------------------------------------------------------------

    def noise(self, key: Array, num_samples: int) -> Float[Array, "S D"]:
        """Draws of the base, in one flat call of the random generator."""
        if self.base is not None:
            return stop(self.base).sample(seed=key, sample_shape=num_samples)
        return jax.random.normal(key, (num_samples, self.size), self.dtype)

    def draw(self, noise: Float[Array, "S D"]) -> tuple[Float[Array, "S D"], Float[Array, " S"]]:
        """Reparameterised draws and their weights, which sum to one, from noise."""
        z, _ = self.draw_and_log_prob(noise)
        return z, jnp.full(z.shape[0], 1 / z.shape[0], z.dtype)

    def draw_and_log_prob(
        self, noise: Float[Array, "*S D"]
    ) -> tuple[Float[Array, "*S D"], Float[Array, "*S"]]:
        """Draws and their log density from noise: one pass forward, no inverse."""
        z, log_det = self.forward_and_log_det(noise)
        return z, self._base_log_prob(noise) - log_det

    def forward_and_log_det(self, noise: Float[Array, "*S D"]) -> Mapped:
        """The draws that noise becomes, and the log-determinant of the whole map there."""
        x, log_det = self.layers.forward_and_log_det(noise, self.conditioned())
        if self.affine is None:
            return x, log_det
        return self.affine.loc + self.affine.scale.apply(x), log_det + self.affine.scale.log_det()

    def inverse_and_log_det(self, z: Float[Array, "*S D"]) -> Mapped:
        """The noise of given draws, and the log-determinant of the inverse of the whole map."""
        outer: Any = 0.0
        if self.affine is not None:
            outer = -self.affine.scale.log_det()
            z = self.affine.scale.solve(z - self.affine.loc)
        noise, log_det = self.layers.inverse_and_log_det(z, self.conditioned())
        return noise, log_det + outer

    def draw_and_score(
        self, noise: Float[Array, "*S D"]
    ) -> tuple[Float[Array, "*S D"], Float[Array, "*S"], Float[Array, "*S D"]]:
        r"""Draws, their log density, and its gradient there, in one pass forward.

        .. math:: z, \quad \log q(z), \quad \nabla_z \log q(z)

        What path gradients need. The score is free of gradients; draws and log density are as
        of `draw_and_log_prob`. See `flows.layer.Layer.forward_with_score`.
        """
        score = jax.vjp(self._base_log_prob, stop(noise))[1](
            jnp.ones(noise.shape[:-1], noise.dtype)
        )
        x, log_det, score = self.layers.forward_with_score(noise, score[0], self.conditioned())
        log_q = self._base_log_prob(noise) - log_det
        if self.affine is None:
            return x, log_q, score
        affine = self.affine
        score = jax.vjp(stop(affine).scale.solve, stop(x))[1](score)[0]
        return affine.loc + affine.scale.apply(x), log_q - affine.scale.log_det(), score

    def sample(self, key: Array, num_samples: int | None = None) -> Float[Array, "*S D"]:
        """One draw of shape ``(D,)``, or ``num_samples`` of them."""
        z, _ = self.sample_and_log_prob(key, num_samples)
        return z

    def log_prob(self, z: Float[Array, "... D"]) -> Float[Array, "..."]:
        """Log density, in nats; leading axes are draws. It takes the inverse of the layers."""
        noise, log_det = self.inverse_and_log_det(z)
        return self._base_log_prob(noise) + log_det

    def sample_and_log_prob(
        self, key: Array, num_samples: int | None = None
    ) -> tuple[Float[Array, "*S D"], Float[Array, "*S"]]:
        """Draws and their log density: one pass forward, no inverse."""
        z, log_q = self.draw_and_log_prob(self.noise(key, num_samples or 1))
        return (z[0], log_q[0]) if num_samples is None else (z, log_q)

    def _base_log_prob(self, x: Array) -> Array:
        if self.base is not None:
            return stop(self.base).log_prob(x)
        return -0.5 * jnp.sum(x**2, axis=-1) - 0.5 * self.size * math.log(2 * math.pi)

    def conditioned(self) -> Float[Array, "*S C"] | None:
        """The context that conditioners are given, None for a flow without.

        Raises:
          ValueError: if the flow takes a context and has none.
        """
        if self.context_dim and self.context is None:
            raise ValueError(
                f"Flow: expected a context of {self.context_dim} coordinates; got none. Use "
                "flow.given(context)."
            )
        return self.context

    # ---- moments -----------------------------------------------------------------------------

    @property
    def loc(self) -> Float[Array, " D"]:
        """Mean of 4096 draws of a fixed stream: standard errors of 2 % of the deviations."""
        return jnp.mean(self._draws(), axis=0)

    def covariance(self) -> Float[Array, "D D"]:
        """Covariance of the same draws: standard errors of 2 % of the variances."""
        draws = self._draws()
        centred = draws - jnp.mean(draws, axis=0)
        return centred.T @ centred / _MOMENT_DRAWS

    def variance(self) -> Float[Array, " D"]:
        """Variances of the same draws."""
        return jnp.var(self._draws(), axis=0)

    def _draws(self) -> Array:
        if self.base is not None:
            return self.draw(self.noise(jax.random.key(0), _MOMENT_DRAWS))[0]
        half = np.random.default_rng(0).normal(size=(_MOMENT_DRAWS // 2, self.size))
        noise = np.concatenate([half, -half])
        return self.draw(jnp.asarray(noise, self.dtype))[0]

    # ---- other flows -------------------------------------------------------------------------

    def around(self, q: Gaussian) -> "Flow":
        """These layers around another Gaussian, in its precision.

        Args:
          q: a Gaussian of dimension D with a diagonal, dense or block scale.

        Returns:
          The flow; with layers that are the identity it is that Gaussian.
        """
        cast = lambda x: x.astype(q.loc.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
        return dataclasses.replace(jax.tree.map(cast, self), affine=q)

    def whitened(self) -> "Flow":
        """The flow without its affine map: of what `vi.fit` trains in whitened coordinates."""
        return dataclasses.replace(self, affine=None)

    def given(self, context: Float[Array, "*S C"]) -> "Flow":
        """The conditional flow given a context: a family like any other.

        Args:
          context: shape ``(C,)``, or ``(S, C)`` for S draws, one context each.

        Raises:
          ValueError: if the flow takes a context of another size, or none.
        """
        if not self.context_dim or jnp.shape(context)[-1:] != (self.context_dim,):
            raise ValueError(
                f"Flow.given: expected a context of {self.context_dim} coordinates; got shape "
                f"{jnp.shape(context)}. Make the flow with context_dim=."
            )
        return dataclasses.replace(self, context=jnp.asarray(context, self.dtype))

    # ---- elsewhere ---------------------------------------------------------------------------

    def default_estimator(self, num_particles: int) -> Any:
        """How `vi.fit` estimates gradients of the ELBO: `flows.ReverseKL`."""
        from flows.reverse_kl import ReverseKL

        return ReverseKL(num_particles)

    def to_distrax(self) -> "distrax.Distribution":
        """The flow as a `distrax.Transformed` of its base."""
        from flows.distrax_flow import distribution

        return distribution(self)

    def to_numpyro(self) -> "numpyro.distributions.Distribution":
        """The flow as a NumPyro ``TransformedDistribution`` of a standard normal."""
        from flows.numpyro_flow import distribution

        return distribution(self)
