"""Tables of methods, made from the packages and from the registry of the contract tests.

``{methods} objectives`` (estimators, families, flows, samplers, distances, kernels, likelihoods)
lists what the packages export, as ``{optimizers}`` of `optimizers` does for those;
``{contracts}`` lists what ``tests/contracts.py`` registers, every table of it; ``{matrix}`` shows
the combinations of objective, estimator and site that ``tests/matrix.py`` registers.
"""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any, get_args

import api
import jax.numpy as jnp
import optax
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from vi.program import Objective
from vi.program.estimators import SiteEstimator


def is_objective(thing: Any) -> bool:
    """Whether a function makes an objective: `vi.objective` wraps the program."""
    if not inspect.isfunction(thing):
        return False
    closure = inspect.getclosurevars(thing).globals
    return hasattr(thing, "__wrapped__") and closure.get("Objective") is Objective


def is_estimator(thing: Any) -> bool:
    """Whether a class is one of the estimators of sites, or gives gradients itself."""
    if not inspect.isclass(thing) or issubclass(thing, Objective):
        return False
    if thing in get_args(SiteEstimator):
        return True
    call = vars(thing).get("__call__")
    return call is not None and list(inspect.signature(call).parameters)[1:3] == ["key", "q"]


def is_family(thing: Any) -> bool:
    """Whether a class or function is from the room of families."""
    return getattr(thing, "__module__", "").startswith("vi.families")


def is_flow(thing: Any) -> bool:
    """Whether a class or function is exported by the package of flows."""
    return getattr(thing, "__module__", "").startswith("flows.")


def is_distance(thing: Any) -> bool:
    """Whether a function is from the room of distances."""
    where = getattr(thing, "__module__", "")
    return callable(thing) and not inspect.isclass(thing) and where.startswith("vi.distances")


def is_sampler(thing: Any) -> bool:
    """Whether a function or an algorithm is of the package of samplers."""
    where = getattr(thing, "__module__", "")
    if inspect.isclass(thing):
        return where == "samplers.algorithms"
    return where.startswith("samplers.") and callable(thing)


def is_kernel(thing: Any) -> bool:
    """Whether a class or function is from the room of covariance functions."""
    return getattr(thing, "__module__", "").startswith("gp.kernels")


def is_likelihood(thing: Any) -> bool:
    """Whether a class or function is from the room of likelihoods, and is one."""
    inside = getattr(thing, "__module__", "").startswith("gp.likelihoods.")
    return inside and thing.__module__ != "gp.likelihoods.likelihood"


def is_optimizer(thing: Any) -> bool:
    """Whether a function says that it returns an optax transformation."""
    if not inspect.isfunction(thing):
        return False
    kind = inspect.signature(thing).return_annotation
    return inspect.isclass(kind) and issubclass(kind, optax.GradientTransformation)


KINDS: dict[str, Callable[[Any], bool]] = {
    "objectives": is_objective,
    "estimators": is_estimator,
    "families": is_family,
    "flows": is_flow,
    "distances": is_distance,
    "samplers": is_sampler,
    "kernels": is_kernel,
    "likelihoods": is_likelihood,
}


def section(thing: Any, name: str) -> str:
    """The text of one section of a Google docstring, on one line; empty if it has none."""
    found = re.search(rf"^{name}:\n((?:[ ]+.*\n?)+)", inspect.getdoc(thing) or "", re.MULTILINE)
    return " ".join(found.group(1).split()) if found else ""


class Methods(SphinxDirective):
    """A table of the exported methods of one kind: name, first line, complexity."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        belongs = KINDS[self.arguments[0]]
        rows = []
        for package in self.config.public_packages:
            module = importlib.import_module(package)
            for name in api.public_names(package):
                thing = getattr(module, name)
                if belongs(thing):
                    link = f"`{package}.{name}`"
                    rows.append([link, api.summary(thing), section(thing, "Complexity")])
        if not rows:
            raise ExtensionError(f"No public {self.arguments[0]} found: has their form changed?")
        header = ["Name", "What it is", "Complexity"]
        if not any(row[2] for row in rows):
            header, rows = header[:2], [row[:2] for row in rows]
        return [table(header, rows)]


class Contracts(SphinxDirective):
    """Everything that the contract tests run, one table for each table of the registry."""

    def run(self) -> list[nodes.Node]:
        """Make the tables."""
        registry = importlib.import_module("tests.contracts")
        self.env.note_dependency(registry.__file__)
        out: list[nodes.Node] = []
        for title, entries in vars(registry).items():
            if title.isupper() and isinstance(entries, dict):
                out.append(nodes.rubric("", title.capitalize().replace("_", " ")))
                out.append(table(*_rows(entries, registry.DIM)))
        return out


class Matrix(SphinxDirective):
    """Objective x estimator: the sites for which the matrix test finds the gradient unbiased."""

    def run(self) -> list[nodes.Node]:
        """Make the table: estimators down, objectives across."""
        registry = importlib.import_module("tests.matrix")
        self.env.note_dependency(registry.__file__)
        header = ["Estimator", *(f"`vi.{name}`" for name in registry.OBJECTIVES)]
        rows = [
            [_estimator(how), *(_cell(registry.CELLS, o, name) for o in registry.OBJECTIVES)]
            for name, how in registry.ESTIMATORS.items()
        ]
        return [table(header, rows)]


def _cell(cells: dict[tuple[str, str, str], str], objective: str, estimator: str) -> str:
    """The sites with a gradient, those without bias first; or that there are none."""
    parts, tested = [], any((o, e) == (objective, estimator) for o, _, e in cells)
    for verdict, mark in (("unbiased", ""), ("biased", "**biased**: ")):
        sites = [
            site
            for (o, site, e), found in cells.items()
            if (o, e, found) == (objective, estimator, verdict)
        ]
        if sites:
            parts.append(mark + ", ".join(sites))
    return "; ".join(parts) or ("*error*" if tested else "not tested")


def _estimator(how: Any) -> str:
    """An estimator as it is written, a function among its options by what it is."""
    options = {f.name: getattr(how, f.name) for f in dataclasses.fields(how)}
    default = type(how)()
    given = [
        f"{name}=" + ("function" if callable(value) else repr(value))
        for name, value in options.items()
        if value != getattr(default, name)
    ]
    return f"`vi.{type(how).__name__}`" + (f" (``{', '.join(given)}``)" if given else "")


def _rows(entries: dict[str, Any], dim: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one table of the registry."""
    fields = [f for f in getattr(next(iter(entries.values())), "_fields", ()) if f != "make"]
    if fields:
        header = ["Entry", *(field.replace("_", " ").capitalize() for field in fields)]
        rows = [[_show(getattr(entry, field)) for field in fields] for entry in entries.values()]
    else:
        header = ["Entry", "What it makes"]
        rows = [[_made(entry, dim)] for entry in entries.values()]
    return header, [[f"``{name}``", *row] for name, row in zip(entries, rows, strict=True)]


def _made(entry: Any, dim: int) -> str:
    """What an entry that is not a named tuple stands for: a model, or a family at zero."""
    if isinstance(entry, tuple):
        return api.summary(entry[0])
    if inspect.isfunction(entry) and len(inspect.signature(entry).parameters) > 1:
        return api.summary(entry)
    try:
        return f"``{entry(jnp.zeros(dim))!r}``"
    except TypeError:
        return f"``{entry()!r}``"


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"``{name}={_short(option)}``" for name, option in value.items())
    if inspect.isfunction(value):
        package = value.__module__.partition(".")[0]
        own = package == "tests"  # a helper of the registry, which has no page
        return f"``{value.__name__}``" if own else f"`{package}.{value.__name__}`"
    return f"``{value}``" if isinstance(value, str) else f"``{value!r}``"


def _short(value: Any) -> str:
    """A number or a word; an ellipsis for what has no short form, such as a key."""
    return repr(value) if isinstance(value, (bool, int, float, str)) else "..."


# ---- nodes -----------------------------------------------------------------------------------


def table(header: list[str], rows: list[list[str]]) -> nodes.table:
    """A table of the given cells, in which backquotes mark code and names."""
    group = nodes.tgroup(cols=len(header))
    group += [nodes.colspec(colwidth=1) for _ in header]
    head, body = nodes.thead(), nodes.tbody()
    head += _row(header)
    body += [_row(row) for row in rows]
    group += [head, body]
    return nodes.table("", group, classes=["methods"])


def _row(cells: list[str]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        row += nodes.entry("", nodes.paragraph("", "", *inline(cell)))
    return row


def inline(text: str) -> list[nodes.Node]:
    """Text with formulas, ``code``, `names`, *stress* and **strong** stress, as in docstrings."""
    out: list[nodes.Node] = []
    for part in re.split(r"(:math:`[^`]+`|``[^`]+``|`[^`]+`|\*{1,2}\w+\*{1,2})", text):
        if part.startswith(":math:"):
            formula = part.removeprefix(":math:").strip("`")
            out.append(nodes.math(formula, formula))
        elif part.startswith("``"):
            out.append(nodes.literal("", part.strip("`")))
        elif part.startswith("`"):
            name = part.strip("`")
            literal = nodes.literal("", name, classes=["xref", "py"])
            out.append(pending_xref("", literal, refdomain="py", reftype="obj", reftarget=name))
        elif part.startswith("**") and part.endswith("**"):
            out.append(nodes.strong("", part.strip("*")))
        elif part.startswith("*") and part.endswith("*"):
            out.append(nodes.emphasis("", part.strip("*")))
        elif part:
            out.append(nodes.Text(part))
    return out


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("methods", Methods)
    app.add_directive("contracts", Contracts)
    app.add_directive("matrix", Matrix)
    return {"parallel_read_safe": True}
