"""Recognising functions that were made anew but are the same, and same ones that have changed.

``optax.adam(1e-2)`` returns new closures at every call. Compared by identity they would be
compiled again at every fit. A model that reads a global array is one function before and after
the array changes. So functions are compared by their code and by what it reads.
"""

import functools
import hashlib
import sysconfig
import types
import weakref
from collections.abc import Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_CONSTANTS = (bool, int, float, complex, str, bytes)
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")})


def structural_key(value: Any, _seen: frozenset = frozenset()) -> Hashable:
    """A hashable key, equal for functions of the same code that read equal values.

    It looks into closures, defaults, globals (but not into functions of installed packages),
    attributes of objects of the user's own classes, and anything that NumPy can read, by content.

    Args:
      value: a function, or any other value.

    Returns:
      The key. Objects it cannot look into are told apart by identity, and equal to none that is
      made after they are gone.
    """
    if isinstance(value, _CONSTANTS) or value is None:
        return (type(value), value)
    if id(value) in _seen:
        return "cycle"
    seen = _seen | {id(value)}
    inside = functools.partial(structural_key, _seen=seen)
    if isinstance(value, types.FunctionType):
        cells = tuple(inside(_cell(cell)) for cell in value.__closure__ or ())
        defaults = inside(value.__defaults__), inside(value.__kwdefaults__)
        names = ((name, value.__globals__.get(name)) for name in _names(value.__code__))
        uses = tuple((name, inside(x)) for name, x in names if _is_users(x))
        return ("function", value.__code__, Same(value.__globals__), cells, defaults, uses)
    if isinstance(value, types.MethodType):
        return ("method", inside(value.__func__), inside(value.__self__))
    if isinstance(value, functools.partial):
        return ("partial", inside(value.func), inside(value.args), inside(value.keywords))
    if isinstance(value, (tuple, list)):
        return (type(value), tuple(map(inside, value)))
    if isinstance(value, dict):
        return (dict, tuple((inside(k), inside(v)) for k, v in value.items()))
    if isinstance(value, (Tracer, type, types.ModuleType)):
        return Same(value)
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return ("key", str(jax.random.key_impl(value)), inside(jax.random.key_data(value)))
    if hasattr(value, "__array__"):
        return _contents(value, inside)
    attributes = getattr(value, "__dict__", None)
    if attributes and not _is_library(type(value).__module__):
        return ("object", type(value), inside(attributes))
    return Same(value)


class Same:
    """An object as a key, equal to itself alone: also when it is gone and its address is reused.

    It is not kept alive, unless Python cannot refer to it weakly.
    """

    def __init__(self, value: Any):
        self._number = id(value)
        try:
            self._get: Any = weakref.ref(value)
        except TypeError:
            self._get = lambda: value

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Same):
            return NotImplemented
        value = self._get()
        return self is other or (value is not None and value is other._get())

    def __hash__(self) -> int:
        return hash((Same, self._number))


def _contents(value: Any, inside: Any) -> Hashable:
    """The key of what NumPy can read: arrays, data frames, series."""
    array = np.asarray(value)
    named = tuple(map(str, getattr(value, "columns", ())))
    if array.dtype.kind == "O":
        return ("objects", type(value), named, array.shape, inside(array.tolist()))
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    if array is value:
        _check_unchanged(value, digest)
    return ("array", type(value), named, array.shape, array.dtype.str, digest)


_DIGESTS: dict[int, tuple[Any, str]] = {}  # of NumPy arrays seen, by identity


def _check_unchanged(array: np.ndarray, digest: str) -> None:
    """Raise a `ValueError` if an array that was seen before has been written to.

    JAX compiles the values of arrays that a function reads, and knows such an array by identity.
    """
    reference, before = _DIGESTS.get(id(array), (None, digest))
    if reference is not None and reference() is array and before != digest:
        raise ValueError(
            f"vi: expected arrays that a function reads to stay as they are; one of shape "
            f"{list(array.shape)} was written to after a fit, and JAX would go on with its old "
            "values. Pass data as arguments of the model, or make a new array."
        )
    number = id(array)
    forget = lambda _: _DIGESTS.pop(number, None)
    _DIGESTS[number] = (weakref.ref(array, forget), digest)


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that a function's code, and that of functions inside it, looks up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_users(value: Any) -> bool:
    """Whether a global may be replaced: all but modules, classes and functions of libraries."""
    if isinstance(value, (types.ModuleType, type)) or value is None:
        return False
    if isinstance(value, types.FunctionType):
        return not value.__code__.co_filename.startswith(_LIBRARIES)
    return True


@functools.cache
def _is_library(module: str) -> bool:
    """Whether a class comes from an installed package or the standard library."""
    import sys

    file = getattr(sys.modules.get(module), "__file__", None)
    return module == "builtins" or (file is not None and file.startswith(_LIBRARIES))


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
