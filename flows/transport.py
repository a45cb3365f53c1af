r"""Polynomial transport maps: a polynomial conditioner, and a monotone polynomial as transformer.

With `flows.Autoregressive` they make the triangular map

.. math::
    y_i = f_i(x_{<i}) + e^{h_i(x_{<i})} \int_0^{x_i} \frac{p_i(u; x_{<i})^2 + ε}{1 + ε}\, du,

where :math:`p_i` is one plus a polynomial in u, and f, h and the coefficients of p are polynomials
in the earlier coordinates. It is monotone for all coefficients, and all zero is the identity.
References: Marzouk, Moselhy, Parno and Spantini (2016), "Sampling via measure transport: an
introduction", section 4; Jaini, Selby and Yu (2019), "Sum-of-squares polynomial flow", equation 7
(one square here, and the sum's other ones replaced by ε).
"""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flows.imports import load_distrax
from flows.layer import Context
from flows.root import increasing_root
from vi.module import module, static

if TYPE_CHECKING:
    import distrax

EPSILON = 0.1


@module
class MonotonePolynomial:
    r"""A shift, a scale, and the integral of a squared polynomial.

    .. math:: y = b + e^{c \tanh(a / c)} \int_0^x \frac{(1 + \sum_{l=1}^d α_l u^l)^2 + ε}{1 + ε} du

    Attributes:
      degree: d, of the polynomial that is squared; y is of degree 2d + 1.
      limit: c, of the log scale.
    """

    degree: int = static(default=1)
    limit: float = static(default=2.0)

    @property
    def num_params(self) -> int:
        """Numbers a coordinate takes: a, b and α."""
        return 2 + self.degree

    def bijector(self, params: Float[Array, "*S P"]) -> "distrax.Bijector":
        """The map as a scalar `distrax.Bijector`."""
        load_distrax()
        from flows.transport_bijector import MonotonePolynomialBijector

        log_scale = self.limit * jnp.tanh(params[..., 0] / self.limit)
        ones = jnp.ones_like(log_scale)[..., None]
        squared = _square(jnp.concatenate([ones, params[..., 2:]], axis=-1))
        squared = squared.at[..., 0].add(EPSILON) / (1 + EPSILON)
        return MonotonePolynomialBijector(squared, log_scale, params[..., 1])


def _square(p: Array) -> Array:
    """Coefficients of the square of a polynomial, lowest first."""
    size = p.shape[-1]
    out = jnp.zeros((*p.shape[:-1], 2 * size - 1), p.dtype)
    for i in range(size):
        out = out.at[..., i : i + size].add(p[..., i : i + 1] * p)
    return out


def evaluate(coefficients: Float[Array, "*S P"], x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """A polynomial by Horner's rule, lowest coefficient first."""
    out = jnp.zeros_like(x)
    for k in reversed(range(coefficients.shape[-1])):
        out = out * x + coefficients[..., k]
    return out


def integral(coefficients: Float[Array, "*S P"], x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """The integral of a polynomial from 0 to x."""
    orders = jnp.arange(1, coefficients.shape[-1] + 1, dtype=coefficients.dtype)
    return x * evaluate(coefficients / orders, x)


def invert(coefficients: Float[Array, "*S P"], aim: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """Where the integral of a polynomial that is at least ε / (1 + ε) reaches ``aim``."""
    reach = jnp.abs(aim) * ((1 + EPSILON) / EPSILON)
    f = lambda x: (integral(coefficients, x) - aim, evaluate(coefficients, x))
    return increasing_root(f, -reach, reach)


@module
class PolynomialConditioner:
    r"""Parameters of coordinate i as polynomials in the coordinates before it, and the context.

    The basis is 1, the Hermite polynomials of each coordinate up to a degree, and the products of
    pairs of coordinates; for normal noise it is orthogonal, and it is scaled to length one.

    Attributes:
      weights: shape ``(M, D * P)``; entries that belong to later coordinates are ignored.
      dim: number D of coordinates.
      context_dim: number C of coordinates of the context.
      degree: of the polynomials, at least one; pairs enter from 2 on.
    """

    weights: Float[Array, "M O"]
    dim: int = static()
    context_dim: int = static(default=0)
    degree: int = static(default=2)

    @classmethod
    def initial(
        cls, dim: int, outputs: int, degree: int, context_dim: int, dtype: Any
    ) -> "PolynomialConditioner":
        """All coefficients zero, for ``outputs`` numbers a coordinate."""
        size = len(_basis(dim + context_dim, degree)[0])
        return cls(jnp.zeros((size, dim * outputs), dtype), dim, context_dim, degree)

    def __call__(self, x: Float[Array, "*S D"], context: Context = None) -> Float[Array, "*S O"]:
        """Outputs, shape ``(..., D * P)``: the P numbers of coordinate i stand together."""
        if context is not None:
            shared = jnp.broadcast_to(context, (*x.shape[:-1], context.shape[-1]))
            x = jnp.concatenate([shared, x], axis=-1)
        hermite = [jnp.ones_like(x), x]
        for k in range(2, self.degree + 1):
            hermite.append((x * hermite[-1] - (k - 1) ** 0.5 * hermite[-2]) / k**0.5)
        table = jnp.stack(hermite, axis=-1)
        first, second, orders = _basis(x.shape[-1], self.degree)
        features = table[..., first, orders[0]] * table[..., second, orders[1]]
        # A term is seen by the coordinates after its last one; the context stands before all.
        last = np.where(orders.sum(0) > 0, np.maximum(first, second) - self.context_dim, -1)
        of = np.repeat(np.arange(self.dim), self.weights.shape[1] // self.dim)
        mask = jnp.asarray(last[:, None] < of, self.weights.dtype)
        return features @ (self.weights * mask)


def _basis(size: int, degree: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each term its two coordinates, and their two degrees, shape ``(2, M)``."""
    terms = [(0, 0, 0, 0)]
    terms += [(i, i, k, 0) for i in range(size) for k in range(1, degree + 1)]
    if degree > 1:
        terms += [(i, j, 1, 1) for j in range(size) for i in range(j)]
    first, second, *orders = np.array(terms).T
    return first, second, np.array(orders)
