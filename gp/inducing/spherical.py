"""Spherical inducing features: units of a layer instead of inducing inputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gp.inducing.choice import spread_inputs
from gp.inducing.harmonics import coefficients, multiplicity, quadrature, zonal_sum
from gp.inducing.interdomain import Features
from gp.kernels.zonal import Zonal
from vi.compile import quick_jit
from vi.module import module, static

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda t: np.maximum(t, 0.0),
    "step": lambda t: (t > 0) * 1.0,
    "softplus": lambda t: np.log1p(np.exp(4 * t)) / 4,
}
_HIGHEST = 20  # degree that is chosen
_NONE = 1e-12  # of the largest coefficient of an activation, below which it has none
_MISSING = 0.01  # of the kernel's variance in levels that features cannot see, to be said
_TOP = 0.9  # of the variance of features in their highest level, to be said


class Spectrum(NamedTuple):
    """What features see of a kernel, by level of spherical harmonics 0 to the degree.

    Attributes:
      activation: coefficients of the activation.
      kernel: coefficients of the kernel's profile.
      share: of the kernel's variance, by level; what is left to one is beyond the degree.
      features: the terms of the features' variance, by level.
      seen: whether the features see the level.
    """

    activation: np.ndarray
    kernel: np.ndarray
    share: np.ndarray
    features: np.ndarray
    seen: np.ndarray


@module
class SphericalFeatures(Features):
    r"""Inducing features that are activations of units, for `gp.ArcCosine` and `gp.ZonalMatern`.

    With :math:`r \hat x = \tilde x = (x/ℓ, 1)` and the coefficients :math:`σ_l` of an activation
    and :math:`λ_l` of the kernel's profile on the sphere of dimension d = D + 1,

    .. math::

       u_m &= \langle f, g_m \rangle_H, \qquad
       \mathrm{cov}(u_m, f(x)) = g_m(x) = r^n \sum_{l \le L} σ_l N_l G_l(w_m^T \hat x),

       \mathrm{cov}(u_m, u_{m'}) &= \sum_{l \le L,\; λ_l > 0}
         \frac{σ_l^2}{σ^2 λ_l} N_l G_l(w_m^T w_{m'}),

    so that the mean of the posterior is a layer of M units (with the activation up to level L).
    Both sums are over the same levels, which keeps the approximation of the prior an honest one.

    What they cannot do is said by `spectrum` and in the verdict of a fit: a rectifier has
    no part in the levels 3, 5, 7, ..., which are then left to the prior, and for kernels smoother
    than the activation the variance of features is nearly all in their highest level, so that they
    know next to nothing of the others: `gp.OrthogonalFeatures` adds inducing inputs for the rest.

    Made by `of`.

    Attributes:
      directions: w, of any length but zero.
      degree: L.
      activation: ``"relu"``, ``"step"`` or ``"softplus"`` (of 4 t).

    Complexity:
      O(L M B) for cross-covariances with B inputs.

    Example:
      >>> import gp, jax, jax.numpy as jnp
      >>> x = jnp.linspace(-2.0, 2.0, 60)[:, None]
      >>> kernel = gp.ArcCosine()
      >>> features = gp.SphericalFeatures.of(kernel, x, 12)
      >>> fit = gp.fit(x, jnp.abs(x[:, 0]), key=jax.random.key(0), kernel=kernel, train=False,
      ...              method="inducing", method_options={"inducing": features})
      >>> fit.predict(x).mean.shape
      (60,)

    Reference: Tiao, Dutordoir and Picheny (2023), "Spherical inducing features for
    orthogonally-decoupled Gaussian processes", section 3; Dutordoir, Hensman, van der Wilk,
    Ek, Ghahramani and Durrande (2021), "Deep neural networks as point estimates for deep Gaussian
    processes". There the cross-covariance is the activation itself, here it ends
    at the same level as the covariance.
    """

    directions: Float[Array, "M E"]
    degree: int = static(default=9)
    activation: str = static(default="relu")

    @classmethod
    def of(
        cls,
        kernel: Zonal,
        x: Float[Array, "N D"],
        num_features: int,
        *,
        degree: int | None = None,
        activation: str = "relu",
    ) -> "SphericalFeatures":
        """Features whose directions are spread as those of the data are.

        Args:
          kernel: a zonal kernel, for its length scales.
          x: inputs.
          num_features: M, at most.
          degree: L; if None, the highest of which the features can tell all harmonics apart. With
            fewer features than harmonics they know little of each.
          activation: its name.

        Raises:
          ValueError: for an unknown activation, a degree below one or a kernel that is not zonal.
        """
        if activation not in ACTIVATIONS or (degree is not None and degree < 1):
            raise ValueError(
                f"SphericalFeatures: expected activation in {sorted(ACTIVATIONS)} and degree >= 1; "
                f"got {activation!r}, {degree}."
            )
        unit, _ = _zonal(kernel).directions(jnp.asarray(x))
        chosen = jnp.asarray(spread_inputs(_Plain(), unit, num_features))
        if degree is None:
            degree = _most(len(chosen), unit.shape[-1], activation)
        return cls(chosen, degree, activation)

    def __len__(self) -> int:
        """M."""
        return len(self.directions)

    @property
    def _unit(self) -> Float[Array, "M E"]:
        return self.directions / jnp.linalg.norm(self.directions, axis=-1, keepdims=True)

    def _levels(self, kernel: Any) -> tuple[Array, Array, np.ndarray]:
        """Coefficients of the activation and of the kernel, and levels the first can see.

        The first are zero where the kernel has none.
        """
        dtype, dimension = self.directions.dtype, self.directions.shape[-1]
        rule = quadrature(self.degree, dimension)
        own, active = _activation(self.activation, self.degree, dimension)
        of_kernel = coefficients(_zonal(kernel).profile(jnp.asarray(rule.squares, dtype)), rule)
        rounding = 1e2 * jnp.finfo(dtype).eps * of_kernel[0]
        return jnp.where(of_kernel > rounding, jnp.asarray(own, dtype), 0.0), of_kernel, active

    def covariance(self, kernel: Any) -> Float[Array, "M M"]:
        """Covariances of the features."""
        own, of_kernel, active = self._levels(kernel)
        safe = jnp.where(own != 0, of_kernel, 1.0)
        unit, dimension = self._unit, self.directions.shape[-1]
        return zonal_sum(own**2 / safe, active, unit @ unit.T, dimension) / kernel.variance

    def cross(self, kernel: Any, x: Float[Array, "B D"]) -> Float[Array, "M B"]:
        """Covariances of the features with the function."""
        own, _, active = self._levels(kernel)
        unit, length = kernel.directions(x)
        dimension = self.directions.shape[-1]
        return length**kernel.power * zonal_sum(own, active, self._unit @ unit.T, dimension)

    def spectrum(self, kernel: Zonal) -> Spectrum:
        """What the features see of a kernel."""
        own, of_kernel, active = (np.asarray(a, float) for a in _levels(self, kernel))
        seen = (active > 0) & (own != 0)
        dimension = self.directions.shape[-1]
        count = np.array([multiplicity(level, dimension) for level in range(self.degree + 1)])
        features = np.where(seen, own**2 / np.where(seen, of_kernel, 1.0), 0.0) * count
        return Spectrum(own, of_kernel, of_kernel * count, features, seen)

    def cautions(self, kernel: Any) -> list[str]:
        """Levels that are missing, and variances that diverge."""
        found, said = self.spectrum(kernel), []
        missing = np.flatnonzero(~found.seen & (found.share > 0))
        share = float(found.share[missing].sum())
        if share > _MISSING:
            said.append(
                f"The activation {self.activation!r} has no part in levels "
                f"{', '.join(map(str, missing))} of the kernel, {100 * share:.2g} % of its "
                "variance: add inducing inputs by gp.OrthogonalFeatures."
            )
        top = np.flatnonzero(found.seen)[-1]
        share = float(found.features[top] / found.features.sum())
        if share > _TOP and top > 1:
            said.append(
                f"Of the features' variance {100 * share:.3g} % is in their highest level, {top}: "
                "it diverges with the degree for a kernel smoother than the activation. Lower the "
                "degree, or use gp.ArcCosine or gp.ZonalMatern of lower nu."
            )
        return said


def _activation(name: str, degree: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of an activation, and which of them are not zero."""
    rule = quadrature(degree, dimension)
    own = (rule.table * rule.weights) @ ACTIVATIONS[name](rule.cosines)
    return own, np.abs(own) > _NONE * np.abs(own).max()


def _most(count: int, dimension: int, activation: str) -> int:
    """The highest degree with at most so many harmonics in levels that the activation has."""
    _, active = _activation(activation, _HIGHEST, dimension)
    numbers = [multiplicity(level, dimension) for level in range(_HIGHEST + 1)]
    enough = np.cumsum(np.where(active, numbers, 0)) <= count
    return max(1, int(np.flatnonzero(enough & active)[-1]))


@quick_jit
def _levels(features: SphericalFeatures, kernel: Zonal) -> tuple[Array, Array, Array]:
    own, of_kernel, active = features._levels(kernel)
    return own, of_kernel, jnp.asarray(active)


def _zonal(kernel: Any) -> Zonal:
    if not isinstance(kernel, Zonal):
        raise ValueError(
            f"SphericalFeatures: expected gp.ArcCosine or gp.ZonalMatern; got {kernel!r}. For "
            "other kernels take inducing inputs."
        )
    return kernel


class _Plain:
    """The metric of directions themselves."""

    def metric(self, x: Array) -> Array:
        return x


@module
class OrthogonalFeatures(Features):
    r"""Features, and inducing inputs for what they leave unexplained.

    .. math::

       f &= f_u + f_v + f_\perp, \qquad f_u = k_{\cdot u} K_{uu}^{-1} u, \quad
       f_v = c_{\cdot v} C_{vv}^{-1} v_\perp,

       c(x, x') &= k(x, x') - k_{xu} K_{uu}^{-1} k_{ux'}

    The three are independent in the prior; the projections onto u and onto :math:`v_\perp`, values
    at the inputs v of what u leaves, add up to that onto both. Whitening by one Cholesky factor of
    both is that decomposition, features first: its blocks are the factors of :math:`K_{uu}` and of
    C. q is joint over both here; the source holds them independent, which is cheaper and bounds the
    evidence no better.

    Attributes:
      principal: u.
      inputs: v.

    Complexity:
      As (M + K) inducing inputs, for M features and K inputs.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> x = jnp.linspace(-2.0, 2.0, 60)[:, None]
      >>> kernel = gp.ZonalMatern()
      >>> both = gp.OrthogonalFeatures(gp.SphericalFeatures.of(kernel, x, 12), x[::10])
      >>> len(both), both.cross(kernel, x).shape
      (18, (18, 60))

    References: Shi, Titsias and Mnih (2020), "Sparse orthogonal variational inference for Gaussian
    processes"; Tiao, Dutordoir and Picheny (2023), "Spherical inducing features
    for orthogonally-decoupled Gaussian processes", section 4.
    """

    principal: Any
    inputs: Float[Array, "K D"]

    def __len__(self) -> int:
        """M + K."""
        return len(self.principal) + len(self.inputs)

    def covariance(self, kernel: Any) -> Array:
        """Covariances, features first."""
        across = self.principal.cross(kernel, self.inputs)
        return jnp.block(
            [
                [self.principal.covariance(kernel), across],
                [across.T, kernel(self.inputs, self.inputs)],
            ]
        )

    def cross(self, kernel: Any, x: Float[Array, "B D"]) -> Array:
        """Covariances with the function."""
        return jnp.concatenate([self.principal.cross(kernel, x), kernel(self.inputs, x)])

    def cautions(self, kernel: Any) -> list[str]:
        """Those of the features about their own variance; what they miss is what inputs are for."""
        said = self.principal.cautions(kernel)
        return [sentence for sentence in said if "has no part" not in sentence]
