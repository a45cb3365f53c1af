"""Numbers that pages quote as ``{{ module.NAME }}``, read from the code so as not to be stale."""

import importlib
import types

MODULES = ("vi.plan",)


def numbers(module: types.ModuleType) -> dict[str, str]:
    """The numbers, and tuples of them, that a module names in capitals, as text."""
    named = {name: value for name, value in vars(module).items() if name.isupper()}
    rows = {name: v if isinstance(v, tuple) else (v,) for name, v in named.items()}
    return {
        name: ", ".join(map(_show, row))
        for name, row in rows.items()
        if row and all(isinstance(value, (int, float)) for value in row)
    }


def _show(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


SUBSTITUTIONS = {
    name.rpartition(".")[2]: numbers(importlib.import_module(name)) for name in MODULES
}
