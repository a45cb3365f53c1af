"""What tells models apart, so that what was compiled for one is used again for the same one."""

import collections.abc
import weakref
from collections.abc import Callable, Hashable

from vi.structural import Same, structural_key

_RESTLESS: weakref.WeakSet = weakref.WeakSet()  # models that change what they read


def model_key(model: Callable) -> Hashable:
    """A key of a model: its code and what it reads; identity if running it changes that."""
    function = getattr(model, "__func__", model)
    if isinstance(function, collections.abc.Hashable) and function in _RESTLESS:
        return (Same(function), Same(getattr(model, "__self__", function)))
    return structural_key(model)


def key_after_run(model: Callable, before: Hashable) -> Hashable:
    """The key of a model that was run, by which it is known from now on.

    A model that counts its calls is the same model after them.

    Args:
      model: a model.
      before: its `model_key` before it was run.
    """
    if model_key(model) == before:
        return before
    _RESTLESS.add(getattr(model, "__func__", model))
    return model_key(model)
