"""The house: imports point down, none goes round, and importing is light."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FLOORS = {"optim": 0, "vi": 1, "flows": 2, "gp": 2, "samplers": 2}
PACKAGES = [name for name in FLOORS if (ROOT / name).is_dir()]
FILES = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path): path for path in FILES}


def imported(path, *, everywhere):
    """Modules of ours that a file imports: when it is imported itself, or also in functions."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else tree.body
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in NAMES else node.module for name in full}
    return {name for name in found if name.split(".")[0] in FLOORS}


def test_imports_point_down():
    wrong = []
    for path in FILES:
        here = path.relative_to(ROOT).parts[0]
        for name in imported(path, everywhere=True):
            there = name.split(".")[0]
            lazy = path.name == "upstairs.py" and there == "flows"
            if there != here and FLOORS[there] >= FLOORS[here] and not lazy:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_no_circles():
    graph = {name: imported(path, everywhere=False) - {name} for name, path in NAMES.items()}
    done, open_ = set(), []

    def visit(name):
        assert name not in open_, f"circle: {[*open_, name]}"
        if name in done or name not in graph:
            return
        open_.append(name)
        for other in sorted(graph[name]):
            visit(other)
        open_.pop()
        done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_small_and_say_what_they_hold(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    assert ast.get_docstring(ast.parse(text))


def test_faces_export_what_they_say():
    import flows
    import gp
    import gp.kernels
    import gp.last_layers
    import gp.likelihoods
    import optim
    import samplers.filters
    import samplers.particles
    import vi
    import vi.distances
    import vi.gaussian

    packages = flows, gp, gp.kernels, gp.last_layers, gp.likelihoods, optim
    packages += samplers.filters, samplers.particles, vi, vi.distances, vi.gaussian
    for package in packages:
        assert list(package.__all__) == sorted(package.__all__, key=_isort)
        for name in package.__all__:
            assert getattr(package, name).__doc__


def _isort(name):
    """Constants, classes, functions: the order of ruff's RUF022."""
    return (not name.isupper(), not name[0].isupper(), name)


@pytest.mark.parametrize("name", PACKAGES)
def test_importing_is_light(name):
    """Heavy packages are imported where they are needed, not before."""
    code = f"import sys, {name}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "numpyro",
        "blackjax",
        "distrax",
        "arviz",
        "matplotlib",
        "pandas",
        "xarray",
        "scipy",
    } | {"matfree", "lineax", "flax"}
    assert "jax" in done.stdout.split()
    assert not heavy & set(done.stdout.split())


def test_every_package_is_typed():
    for name in PACKAGES:
        assert (ROOT / name / "py.typed").exists()
