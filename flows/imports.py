"""distrax, imported where it is first needed and without the warning of one of its packages."""

import functools
import warnings
from types import ModuleType


@functools.cache
def load_distrax() -> ModuleType:
    """The module `distrax`; its import takes a second and announces a deprecation in TFP."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import distrax
    return distrax
