"""Errors that users can meet, each with a way out in its message."""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

# What JAX raises when a model looks at the value of traced data.
LOOKS_AT_DATA = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)

_SHOWN = 12  # arguments in a message


class TargetError(ValueError):
    """The model or log density cannot be a target; the message names the site and the way out.

    Raised for discrete or unnormalised latent sites, sites whose shapes do not fit one another, and
    whatever a model itself raises when it is traced. Nothing has been computed by then.
    """


class NonFiniteTargetError(TargetError):
    """The log density or its gradient is not finite wherever the fit tried to start.

    The message names the site, and the first datum, that make it so: a support that excludes the
    data, an overflow, a NaN among the data. ``init=`` gives `vi.fit` another place to start from.
    """


class FitError(RuntimeError):
    """A fit broke down and was asked to raise; ``posterior`` holds the last good state.

    Only with ``vi.fit(..., on_failure="raise")``; by default a fit that breaks down warns and
    returns that posterior, with the verdict *failed*.

    Attributes:
      posterior: as the fit was before it broke down.
    """

    def __init__(self, message: str, posterior: Any):
        super().__init__(message)
        self.posterior = posterior


class CheckpointError(ValueError):
    """A file is not a complete checkpoint or posterior of the expected structure.

    It was cut short, was written by another model, family or data, or is no such file. A file is
    replaced only by a whole one, and the one before is kept as ``NAME.previous``.
    """


def describe(tree: Any) -> str:
    """Shapes and dtypes of a pytree's arrays, for messages."""

    def one(leaf: Any) -> str:
        if _is_array(leaf):
            return f"{leaf.dtype}{list(leaf.shape)}"
        return repr(leaf) if isinstance(leaf, (int, float, bool, str)) else type(leaf).__name__

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    said = [f"{_path(path)}: {one(leaf)}" for path, leaf in leaves[:_SHOWN]]
    if len(leaves) > _SHOWN:
        said.append(f"and {len(leaves) - _SHOWN} more (give a list of numbers as an array)")
    return ", ".join(said)


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def check_call(
    model: Callable, args: tuple, kwargs: dict, owner: str, options: Collection[str] = ()
) -> None:
    """Raise a `TypeError` that names the model's own parameters if the call does not fit it.

    Args:
      model: what is to be called.
      args: its arguments.
      kwargs: its keyword arguments.
      owner: who calls.
      options: names of the owner's own options, for one that was misspelt.
    """
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):
        return  # a builtin or a handler without a signature: its own error will have to do
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        inner = getattr(model, "func", model)  # of a functools.partial
        name = getattr(inner, "__name__", type(inner).__name__)
        strange = [given for given in kwargs if given not in signature.parameters]
        close = [c for s in strange for c in difflib.get_close_matches(s, options, 1)]
        meant = f" Did you mean {', '.join(close)}?" if close else ""
        others = (
            f" Arguments that are not options of {owner} are passed on to the model: check their "
            "names and number."
        )
        raise TypeError(
            f"{owner}: expected arguments of {name}{_brief(signature)}; {error}."
            f"{others if options else ''}{meant}"
        ) from None


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (np.ndarray, jax.Array))


class _Bare(str):
    """Text that shows itself without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _brief(signature: inspect.Signature) -> inspect.Signature:
    """A signature that tells of arrays among its defaults their dtype and shape only."""
    shown = [
        p.replace(default=_Bare(f"{p.default.dtype}{list(p.default.shape)}"))
        if _is_array(p.default)
        else p
        for p in signature.parameters.values()
    ]
    return signature.replace(parameters=shown)


@contextmanager
def blame_model(owner: str, args: tuple, kwargs: dict) -> Iterator[None]:
    """Turn an error raised while a user's model runs into one that shows what it was given."""
    try:
        yield
    except (TargetError, *LOOKS_AT_DATA):
        raise
    except (ValueError, TypeError, IndexError, KeyError) as error:
        given = describe((*args, kwargs)) or "no arguments"
        raise TargetError(
            f"{owner}: the model raised {type(error).__name__} when traced: {error} "
            f"It was given: {given}. Check the shapes and dtypes of the data."
        ) from error
