"""What options of objectives and estimators must be, checked where their values are known."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from vi.program.estimators import AcceptReject, Implicit, Relaxed, RunningScore, Score
from vi.program.scores import BASELINES


class Requirement(NamedTuple):
    """What an option must be.

    Attributes:
      says: in words, to follow the option's name.
      holds: whether a value is so, entry by entry.
    """

    says: str
    holds: Callable[[Any], Any]


def is_count(x: Any) -> bool:
    """Whether it is a positive integer."""
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool) and bool(x >= 1)


def _is_pair(x: Any) -> bool:
    return x is None or (isinstance(x, tuple) and len(x) == 2 and all(map(callable, x)))


POSITIVE = Requirement("> 0", lambda x: x > 0)
NOT_NEGATIVE = Requirement(">= 0", lambda x: x >= 0)
SEVERAL = Requirement(">= 2", lambda x: x >= 2)
COUNT = Requirement(">= 1, an integer", is_count)

_OF_ESTIMATORS: dict[type, dict[str, Requirement]] = {
    AcceptReject: {
        "augment": COUNT,
        "transform": Requirement("a pair of functions, h and its inverse, or None", _is_pair),
    },
    Implicit: {"cdf": Requirement("a function or None", lambda x: x is None or callable(x))},
    Relaxed: {"temperature": POSITIVE},
    RunningScore: {"decay": Requirement("in [0, 1)", lambda x: (x >= 0) & (x < 1))},
    Score: {
        "baseline": Requirement(
            f"out of {BASELINES}, or a function", lambda x: callable(x) or x in BASELINES
        )
    },
}


def check_options(owner: str, options: dict[str, Any], requires: dict[str, Requirement]) -> None:
    """Raise a `ValueError` for an option that is not what it must be.

    Args:
      owner: of the options, for the message.
      options: their values; those that are traced are let through.
      requires: requirements by name.
    """
    for name, requirement in requires.items():
        value = options.get(name)
        if name not in options or isinstance(value, Tracer):
            continue
        known = np.asarray(value) if isinstance(value, jax.Array) else value  # also inside jit
        try:
            good = bool(np.all(requirement.holds(known)))
        except TypeError:
            good = False
        if not good:
            raise ValueError(f"{owner}: expected {name} {requirement.says}; got {value!r}.")


def check_estimator_options(owner: str, how: Any) -> None:
    """Raise a `ValueError` for an estimator with an option that is out of its range."""
    requires = _OF_ESTIMATORS.get(type(how), {})
    check_options(owner, {name: getattr(how, name) for name in requires}, requires)
