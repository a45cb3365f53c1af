"""The reference: a page for each public package, made of its ``__all__``, and a check of it.

Names are grouped by the room of the package that defines them; the room's own docstring is the
heading. After the build, a public name without an entry or a docstring is an error.
"""

import importlib
import inspect
import pathlib
import re
import types
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

DOCS = pathlib.Path(__file__).parent.parent
WHERE = DOCS / "reference" / "api"


def public_names(package: str) -> list[str]:
    """What ``__all__`` exports, less modules, which have pages of their own."""
    module = importlib.import_module(package)
    names = sorted(module.__all__, key=str.lower)
    return [name for name in names if not isinstance(getattr(module, name), types.ModuleType)]


def filename_map(packages: list[str]) -> dict[str, str]:
    """Other names for the pages of functions that differ from a class in case only.

    Some file systems take ``vi.target`` and ``vi.Target`` for one.
    """
    out = {}
    for package in packages:
        names = public_names(package)
        for name in names:
            twins = [other for other in names if other.lower() == name.lower()]
            if len(twins) > 1 and name.islower():
                out[f"{package}.{name}"] = f"{package}.{name}-function"
    return out


def summary(thing: Any) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0].strip()


def rooms(package: str) -> dict[str, list[str]]:
    """Public names by the room, a module or folder of the package, that defines them."""
    module = importlib.import_module(package)
    depth = package.count(".") + 1
    found: dict[str, list[str]] = {}
    for name in public_names(package):
        home = getattr(module, name).__module__.split(".")
        found.setdefault(".".join(home[: depth + 1]), []).append(name)
    last = ("errors", "status")
    return dict(sorted(found.items(), key=lambda item: (item[0].endswith(last), item[0])))


def page(package: str) -> str:
    """The page of a package, in reStructuredText."""
    title = f"``{package}``"
    lines = [title, "=" * len(title), "", summary(importlib.import_module(package)), ""]
    for room, names in rooms(package).items():
        heading = room.removeprefix(package + ".").replace("_", " ").capitalize()
        if heading == "Svi":
            heading = "SVI"
        lines += [heading, "-" * len(heading), "", summary(importlib.import_module(room)), ""]
        lines += [".. autosummary::", f"   :toctree: {package}", "   :nosignatures:", ""]
        lines += [f"   {package}.{name}" for name in names]
        lines += [""]
    return "\n".join(lines)


def write_pages(app: Sphinx, config: Any) -> None:
    """Write the pages before Sphinx looks for its sources; drop those of names that are gone."""
    WHERE.mkdir(parents=True, exist_ok=True)
    renamed = filename_map(config.public_packages)
    for package in config.public_packages:
        names = [f"{package}.{name}" for name in public_names(package)]
        current = {f"{renamed.get(name, name)}.rst" for name in names}
        for stub in (WHERE / package).glob("*.rst"):
            if stub.name not in current:
                stub.unlink()
        path, text = WHERE / f"{package}.rst", page(package)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def check(app: Sphinx, env: Any) -> None:
    """Every public name must be in the reference, and say what it is."""
    documented = env.get_domain("py").objects
    problems = []
    for package in app.config.public_packages:
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, types.ModuleType):
                if thing.__name__ not in app.config.public_packages:
                    problems.append(f"{package}.{name} is a package without a page")
            elif f"{package}.{name}" not in documented:
                problems.append(f"{package}.{name} has no entry in the reference")
            elif not summary(thing):
                problems.append(f"{package}.{name} has no docstring")
    if problems:
        raise ExtensionError("Public names and the reference differ: " + "; ".join(problems) + ".")


def skip(app: Sphinx, what: str, name: str, thing: Any, *rest: Any) -> bool | None:
    """Leave out the fields of named tuples, whose docstrings say nothing."""
    if type(thing).__name__ == "_tuplegetter":
        return True
    return None


def symbols(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Keep a field that is one letter, "num_particles: K.", from being read as a list's label."""
    lines[:] = [re.sub(r"^(\s+[\w*, ]+: )(\w\.(?:\s|$))", r"\1\\\2", line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_config_value("public_packages", [], "env")
    app.connect("config-inited", write_pages)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", symbols, priority=400)  # before Napoleon
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}
