"""Pages as they stand in the repository: numbers are the code's, links lead somewhere."""

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from vi.gaussian import starts

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    + [p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts]
)
MODULES = (
    "vi.ladder",
    "vi.plan",
    "vi.stochastic",
    "vi.gaussian.candidates",
    "vi.gaussian.chunk",
    "vi.gaussian.refine",
    "vi.gaussian.search",
    "vi.gaussian.solve",
    "vi.gaussian.stopping",
    "vi.posterior.verdict",
)
VERDICT, INSIDE, TUTORIAL = (
    "docs/explanation/read_a_verdict.md",
    "docs/explanation/what_fit_does.md",
    "docs/tutorials/fit_check_trust.md",
)
# Where a page states a number that the code names: the words about it, and the name.
NUMBERS = [
    (VERDICT, "Up to about {verdict.LIMIT} importance sampling works"),
    (VERDICT, "the grade asks for a margin of {verdict.CONFIDENCE} of them"),
    (VERDICT, "k-hat is not below {verdict.LIMIT}, the weights are not nearly even"),
    (VERDICT, "fewer than {verdict.EFFECTIVE:percent} of the draws are effective"),
    (VERDICT, "an optimum with more than {verdict.MISSED[0]:percent} of the mass"),
    (VERDICT, "a moment moves by more than {verdict.SHIFT[1]}."),
    (VERDICT, "k-hat + {verdict.CONFIDENCE} standard errors is below {verdict.LIMIT}; k-hat"),
    (VERDICT, "no moment moves by more than {verdict.SHIFT[0]};"),
    (VERDICT, "no more than {verdict.MISSED[1]:percent} of the mass is missed"),
    (VERDICT, "or a moment moves by {verdict.SHIFT[0]} to {verdict.SHIFT[1]}."),
    (TUTORIAL, "k-hat + {verdict.CONFIDENCE} standard errors is below {verdict.LIMIT}; k-hat"),
    (TUTORIAL, "no mean or standard deviation by more than {verdict.SHIFT[0]} |"),
    (TUTORIAL, "| k-hat is below {verdict.LIMIT}, but k-hat + {verdict.CONFIDENCE} standard"),
    (TUTORIAL, "or a moment moves by {verdict.SHIFT[0]} to {verdict.SHIFT[1]};"),
    (TUTORIAL, "| k-hat is above {verdict.LIMIT}, the weights are not nearly even, and more"),
    (TUTORIAL, "more than {verdict.UNSEEN:percent} of a variance lies beyond the draws"),
    (VERDICT, "Up to {verdict.UNSEEN:percent} in each batch of draws is called little"),
    (TUTORIAL, "fewer than {verdict.EFFECTIVE:percent} of the draws are effective"),
    (TUTORIAL, "a moment moves by more than {verdict.SHIFT[1]};"),
    (TUTORIAL, "more than {verdict.MISSED[0]:percent} of the mass is at an optimum"),
    (TUTORIAL, "to mixtures of {ladder.COMPONENTS} Gaussians, then"),
    (TUTORIAL, "RealNVP flow, until k-hat is below {verdict.LIMIT}, importance weights move no"),
    (TUTORIAL, "importance weights move no moment by more than {ladder.MOVED} and"),
    (TUTORIAL, "a budget of {ladder.BUDGET} gradients"),
    (TUTORIAL, "as far as k-hat is below {verdict.LIMIT}"),
    ("README.md", "Below {verdict.LIMIT} the fit is usable"),
    ("README.md", "whose k-hat is below {verdict.LIMIT}, whose importance weights move no moment"),
    ("README.md", "no moment by more than {ladder.MOVED} and"),
    ("docs/explanation/which_optimizer.md", "takes Adam beyond {plan.MAX_TUNING_FREE} coordinates"),
    (INSIDE, "Up to D = {solve.MAX_DENSE}, $L$ is dense"),
    (INSIDE, "The rotation changes after {search.MOVES_PER_ROTATION} moves"),
    (INSIDE, "where {search.STALE} rotations in a row"),
    (INSIDE, "It gives up after {solve.MAX_SEARCH_STEPS} steps"),
    (INSIDE, "narrowed up to {search.MAX_SHRINKS} times"),
    (INSIDE, "There are up to {solve.NUM_STARTS} starts"),
    (INSIDE, "Up to {candidates.MAX_RIVALS} ends elsewhere"),
    (INSIDE, "steps have momentum {refine.MOMENTUM}, and the gain starts at {refine.GAIN} "),
    (INSIDE, "chunks of {chunk.CHUNK} steps and averages"),
    (INSIDE, "up to {solve.MAX_CYCLES} cycles, or {solve.MORE_CYCLES} more"),
    (INSIDE, "plus {stopping.CONFIDENCE} standard errors is below {stopping.STEP_TOLERANCE} nats"),
    (INSIDE, "costs less than {stopping.NOISE_TOLERANCE} nats"),
    (INSIDE, "a factor of {plan.RANK} columns"),
    (INSIDE, "mixtures of {ladder.COMPONENTS} Gaussians"),
    (INSIDE, "it uses {plan.PARTICLES} draws a step"),
    (INSIDE, "clipped at {plan.CLIP} times"),
    (INSIDE, "With more than {plan.MAX_TUNING_FREE} coordinates"),
    (INSIDE, "Adam with learning rate {plan.LEARNING_RATE}."),
    (INSIDE, "chunks of {stochastic.CHUNK} steps, after {stochastic.LOOKS} of them"),
    (INSIDE, "rises by less than {stochastic.TOLERANCE} nats"),
    (INSIDE, "has not moved for {stochastic.MAX_RESTS} steps in a row"),
    (INSIDE, "falls {plan.DECAYS} times to {stochastic.DECAY} of itself"),
]


class Number(float):
    """A number as pages write it: ``0.7``, ``1,000``, and ``5 %`` where that is asked for."""

    def __format__(self, form: str) -> str:
        if form == "percent":
            return f"{100 * self:g} %"
        return f"{int(self):,}" if self.is_integer() else f"{float(self):g}"


class Numbers(tuple):
    def __format__(self, form: str) -> str:
        return ", ".join(format(number, form) for number in self)


def constants() -> dict[str, SimpleNamespace]:
    """The numbers, and tuples of them, that modules name in capitals, by module."""
    found = {}
    for module in MODULES:
        named = {k: v for k, v in vars(importlib.import_module(module)).items() if k.isupper()}
        shown = {k: Number(v) for k, v in named.items() if isinstance(v, (int, float))}
        for name, row in named.items():
            if isinstance(row, tuple) and all(isinstance(v, (int, float)) for v in row):
                shown[name] = Numbers(map(Number, row))
        found[module.rpartition(".")[2]] = SimpleNamespace(**shown)
    found["solve"].NUM_STARTS = Number(len(starts.STARTS))
    return found


def text(path: Path) -> str:
    """A page's text, with lines joined."""
    return " ".join(path.read_text().split())


@pytest.mark.parametrize(("page", "words"), NUMBERS, ids=lambda x: x[-40:])
def test_numbers_are_those_of_the_code(page, words):
    assert "{" in words
    assert words.format(**constants()) in text(ROOT / page)


def test_a_number_that_is_not_the_codes_is_noticed():
    """The twin of the test above: with another limit its sentences are not found."""
    others = constants()
    others["verdict"].LIMIT = Number(0.8)
    words = [words for page, words in NUMBERS if page == VERDICT and "verdict.LIMIT}" in words]
    assert words
    assert not any(w.format(**others) in text(ROOT / VERDICT) for w in words)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_pages_are_readable_in_the_repository(path):
    """Nothing is left to be substituted, links have words, and those to files lead to files."""
    page = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
    assert "{{" not in page
    links = re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", page)
    for words, to in links:
        assert words, f"a link to {to} has no words"
        if not re.match(r"https?:|#|(\.\./)?reference/api/", to):  # that is made when built
            assert (path.parent / to.partition("#")[0]).exists(), f"no file {to}"


def test_the_index_leads_to_every_page():
    index = (ROOT / "docs" / "index.md").read_text()
    for path in (ROOT / "docs").glob("*/*.md"):
        folder = path.parent.name
        assert f"{folder}/{path.stem}\n" in index or f"{folder}/*\n" in index, path.name


# Faces between rooms: users find their names in the package above, but for these. What a user needs
# is exported there, or its package is added to docs/conf.py and to the index.
INTERNAL = {
    "gp.kernels": {"Stationary", "Zonal"},
    "gp.likelihoods": set(),
    "gp.tensor": {"Core", "Factor", "State"},
    "gp.within": {"Neighbours", "Within", "WithinRun"},
    "vi.families": set(),
    "vi.posterior": {"Drawn", "Psis", "diagnose", "psis"},
    "vi.program": {"GradientNoise", "ReferenceNoise", "with_estimator"},
    "vi.targets": {"Layout", "StreamedTarget"},
}


def faces():
    """Packages that say what they export."""
    found = set()
    for top in ("optim", "vi", "flows", "gp", "samplers"):
        for path in (ROOT / top).rglob("__init__.py"):
            if "__all__" in path.read_text():
                found.add(".".join(path.parent.relative_to(ROOT).parts))
    return found


def pages_of_the_reference():
    for node in ast.parse((ROOT / "docs" / "conf.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "public_packages":
            return ast.literal_eval(node.value)
    raise AssertionError("docs/conf.py has no public_packages")


def missing_names(pages):
    """``{package: names}`` that packages export and no page of the reference has."""
    modules = {package: importlib.import_module(package) for package in faces()}
    shown = {id(getattr(modules[p], name)) for p in pages for name in modules[p].__all__}
    missing = {}
    for package, module in modules.items():
        exported = {name: getattr(module, name) for name in module.__all__}
        lost = {n for n, x in exported.items() if id(x) not in shown}
        missing[package] = {n for n in lost if not isinstance(exported[n], ModuleType)}
    return {package: names for package, names in missing.items() if names}


def test_every_public_name_has_a_place_in_the_reference():
    """The build then checks that each has an entry with a docstring (`docs/_ext/api.py`)."""
    pages = pages_of_the_reference()
    assert sorted(set(pages) | set(INTERNAL)) == sorted(faces())
    assert missing_names(pages) == {p: names for p, names in INTERNAL.items() if names}
    index = (ROOT / "docs" / "index.md").read_text()
    for package in pages:
        assert f"\nreference/api/{package}\n" in index


def test_a_package_without_a_page_is_noticed():
    """The twin of the test above."""
    pages = [page for page in pages_of_the_reference() if page != "samplers.filters"]
    assert "particle_filter" in missing_names(pages)["samplers.filters"]
