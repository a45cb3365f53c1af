"""``python -m vi fit``: a model in a file, data in a file, results in a folder."""

import argparse
import importlib.util
import json
import pathlib
from collections.abc import Callable, Collection

import jax

from vi.command import columns
from vi.errors import TargetError
from vi.fitting import fit
from vi.posterior import Posterior


def load(where: str) -> Callable:
    """The function that ``FILE.py:FUNCTION`` names.

    Args:
      where: the path of a Python file, which is run, and the name of a function in it.

    Raises:
      ValueError: if there is no such file or no such function.
    """
    path, _, name = where.rpartition(":")
    if not path and pathlib.Path(where).is_file():
        raise ValueError(f"{where}: expected the name of a function in it, {where}:FUNCTION.")
    if not path or not pathlib.Path(path).is_file():
        raise ValueError(f"{where}: expected FILE.py:FUNCTION with a file that exists.")
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{where}: expected a Python file; got {path!r}.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        functions = [n for n, f in vars(module).items() if callable(f) and not n.startswith("_")]
        raise ValueError(f"{where}: expected a function out of {functions}; got {name!r}.")
    return found


def run(given: argparse.Namespace) -> int:
    """Fit, print the summary and the verdict, and write the results; returns the exit status."""
    model = load(given.model)
    table = columns.read(given.data)
    data = columns.arguments(model, table, given.columns)
    left = columns.without_one(model, data)
    try:
        posterior = fit(
            model, key=jax.random.key(given.seed), family=given.family, on_failure="return",
            checkpoint=given.checkpoint, progress=False if given.quiet else None, **data,
        )  # fmt: skip
    except TargetError as error:
        if not left:
            raise
        raise type(error)(f"{error} {_defaults(left, table)}") from error
    if left:
        print(_defaults(left, table))
    out = pathlib.Path(given.out)
    written = write(posterior, out, given.samples)
    print(posterior.summary(num_samples=given.samples).to_string())
    print(posterior.verdict)
    print(f"Written to {out}: {', '.join(written)}.")
    return 0 if posterior.verdict.grade in ("good", "fair") else 1


def _defaults(left: list[str], table: Collection[str]) -> str:
    names = " or ".join(map(repr, left))
    return (
        f"No column is called {names}, so the model got its default. Give it one out of "
        f"{list(table)} with --map {left[0]}=COL[,COL]."
    )


def write(posterior: Posterior, out: pathlib.Path, num_samples: int) -> list[str]:
    """Write what people and programs read of a posterior.

    Args:
      posterior: of a fit.
      out: folder, made if it does not exist.
      num_samples: draws to export and to summarise.

    Returns:
      Names of the files: ``summary.csv``, ``verdict.json`` (grade, reasons, ELBO, k-hat, cost,
      provenance), ``posterior.nc`` (for ArviZ), ``posterior.vi`` (for `Posterior.load`),
      ``marginals.png``, ``pairs.png`` and ``elbo.png``.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    posterior.summary(num_samples=num_samples).to_csv(out / "summary.csv")
    about = {
        "grade": posterior.verdict.grade,
        "verdict": posterior.verdict.text,
        "elbo": posterior.elbo,
        "elbo_sem": posterior.elbo_sem,
        "khat": posterior.khat,
        "cost": posterior.cost,
        "provenance": posterior.provenance,
    }
    (out / "verdict.json").write_text(json.dumps(about, indent=1, default=str) + "\n")
    posterior.to_datatree(num_samples).to_netcdf(out / "posterior.nc")
    posterior.save(out / "posterior.vi")
    pictures = {
        "marginals.png": posterior.plot_marginals,
        "pairs.png": posterior.plot_pairs,
        "elbo.png": posterior.plot_elbo,
    }
    for name, draw in pictures.items():
        draw().savefig(out / name, dpi=120)
    return ["summary.csv", "verdict.json", "posterior.nc", "posterior.vi", *pictures]
