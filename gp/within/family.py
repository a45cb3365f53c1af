"""q(u) of thousands of inducing variables, and the ELBO through the nearest few of each datum."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int

from gp.cholesky import cholesky
from gp.model import Model
from gp.sic.columns import inverse_columns
from vi.module import module

_JITTER = {"float32": 1e-4, "float64": 1e-7}  # of the variance, added to that of u


class Parts(NamedTuple):
    """The two terms of the ELBO, each of a part of the data or of the inducing variables.

    Attributes:
      fit: expected log likelihood of each datum.
      divergence: the Kullback-Leibler terms whose scaled sum is subtracted.
    """

    fit: Float[Array, " B"]
    divergence: Float[Array, " C"]


@module
class Within:
    r"""q(u) = N(μ(z) + m, S), and what each datum sees of it.

    .. math::

       q(f_i) = N\big(μ_i + a_i^T m_I,\; k_{ii} - k_{iI} a_i + a_i^T S_I a_i\big), \qquad
       a_i = K_{II}^{-1} k_{Ii}, \quad S_I = L_I L_I^T,

    for the H inducing inputs I that are nearest to :math:`x_i`. L is lower triangular with W
    entries in each row: that of the diagonal and, for W > 1, those of the nearest inducing inputs
    before it; :math:`L_I` has its rows and columns in I. With W = 1 S is diagonal.

    Attributes:
      model: kernel, mean and likelihood.
      z: inducing inputs, coarse to fine.
      centre: m.
      scale: the diagonal of L.
      lower: its other entries, row by row.
      columns: their columns, M where there is none.
    """

    positive: ClassVar[tuple[str, ...]] = ("scale",)

    model: Model
    z: Float[Array, "M D"]
    centre: Float[Array, " M"]
    scale: Float[Array, " M"]
    lower: Float[Array, "M W-1"]
    columns: Int[Array, "M W-1"]

    def marginals(
        self, x: Float[Array, "B D"], near: Int[Array, "B H"]
    ) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        """Means and variances of the function at inputs that see the variables ``near``."""
        z = jnp.concatenate([self.z[near], x[:, None]], 1)
        u = self._standardised(z, jnp.ones(z.shape[:2], bool))
        rest = u[:, -1] ** -2
        weights = -u[:, :-1] / u[:, -1:]
        mean = self.model.mean(x) + jnp.sum(weights * self.centre[near], -1)
        spread = jnp.sum(self._through(weights, near) ** 2, -1)
        return mean, jnp.maximum(rest - self._jitter(x), 0.0) + spread

    def parts(self, x: Array, y: Array, near: Int[Array, "B H"], before: Array | None) -> Parts:
        r"""The ELBO's terms.

        Args:
          x: inputs of a minibatch.
          y: its targets.
          near: the inducing inputs that each sees, in ascending order.
          before: for some inducing inputs those nearest of the ones before and, last, itself; M
            stands for none. Their divergences are then those of :math:`q(u)` from the prior in
            which each variable is given those alone,
            :math:`E_q[\log q(u_j | u_{<j}) - \log p(u_j | u_{n(j)})]`; if None, they are
            KL(q(u_I) ‖ p(u_I)) of each datum.
        """
        found = self.model.likelihood.expect(*self.marginals(x, near), y)
        divergence = self._blocks(near) if before is None else self._chain(before)
        return Parts(found.value, divergence)

    def _jitter(self, x: Array) -> Array:
        return self.model.kernel.diagonal(x) * _JITTER[x.dtype.name]

    def _covariance(self, z: Float[Array, "B H D"]) -> Float[Array, "B H H"]:
        eye = jnp.eye(z.shape[-2], dtype=z.dtype)
        return self.model.kernel(z, z) + self._jitter(z)[..., None] * eye

    def _standardised(self, z: Float[Array, "B H D"], there: Array) -> Float[Array, "B H"]:
        """The last variable given the others, over its standard deviation, as weights of all."""
        both = there[..., :, None] & there[..., None, :]
        blocks = jnp.where(both, self._covariance(z), jnp.eye(z.shape[-2], dtype=z.dtype))
        return inverse_columns(blocks)[0]

    def _block(self, rows: Int[Array, "B H"]) -> Float[Array, "B H H"]:
        """L_I; rows of variables that are not there are zero."""
        there = rows < len(self.z)
        safe = jnp.where(there, rows, 0)
        eye = jnp.eye(rows.shape[-1], dtype=self.scale.dtype)
        block = jnp.where(there, self.scale[safe], 0.0)[..., None] * eye
        if not self.lower.shape[1]:
            return block
        same = self.columns[safe][..., None] == rows[..., None, None, :]
        same = same & (there[..., :, None] & there[..., None, :])[..., None, :]
        return block + jnp.sum(jnp.where(same, self.lower[safe][..., None], 0.0), -2)

    def _through(self, weights: Float[Array, "B H"], rows: Array) -> Float[Array, "B H"]:
        """L_Iᵀ w."""
        if self.lower.shape[1]:
            return jnp.einsum("bij,bi->bj", self._block(rows), weights)
        there = rows < len(self.z)
        return jnp.where(there, self.scale[jnp.where(there, rows, 0)], 0.0) * weights

    def _blocks(self, near: Array) -> Float[Array, " B"]:
        """KL(q(u_I) ‖ p(u_I))."""
        inverse, log_det = inverse_and_log_det(self._covariance(self.z[near]))
        block, centre = self._block(near), self.centre[near]
        square = jnp.sum((inverse @ block) * block, (-2, -1)) - near.shape[-1]
        square = square + jnp.einsum("bi,bij,bj->b", centre, inverse, centre)
        return 0.5 * (square + log_det) - jnp.sum(jnp.log(self.scale[near]), -1)

    def _chain(self, before: Array) -> Float[Array, " C"]:
        """The divergence of each variable given those before it."""
        there = before < len(self.z)
        safe = jnp.where(there, before, 0)
        u = jnp.where(there, self._standardised(self.z[safe], there), 0.0)
        square = jnp.sum(u * self.centre[safe], -1) ** 2
        square = square + jnp.sum(self._through(u, before) ** 2, -1)
        return 0.5 * (square - 1) - jnp.log(u[:, -1]) - jnp.log(self.scale[before[:, -1]])


@jax.custom_vjp
def inverse_and_log_det(matrices: Float[Array, "B H H"]) -> tuple[Array, Array]:
    """Inverses and log determinants, their derivatives without those of a factorisation."""
    return _inverse(matrices)[0]


def _inverse(matrices: Array) -> tuple[tuple[Array, Array], Array]:
    tril = jax.vmap(cholesky)(matrices)
    eye = jnp.broadcast_to(jnp.eye(tril.shape[-1], dtype=tril.dtype), tril.shape)
    half = solve_triangular(tril, eye, lower=True)
    inverse = jnp.swapaxes(half, -1, -2) @ half
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)), -1)
    return (inverse, log_det), inverse


def _inverse_backward(inverse: Array, bars: tuple[Array, Array]) -> tuple[Array]:
    of_inverse, of_log_det = bars
    return (of_log_det[..., None, None] * inverse - inverse @ of_inverse @ inverse,)


inverse_and_log_det.defvjp(_inverse, _inverse_backward)


def elbo(parts: Parts, count: int, size: int, *, average: bool) -> Float[Array, ""]:
    """The ELBO of all data: its terms scaled to N data and to one or M divergences."""
    whole = 1.0 if average else float(size)
    return count * jnp.mean(parts.fit) - whole * jnp.mean(parts.divergence)


def start(
    model: Model,
    z: Float[Array, "M D"],
    nearest: Int[Array, " N"],
    sites: Any,
    x: Float[Array, "N D"],
    columns: Int[Array, "M W-1"],
) -> Within:
    """q(u) in which each inducing variable knows the sites of the data it is the nearest to."""
    size = len(z)
    add = lambda a: jnp.zeros(size, z.dtype).at[nearest].add(a)
    linear = add(sites.linear - sites.precision * model.mean(x))
    variance = 1 / (1 / model.kernel.diagonal(z) + add(sites.precision))
    zero = jnp.zeros(columns.shape, z.dtype)
    return Within(model, z, variance * linear, jnp.sqrt(variance), zero, columns)
