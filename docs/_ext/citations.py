"""Papers that docstrings cite: each must be in the bibliography, and where it is used is listed.

A docstring cites a paper by authors, year and title, ``Lin, Schmidt and Khan (2020), "Handling
..."``, and says which equation, algorithm or section it means. ``{citations}`` lists them all.
"""

import ast
import importlib
import pathlib
import re
from typing import NamedTuple

import api
from docutils import nodes
from methods import table
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
ROOT = api.DOCS.parent
_WORD = (
    r"(?:[Aa]lgorithms?|[Ss]ections?|Sec\.|Eqs?\.|[Ee]quations?|[Tt]heorems?|[Pp]ropositions?"
    r"|[Ll]emmas?|[Cc]orollary|[Aa]ppendix|[Tt]ables?|[Cc]hapters?)"
)
_PLAIN = r"(?:[A-Z]?\.?\d+(?:\.\d+)*|[IVX]+|[A-Z])(?![A-Za-z])"
_NUMBER = rf"(?:\({_PLAIN}\)|{_PLAIN})"
_SPAN = rf"{_WORD} {_NUMBER}(?:(?:, | and | to ){_NUMBER})*"
_LOCATOR = rf"{_SPAN}(?:(?:,? and |, ){_SPAN})*"
_TITLE = re.compile(rf'\(?(\d{{4}})\)?, "([^"]+?)[,.]?"(?:[,;]?\s+({_LOCATOR}))?')
_ENTRY = re.compile(r"@\w+\{[^,]+,(.*?)\n\}", re.DOTALL)


class Citation(NamedTuple):
    """One mention of a paper."""

    title: str
    place: str  # the object whose docstring mentions it
    locator: str  # equation, algorithm or section; may be empty


def plain(title: str) -> str:
    """A title for comparison: letters and digits only, in lower case."""
    return re.sub(r"[^a-z0-9]", "", title.lower())


def cited(packages: list[str]) -> list[Citation]:
    """All mentions of papers in the docstrings of packages."""
    found = []
    for top in sorted({package.partition(".")[0] for package in packages}):
        for path in sorted((ROOT / top).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            module = module.removesuffix(".__init__")
            for name, text in _docstrings(path):
                place = f"{module}.{name}" if name else module
                for _, title, locator in _TITLE.findall(" ".join(text.split())):
                    found.append(Citation(title, place, locator[:1].upper() + locator[1:]))
    return found


def _docstrings(path: pathlib.Path) -> list[tuple[str, str]]:
    """Names and docstrings of a file: of the module, its functions and classes."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    tree = ast.parse(path.read_text())
    out = [("", ast.get_docstring(tree) or "")]
    for node in tree.body:
        if isinstance(node, kinds):
            out.append((node.name, ast.get_docstring(node) or ""))
    return out


def bibliography() -> dict[str, str]:
    """``{plain title: title}`` of the bibliography."""
    out = {}
    for body in _ENTRY.findall((api.DOCS / "references.bib").read_text()):
        title = re.search(r"\btitle\s*=\s*\{(.*?)\},?\n", body + "\n", re.DOTALL)
        if title:
            text = re.sub(r"[{}]", "", " ".join(title.group(1).split()))
            out[plain(text)] = text
    return out


def entry(cited_as: str, titles: dict[str, str]) -> str | None:
    """The title that a docstring cites, which it may give without the end; None if there is none.

    Args:
      cited_as: what the docstring says.
      titles: of `bibliography`.
    """
    short = plain(cited_as)
    if short in titles:
        return titles[short]
    longer = [title for full, title in titles.items() if full.startswith(short)]
    return longer[0] if len(longer) == 1 else None


class Citations(SphinxDirective):
    """A table of papers: where each is used, and which of its equations."""

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        titles = bibliography()
        public = _public(self.config.public_packages)
        places: dict[str, list[tuple[str, str]]] = {}
        for citation in cited(self.config.public_packages):
            title = entry(citation.title, titles)
            if title is None:
                continue  # `check` has said so
            name = public.get(citation.place)
            link = f"`{name}`" if name else f"``{citation.place}``"
            places.setdefault(title, []).append((link, citation.locator))
        rows = [
            [title if number == 0 else "", *place]
            for title in sorted(places)
            for number, place in enumerate(places[title])
        ]
        return [table(["Paper", "Used in", "Where in the paper"], rows)]


def _public(packages: list[str]) -> dict[str, str]:
    """``{where it is defined: the name it is exported by}``."""
    out = {}
    for package in packages:
        module = importlib.import_module(package)
        for name in api.public_names(package):
            thing = getattr(module, name)
            out[f"{thing.__module__}.{thing.__name__}"] = f"{package}.{name}"
    return out


def check(app: Sphinx) -> None:
    """Warn of every paper that a docstring cites and the bibliography lacks."""
    titles = bibliography()
    for citation in cited(app.config.public_packages):
        if entry(citation.title, titles) is None:
            logger.warning('references.bib lacks "%s", cited by %s', citation.title, citation.place)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("citations", Citations)
    app.connect("builder-inited", check)
    return {"parallel_read_safe": True}
