"""Errors that users can meet, each with a way out in its message."""

import inspect
from collections.abc import Callable, Iterator
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


class TargetError(ValueError):
    """The model or log density cannot be a target; the message names the site and the way out."""


class NonFiniteTargetError(TargetError):
    """The log density or its gradient is not finite wherever the fit tried to start."""


class FitError(RuntimeError):
    """A fit broke down and was asked to raise; ``posterior`` holds the last good state."""

    def __init__(self, message: str, posterior: Any):
        super().__init__(message)
        self.posterior = posterior


class CheckpointError(ValueError):
    """A file is not a complete checkpoint or posterior of the expected structure."""


def describe(tree: Any) -> str:
    """Shapes and dtypes of a pytree's arrays, for messages."""

    def one(leaf: Any) -> str:
        if isinstance(leaf, (np.ndarray, jax.Array)):
            return f"{leaf.dtype}{list(leaf.shape)}"
        return repr(leaf) if isinstance(leaf, (int, float, bool, str)) else type(leaf).__name__

    return ", ".join(
        f"{jax.tree_util.keystr(path, simple=True, separator='.')}: {one(leaf)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    )


def check_call(model: Callable, args: tuple, kwargs: dict, owner: str) -> None:
    """Raise a `TypeError` that names the model's own parameters if the call does not fit it."""
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):
        return  # a builtin or a handler without a signature: its own error will have to do
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(model, "__name__", type(model).__name__)
        raise TypeError(
            f"{owner}: expected arguments of {name}{signature}; {error}. Arguments that are not "
            f"options of {owner} are passed on to the model: check their names and number."
        ) from None


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
