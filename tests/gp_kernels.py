"""The kernels that `test_gp_kernels` runs through the contracts, and their formulas in NumPy."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import gp
from vi.module import module

_SCALES = np.array([0.7, 1.5])


def _r(x, y):
    return np.sqrt(np.sum(((x - y) / _SCALES) ** 2))


def _matern(nu):
    """By the Bessel function, which the library's polynomials do not use."""
    from scipy.special import gamma, kv

    def k(x, y):
        s = np.sqrt(2 * nu) * _r(x, y)
        return 2.0 if s == 0 else 2.0 * 2 ** (1 - nu) / gamma(nu) * s**nu * kv(nu, s)

    return k


def _arc_cosine(order):
    """By Cho and Saul's integral over weights in the plane of the two vectors."""

    def k(x, y):
        u, v = np.append(x / _SCALES, 1.0), np.append(y / _SCALES, 1.0)
        p, q = np.linalg.norm(u), np.linalg.norm(v)
        between = np.arccos(np.clip(u @ v / (p * q), -1, 1))
        angle = np.linspace(-np.pi, np.pi, 40_001)
        first, second = np.cos(angle), np.cos(angle - between)
        both = (first > 0) & (second > 0)
        # The radial integral is the same for all angles; the value at equal vectors sets it.
        value = np.trapezoid(both * (first * second) ** order, angle)
        unit = np.trapezoid((first > 0) * first ** (2 * order), angle)
        return 2.0 * (p * q) ** order * value / unit

    return k


def _zonal_matern(x, y):
    u, v = np.append(x / _SCALES, 1.0), np.append(y / _SCALES, 1.0)
    p, q = np.linalg.norm(u), np.linalg.norm(v)
    s = np.sqrt(3) * np.linalg.norm(u / p - v / q) / 0.7
    return 2.0 * p * q * (1 + s) * np.exp(-s)


def _mixed(x, y):
    return _matern(1.5)(x, y) + 0.5 * np.exp(-0.5 * (x[1] - y[1]) ** 2) * (3.0 + x @ y)


def _squared_exponential(x, y):
    return 2.0 * np.exp(-0.5 * _r(x, y) ** 2)


def _rational_quadratic(x, y):
    return 2.0 * (1 + _r(x, y) ** 2 / 1.4) ** -0.7


def _periodic(x, y):
    return 2.0 * np.exp(-2 * np.sum(np.sin(np.pi * (x - y) / 1.3) ** 2 / _SCALES**2))


def _linear(x, y):
    return np.sum(_SCALES * x * y)


@module
class Rbf:
    """A kernel of another library's form: ``k(x, y)`` and ``evaluate(x, y)``."""

    scale: Any

    def __call__(self, x, y):
        return jnp.exp(-0.5 * jnp.sum((x - y) ** 2) / self.scale**2)

    def evaluate(self, x, y):
        return self(x, y)


class Entry(NamedTuple):
    make: Callable  # of a dtype
    formula: Callable  # of two points, in NumPy
    tolerance: float = 1e-12


def _of(kind, **static):
    return lambda dtype: kind(jnp.asarray(_SCALES, dtype), jnp.asarray(2.0, dtype), **static)


def _make_mixed(dtype):
    first = gp.ActiveDimensions(gp.SquaredExponential(), (1,))
    return _of(gp.Matern)(dtype) + 0.5 * first * (gp.Constant(3.0) + gp.Linear())


def _make_deep(dtype):
    weights = jnp.asarray([[1.0, 0.3], [-0.2, 0.8]], dtype)
    return gp.deep(gp.SquaredExponential(), lambda x: jnp.tanh(x @ weights))


def _deep(x, y):
    weights = np.array([[1.0, 0.3], [-0.2, 0.8]])
    return np.exp(-0.5 * np.sum((np.tanh(x @ weights) - np.tanh(y @ weights)) ** 2))


def _foreign(x, y):
    return np.exp(-0.5 * np.sum((x - y) ** 2) / 0.81)


KERNELS = {
    **{
        f"matern_{nu}": Entry(_of(gp.Matern, nu=nu), _matern(nu), 1e-10)
        for nu in (0.5, 1.5, 2.5, 3.5)
    },
    "squared_exponential": Entry(_of(gp.SquaredExponential), _squared_exponential),
    "rational_quadratic": Entry(
        lambda dtype: gp.RationalQuadratic(*map(jnp.asarray, (_SCALES.astype(dtype), 2.0, 0.7))),
        _rational_quadratic,
    ),
    "periodic": Entry(lambda dtype: gp.Periodic(jnp.asarray(_SCALES, dtype), 2.0, 1.3), _periodic),
    "linear": Entry(lambda dtype: gp.Linear(jnp.asarray(_SCALES, dtype)), _linear),
    **{
        f"arc_cosine_{n}": Entry(_of(gp.ArcCosine, order=n), _arc_cosine(n), 3e-4)
        for n in (0, 1, 2)
    },
    "zonal_matern": Entry(_of(gp.ZonalMatern, chord=0.7), _zonal_matern),
    "mixed": Entry(_make_mixed, _mixed, 1e-10),
    "deep": Entry(_make_deep, _deep),
    "gpjax": Entry(lambda dtype: gp.from_gpjax(Rbf(jnp.asarray(0.9, dtype))), _foreign),
    "tinygp": Entry(lambda dtype: gp.from_tinygp(Rbf(jnp.asarray(0.9, dtype))), _foreign),
}
