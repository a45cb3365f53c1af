"""Sparse within sparse at 100,000 heights, in CPU seconds of one thread; writes a page of docs.

    python -m benchmarks.within [--out docs/generated] [--steps 3000]

The cost of a step against the number of inducing inputs, and how well what is left out is predicted
beside the sparse variational process of `gp.fit`, given the same CPU seconds.
"""

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import jax
import numpy as np

import gp
from benchmarks.fields import terrain
from benchmarks.process import machine

KEY = jax.random.key(0)
SIZES = (1000, 3000, 10_000)
START = {"kernel": gp.Matern(np.array([0.1, 0.1]), 1.0), "likelihood": gp.Gaussian(0.1)}
cpu = time.process_time


def timed(data, stop=lambda spent: False, **options):
    """A fit, the CPU milliseconds of its steps without the first two chunks, and its seconds."""
    begun, marks = cpu(), []

    def callback(step, state, info):
        marks.append((step, cpu()))
        return stop(cpu() - begun)

    found = options.pop("fit")(*data, key=KEY, callback=callback, **START, **options)
    (first, early), (last, late) = marks[1], marks[-1]
    return found, 1e3 * (late - early) / (last - first), marks[-1][1] - begun


def row(who, found, step, seconds, held_out):
    nlpd = -float(np.mean(found.log_predictive_density(*held_out)))
    steps = found.cost["steps"]
    return {"who": who, "ms a step": step, "steps": steps, "CPU seconds": seconds, "NLPD": nlpd}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/generated"))
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", val=True)
    *data, x_new, y_new = terrain(100_000, 5_000)
    held_out = x_new, y_new
    within = {"fit": gp.sparse_within_sparse, "num_neighbors": 32}
    cost = []
    for size in SIZES:
        _, step, _ = timed(data, **within, num_inducing=size, num_steps=200)
        cost.append({"M": size, "ms a step": step})
        print(cost[-1], flush=True)
    rows = []
    about = machine("jax", "numpy")
    for divergence in ("chain", "average"):
        options = {"num_inducing": SIZES[-1], "divergence": divergence, "num_steps": args.steps}
        found = timed(data, **within, **options)
        rows.append(row(f"M = 10,000, H = 32, {divergence}", *found, held_out))
        write(args.out, about, cost, rows)
    budget = rows[0]["CPU seconds"]
    for size in (256, 512):
        found = timed(
            data,
            lambda spent: spent > budget,
            fit=gp.fit,
            method="inducing",
            method_options={"num_inducing": size},
            minibatches=gp.Minibatches(256),
            num_steps=100_000,
            on_failure="return",
        )
        rows.append(row(f"sparse variational, M = {size}", *found, held_out))
        write(args.out, about, cost, rows)


def write(out, about, cost, rows):
    print(rows[-1], flush=True)
    found = {"machine": about, "cost": cost, "rows": rows}
    (out / "within.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "within.md").write_text(page(about, cost, rows))


def table(rows):
    names = list(rows[0])
    show = lambda value: f"{value:.4g}" if isinstance(value, float) else str(value)
    lines = [names, ["---"] * len(names), *([show(row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(about, cost, rows):
    return f"""# Ten thousand inducing inputs

Written by `python -m benchmarks.within` on {about}.
CPU seconds of one process on one thread, in 64-bit floats; the machine ran other work beside it, so
that they are good to about a fifth.

100,000 heights of matplotlib's elevation grid, 5,000 left out. Matérn-3/2, hyperparameters trained
from one start, minibatches of 256.

## A step of `gp.sparse_within_sparse`

Each datum sees the 32 nearest of M inducing inputs. Compilation is not in it.

{table(cost)}

## Predictions at equal time

NLPD is minus the mean log density of what was left out, in nats. `gp.fit` by minibatches got the
seconds of the first row, the choice of inducing inputs and compilation in them.

{table(rows)}
"""


if __name__ == "__main__":
    main()
