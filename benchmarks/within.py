"""Sparse within sparse at 100,000 data, in CPU seconds of one thread; writes a page of docs.

    python -m benchmarks.within [--out docs/generated] [--steps 3000]

The cost of a step against the number of inducing inputs, and how well what is left out is predicted
with either divergence, and by the sparse variational process of `gp.fit`, given the same CPU
seconds: of heights, which have next to no noise, and of a draw with noise.
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
SHARE = 0.63  # of the steps with divergence "chain", that "average" has time for
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


def noisy(count, left_out, lengthscale=0.05, noise=0.2, features=1000, seed=0):
    """A draw of a Matérn-3/2 process on the unit square by random features, with noise."""
    rng = np.random.default_rng(seed)
    chi = np.sqrt(rng.chisquare(3, features) / 3)
    frequencies = rng.normal(size=(features, 2)) / chi[:, None] / lengthscale
    phases, weights = rng.uniform(0, 2 * np.pi, features), rng.normal(size=features)
    x = rng.uniform(size=(count + left_out, 2))
    f = [np.cos(some @ frequencies.T + phases) @ weights for some in np.array_split(x, 50)]
    y = np.concatenate(f) * np.sqrt(2 / features) + np.sqrt(noise) * rng.normal(size=len(x))
    return x[:count], y[:count], x[count:], y[count:]


FIELDS = {"heights": terrain, "draw": noisy}


def row(field, who, found, step, seconds, held_out):
    nlpd = -float(np.mean(found.log_predictive_density(*held_out)))
    return {
        "data": field,
        "who": who,
        "ms a step": step,
        "steps": found.cost["steps"],
        "CPU seconds": seconds,
        "noise": float(found.model.likelihood.variance),
        "NLPD": nlpd,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/generated"))
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", val=True)
    about, cost, rows = machine("jax", "numpy"), [], []
    within = {"fit": gp.sparse_within_sparse, "num_neighbors": 32}
    for field, load in FIELDS.items():
        *data, x_new, y_new = load(100_000, 5_000)
        for size in SIZES if field == "heights" else ():
            _, step, _ = timed(data, **within, num_inducing=size, num_steps=200)
            cost.append({"M": size, "ms a step": step})
            print(cost[-1], flush=True)
        for divergence, share in (("chain", 1.0), ("average", SHARE)):
            options = {"num_inducing": SIZES[-1], "divergence": divergence}
            found = timed(data, **within, **options, num_steps=int(share * args.steps))
            who = f"M = 10,000, H = 32, {divergence}"
            rows.append(row(field, who, *found, (x_new, y_new)))
            write(args.out, about, cost, rows)
        budget = rows[-2]["CPU seconds"]
        for size in (256, 512):
            found = timed(
                data,
                lambda spent, budget=budget: spent > budget,
                fit=gp.fit,
                method="inducing",
                method_options={"num_inducing": size},
                minibatches=gp.Minibatches(256),
                num_steps=100_000,
                on_failure="return",
            )
            who = f"sparse variational, M = {size}"
            rows.append(row(field, who, *found, (x_new, y_new)))
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

`heights`: 100,000 of matplotlib's elevation grid, which have next to no noise. `draw`: 100,000
points of a Matérn-3/2 draw of variance one and length scale 0.05 in the unit square, with noise of
variance 0.2. 5,000 are left out of each. Matérn-3/2, hyperparameters trained from one start,
minibatches of 256.

## A step of `gp.sparse_within_sparse`

On the heights. Each datum sees the 32 nearest of M inducing inputs. Compilation is not in it.

{table(cost)}

## Predictions at equal time

NLPD is minus the mean log density of what was left out, in nats; `noise` is the variance that was
learned. `chain` and `average` are the divergences of `gp.sparse_within_sparse`; the second, whose
step costs more, got fewer steps. `gp.fit` by minibatches got the seconds of `chain`, the choice of
inducing inputs and compilation in them.

{table(rows)}
"""


if __name__ == "__main__":
    main()
