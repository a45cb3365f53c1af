"""Kernels of one coordinate as Markov processes of a few numbers: transitions in closed form."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gp.kernels import Constant, Matern, Product, Scaled, Sum

_SMALL = 2.0  # twice the scaled step up to which the incomplete gamma function is summed as series
_TERMS = 24


class Process(NamedTuple):
    r"""A stationary Gauss-Markov process at steps of time, :math:`f = \sum_{i \in O} z_i`.

    .. math:: z_{t + Δ} = Φ(Δ) z_t + N(0, Q(Δ)), \qquad z_t \sim N(0, P_\infty)

    Attributes:
      transition: Φ, shape ``(*T, s, s, B)`` for steps of shape ``(*T, B)``.
      noise: Q, the same shape.
      stationary: P∞, shape ``(s, s)``.
      observed: O, the components whose sum is the function.
    """

    transition: Float[Array, "*T s s B"]
    noise: Float[Array, "*T s s B"]
    stationary: Float[Array, "s s"]
    observed: tuple[int, ...]


def process(kernel: Any, steps: Float[Array, "*T B"]) -> Process:
    r"""The Markov process whose covariance function is a kernel, at given steps of time.

    For `gp.Matern` of smoothness ν = p + ½ the state is the function and its p derivatives, in
    units of the rate :math:`λ = \sqrt{2ν}/ℓ`, so that with :math:`u = λΔ` and a constant nilpotent
    matrix N

    .. math::

       Φ = e^{-u} \sum_{k=0}^p \frac{u^k}{k!} N^k, \qquad
       Q = q \int_0^u a(v)\, a(v)^T dv, \quad a(v) = Φ(v) e_p .

    The integral is a sum of incomplete gamma functions, accurate to rounding however small the
    step, where :math:`P_\infty - Φ P_\infty Φ^T` would cancel. States of a sum of kernels are side
    by side; that of a product is the Kronecker product.

    Args:
      kernel: made of `gp.Matern`, `gp.Constant`, sums, products and positive factors.
      steps: Δ ≥ 0, in the units of the inputs.

    Returns:
      The process.

    Raises:
      ValueError: if the kernel, or one in it, is no such process, or its length scales are several.

    Complexity:
      O(s²) a step.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> from gp.state_space import process
      >>> found = process(gp.Matern(2.0, nu=0.5) + gp.Constant(3.0), jnp.asarray([0.0, 1.0]))
      >>> found.transition.shape, found.observed
      ((2, 2, 2), (0, 1))

    Reference: Hartikainen and Särkkä (2010), "Kalman filtering and smoothing solutions to temporal
    Gaussian process regression models", section 4.1.
    """
    for kind, make in _MAKERS.items():
        if isinstance(kernel, kind):
            return make(kernel, steps)
    raise ValueError(
        f"gp.state_space: expected a kernel made of Matern, Constant, sums and products; got "
        f"{type(kernel).__name__}. Use Matern(nu=2.5) or (nu=3.5) for smooth functions, or "
        "another method."
    )


def markov(kernel: Any) -> bool:
    """Whether a kernel is a Markov process of the kind that `process` makes.

    Args:
      kernel: of one input.

    Returns:
      True for `gp.Matern` of half-integer order, `gp.Constant`, and their sums and products.

    Example:
      >>> import gp
      >>> from gp.state_space import markov
      >>> markov(gp.Matern(1.0) + gp.Constant(2.0)), markov(gp.SquaredExponential(1.0))
      (True, False)
    """
    if isinstance(kernel, (Sum, Product)):
        return all(map(markov, kernel.kernels))
    if isinstance(kernel, Scaled):
        return markov(kernel.kernel)
    return isinstance(kernel, Constant) or (isinstance(kernel, Matern) and kernel.nu % 1 == 0.5)


# ---- Matérn ------------------------------------------------------------------------------------


class _Constants(NamedTuple):
    """What depends on p alone."""

    powers: np.ndarray  # N^k / k!, shape (p + 1, s, s)
    stationary: np.ndarray  # P∞ for unit variance
    weights: np.ndarray  # of P(m + 1, 2u) in Q, shape (2p + 1, s, s)


@functools.cache
def _constants(order: int) -> _Constants:
    """N, P∞ and the coefficients of Q for a rate of one."""
    size = order + 1
    drift = np.diag(np.ones(order), 1)
    drift[-1] = [-math.comb(size, k) for k in range(size)]  # of (D + 1)^s f = white noise
    nilpotent = drift + np.eye(size)
    powers = np.stack(
        [np.linalg.matrix_power(nilpotent, k) / math.factorial(k) for k in range(size)]
    )
    # a_i(v) a_j(v) = e^{-2v} Σ_m c_m v^m, of which ∫_0^u v^m e^{-2v} = m! 2^{-m-1} P(m + 1, 2u).
    column = powers[:, :, -1]
    weights = np.zeros((2 * order + 1, size, size))
    for k, left in enumerate(column):
        for j, right in enumerate(column):
            weights[k + j] += np.outer(left, right)
    weights *= np.array([math.factorial(m) / 2.0 ** (m + 1) for m in range(len(weights))])[
        :, None, None
    ]
    stationary = weights.sum(0)
    scale = stationary[0, 0]
    return _Constants(powers, stationary / scale, weights / scale)


def _matern(kernel: Matern, steps: Array) -> Process:
    order = kernel.nu - 0.5
    if order < 0 or order != int(order):
        raise ValueError(f"gp.state_space: expected nu in 0.5, 1.5, 2.5, ...; got {kernel.nu}.")
    if jnp.size(kernel.lengthscale) != 1:
        raise ValueError(
            "gp.state_space: expected one length scale; got lengthscale of shape "
            f"{jnp.shape(kernel.lengthscale)}."
        )
    found, dtype = _constants(int(order)), steps.dtype
    rate = math.sqrt(2 * kernel.nu) / jnp.reshape(jnp.asarray(kernel.lengthscale, dtype), ())
    variance = jnp.asarray(kernel.variance, dtype)
    constant = lambda x: jnp.asarray(x, dtype)[..., None]
    u = rate * steps[..., None, None, :]
    transition = constant(found.powers[-1])
    for power in found.powers[-2::-1]:
        transition = transition * u + constant(power)
    gammas = incomplete_gammas(len(found.weights), 2 * u)
    noise = sum(constant(w) * g for w, g in zip(found.weights, gammas, strict=True))
    return Process(
        jnp.exp(-u) * transition,
        variance * noise,
        variance * jnp.asarray(found.stationary, dtype),
        (0,),
    )


def incomplete_gammas(count: int, x: Array) -> list[Array]:
    r"""The regularised incomplete gamma functions :math:`P(m, x)` for m = 1 to ``count``.

    .. math:: P(m, x) = 1 - e^{-x} \sum_{k<m} x^k/k! = e^{-x} \sum_{k \ge m} x^k/k!

    The last is taken from the series where x is small; the others follow by positive terms.

    Args:
      count: how many.
      x: non-negative.

    Returns:
      As many arrays of the shape of x, accurate relative to their values.
    """
    decay = jnp.exp(-x)
    if count == 1:
        return [-jnp.expm1(-x)]
    terms = [jnp.ones_like(x)]
    for k in range(1, count):
        terms.append(terms[-1] * x / k)
    small = jnp.minimum(x, _SMALL)
    series = jnp.ones_like(x)
    for k in range(count + _TERMS, count, -1):
        series = 1 + small / k * series
    tail = jnp.exp(-small) * small**count / math.factorial(count) * series
    last = jnp.where(x < _SMALL, tail, 1 - decay * sum(terms[1:], terms[0]))
    found = [last]
    for term in terms[:0:-1]:
        found.append(found[-1] + decay * term)
    return found[::-1]


# ---- sums and products -------------------------------------------------------------------------


def _constant(kernel: Constant, steps: Array) -> Process:
    variance = jnp.reshape(jnp.asarray(kernel.variance, steps.dtype), (1, 1))
    one = jnp.ones_like(steps)[..., None, None, :]
    return Process(one, jnp.zeros_like(one), variance, (0,))


def _scaled(kernel: Scaled, steps: Array) -> Process:
    inner = process(kernel.kernel, steps)
    s = kernel.variance
    return inner._replace(noise=s * inner.noise, stationary=s * inner.stationary)


def _sum(kernel: Sum, steps: Array) -> Process:
    parts = [process(part, steps) for part in kernel.kernels]
    observed, start = (), 0
    for part in parts:
        observed += tuple(start + i for i in part.observed)
        start += len(part.stationary)
    return Process(
        _block_diagonal([part.transition for part in parts], -3, -2),
        _block_diagonal([part.noise for part in parts], -3, -2),
        _block_diagonal([part.stationary for part in parts], -2, -1),
        observed,
    )


def _block_diagonal(arrays: list[Array], row: int, column: int) -> Array:
    rows, before = [], 0
    total = sum(a.shape[column] for a in arrays)
    for a in arrays:
        widths = [(0, 0)] * a.ndim
        widths[column] = (before, total - before - a.shape[column])
        rows.append(jnp.pad(a, widths))
        before += a.shape[column]
    return jnp.concatenate(rows, row)


def _product(kernel: Product, steps: Array) -> Process:
    each = [process(part, steps) for part in kernel.kernels]
    return functools.reduce(_kronecker, each)


def _kronecker(a: Process, b: Process) -> Process:
    """The product of independent processes: Q = P_a ⊗ Q_b + Q_a ⊗ (P_b - Q_b), all positive."""
    size = len(b.stationary)
    left, right = a.stationary[..., None], b.stationary[..., None]
    return Process(
        _kron(a.transition, b.transition),
        _kron(left, b.noise) + _kron(a.noise, right - b.noise),
        jnp.kron(a.stationary, b.stationary),
        tuple(size * i + j for i in a.observed for j in b.observed),
    )


def _kron(a: Array, b: Array) -> Array:
    """Kronecker products over the two axes before the last."""
    both = a[..., :, None, :, None, :] * b[..., None, :, None, :, :]
    m, n = a.shape[-2] * b.shape[-2], a.shape[-3] * b.shape[-3]
    return both.reshape(*both.shape[:-5], n, m, both.shape[-1])


_MAKERS: dict[type, Callable] = {
    Matern: _matern,
    Constant: _constant,
    Scaled: _scaled,
    Sum: _sum,
    Product: _product,
}
