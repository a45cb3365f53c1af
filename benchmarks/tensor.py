"""Functional tensors beside tables: weekly carbon dioxide at Mauna Loa, and sea temperatures.

    python -m benchmarks.tensor [--out docs/generated]

Carbon dioxide is a function of calendar time and of the day of the year. A table has cells instead,
years and months; its decomposition is the same one with values that know nothing of each other.
"""

import argparse
import pathlib
import time
from typing import NamedTuple

import jax
import numpy as np
from scipy import stats

import gp

SWEEPS, STARTS, SEEDS = 150, 2, 2


class Entries(NamedTuple):
    """Entries, continuous coordinates, cells, the share that is held out."""

    y: np.ndarray
    continuous: list[np.ndarray]
    cells: list[np.ndarray]
    held_out: float


def carbon_dioxide() -> Entries:
    """Time in years and part of the year; cells are years and months."""
    from statsmodels.datasets import co2

    found = co2.load_pandas().data["co2"].dropna()
    day = found.index.day_of_year.to_numpy() / 365.25
    year = found.index.year.to_numpy().astype(float)
    month = found.index.month.to_numpy().astype(float)
    return Entries(found.to_numpy(), [year + day, day], [year, month], 0.5)


def sea_temperatures() -> Entries:
    """Years and months, the same for both; half of the table is not there."""
    from statsmodels.datasets import elnino

    table = elnino.load_pandas().data
    year, month = np.meshgrid(table["YEAR"].to_numpy(float), np.arange(12.0), indexing="ij")
    both = [year.ravel(), month.ravel()]
    return Entries(table.to_numpy()[:, 1:].ravel(), both, both, 0.5)


TABLES = {"carbon dioxide": carbon_dioxide, "sea temperature": sea_temperatures}


def score(entries: Entries, *, functional: bool, core: bool, seed: int) -> list[float]:
    """Root mean square error, NLPD, CPU seconds, and the ELBO."""
    y = entries.y
    rng = np.random.default_rng(seed)
    test = rng.random(len(y)) < entries.held_out
    where = entries.continuous if functional else entries.cells
    options = {}
    if not functional:
        options = {"kernels": [gp.Matern(1e-3, y.std()) for _ in where], "fixed": ["lengthscale"]}
    start = time.process_time()
    found = gp.functional_tensor(
        [x[~test] for x in where], y[~test], 2, key=jax.random.key(seed), core=core,
        num_sweeps=SWEEPS, num_starts=STARTS, **options,
    )  # fmt: skip
    seconds = time.process_time() - start
    mean, variance = found.predict([x[test] for x in where])
    density = stats.norm.logpdf(y[test], mean, np.sqrt(variance + found.noise))
    error = np.sqrt(np.mean((mean - y[test]) ** 2))
    return [error, -density.mean(), seconds, found.elbo]


def main(out: pathlib.Path) -> str:
    """Run all, print and write the table."""
    lines = [
        "# Functional tensors",
        "",
        f"Half of the entries are held out; rank 2; means of {SEEDS} seeds. `python -m "
        "benchmarks.tensor` makes this page. Cells are the same decomposition of a table, whose "
        "values know nothing of each other.",
        "",
        "| data | decomposition | factors | error | NLPD | CPU s |",
        "|---|---|---|---|---|---|",
    ]
    with jax.enable_x64(True):  # noqa: FBT003
        for name, load in TABLES.items():
            entries = load()
            for core in (False, True):
                for functional in (False, True):
                    rows = [
                        score(entries, functional=functional, core=core, seed=seed)
                        for seed in range(SEEDS)
                    ]
                    error, nlpd, seconds, _ = np.mean(rows, 0)
                    kind = "functions" if functional else "cells"
                    lines.append(
                        f"| {name} ({len(entries.y)} entries, standard deviation "
                        f"{entries.y.std():.2f}) | {'Tucker' if core else 'CP'} | {kind} | "
                        f"{error:.3f} | {nlpd:.3f} | {seconds:.0f} |"
                    )
                    print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / "tensor.md").write_text(text)
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/generated"))
    main(parser.parse_args().out)
