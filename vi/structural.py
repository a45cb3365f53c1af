"""Recognising functions that were made anew but are the same.

``optax.adam(1e-2)`` returns new closures at every call. Compared by identity they would be
compiled again at every fit; compared by their code and what they close over, they are equal.
"""

import functools
import types
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_CONSTANTS = (bool, int, float, complex, str, bytes, np.ndarray, jax.Array)


def structural_key(value: Any, _seen: frozenset = frozenset()) -> Hashable:
    """A hashable key, equal for functions of the same code that close over equal values.

    Args:
      value: a function, or a tuple, list or dictionary of functions, arrays and constants.

    Returns:
      The key. Objects it cannot look into are told apart by identity.
    """
    if id(value) in _seen:
        return "cycle"
    seen = _seen | {id(value)}
    inside = functools.partial(structural_key, _seen=seen)
    if isinstance(value, types.FunctionType):
        cells = tuple(inside(_cell(cell)) for cell in value.__closure__ or ())
        defaults = inside(value.__defaults__), inside(value.__kwdefaults__)
        names = ((name, value.__globals__.get(name)) for name in value.__code__.co_names)
        uses = tuple((name, inside(x)) for name, x in names if isinstance(x, _CONSTANTS))
        return ("function", value.__code__, id(value.__globals__), cells, defaults, uses)
    if isinstance(value, types.MethodType):
        return ("method", inside(value.__func__), inside(value.__self__))
    if isinstance(value, functools.partial):
        return ("partial", inside(value.func), inside(value.args), inside(value.keywords))
    if isinstance(value, (tuple, list)):
        return (type(value), tuple(map(inside, value)))
    if isinstance(value, dict):
        return (dict, tuple((k, inside(v)) for k, v in value.items()))
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return ("key", str(jax.random.key_impl(value)), inside(jax.random.key_data(value)))
    if isinstance(value, (np.ndarray, jax.Array)):
        array = np.asarray(value)
        return ("array", array.shape, array.dtype.str, array.tobytes())
    if value is None or isinstance(value, (*_CONSTANTS, type)):
        return (type(value), value)
    return ("object", type(value), id(value))


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
