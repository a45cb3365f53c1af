"""The page of docs that `benchmarks.sic` writes."""

import json
import os
import platform

import jax

HEADER = """# Gaussian processes by sparse inverse Cholesky factors

Written by `python -m benchmarks.sic` on {machine}, {cores} cores, Python {python}, jax {jax}.
CPU seconds of one process on one thread, in 64-bit floats; the machine ran other work beside it, so
that they are good to about a fifth. `first call` has the compilation in it: each field was fitted
in a process of its own, and then `again` in the same one.
"""

SECTIONS = {
    "fields": """## Fit and predict

Matérn-3/2 with a length scale for each coordinate, 30 neighbours, hyperparameters trained by each
from its own start. `terrain`: 5,000 heights of matplotlib's elevation grid, 2,000 left out. `draw`:
5,000 points of a draw with noise, 1,000 left out. `labels`, `counts`, where they were run: 20,000
labels, and Poisson counts, 5,000 left out. NLPD is minus the mean log density of what was left
out, in nats; `local` is that of `predict(method="local")`. GPBoost is Vecchia's approximation with
Laplace's. With M inducing inputs, where they were run, kullback, GPJax and GPyTorch each take
natural-gradient steps of rate 0.1 and steps of Adam of rate 0.01 on minibatches of 256, from the
same inputs and start. With the true rate of the counts NLPD is 1.870, with the true odds of the
labels 0.595. Times of `counts` were taken beside some twenty busy processes.
""",
    "full": """## 110,000 heights

28,000 predictions, with hyperparameters from 5,000 of the points; `first call` again.
""",
    "million": """## A million points

From the order to the posterior mean, m = 20, compilation included.
""",
    "dense": """## Labels beside the dense process

The best ELBO at fixed hyperparameters, 1,000 points.
""",
    "objective": """## A step of the minibatch objective

A step of `gp.sic.train_factor` on 8 groups of 16 points, m = 30, with Adam and the average of its
iterates, in milliseconds without compilation. It reads and writes the rows of the groups and their
ancestors alone. `ancestors` is how many the groups have at most, which grows with the logarithm of
the number of points; the work is at most proportional to its square.

![A step against the number of points](gp_step.png)
""",
    "dimensions": """## Which in how many dimensions

Nats a new datum that predictions lose against the exact process, at the true hyperparameters:
3,000 points in the unit box, Matérn-3/2 of length scale √D / 2 and variance one. `gap` is
`gp.sic.neighbor_gap` at a third of the noise, which the verdict judges: 0.01 is its limit.
""",
}


def table(rows):
    """Markdown."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    shown = lambda value: f"{value:.4g}" if isinstance(value, float) else str(value)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(shown(row.get(key, "")) for key in columns) + " |")
    return "\n".join(lines) + "\n"


def draw_steps(path, rows):
    """The time of a step against the number of points, beside what is proportional to it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    counts, ms = ([row[name] for row in rows] for name in ("points", "ms"))
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    axes.loglog(counts, ms, "o-", label="a step")
    line = [ms[0] * count / counts[0] for count in counts]
    axes.loglog(counts, line, ":", color="grey", label="proportional to N")
    axes.set(xlabel="points N", ylabel="milliseconds a step", ylim=(1, 1000))
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write(out, found, peers=()):
    """Add rows to gp.json under ``out``, and make gp.md of all that is there."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "gp.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known |= found
    which = lambda row: (row["field"], row["who"])
    rows = {which(row): row for row in [*known.get("peers", []), *peers]}
    known["peers"] = list(rows.values())
    path.write_text(json.dumps(known, indent=1) + "\n")
    fields = [
        row for name in ("terrain", "draw", "labels", "counts") for row in known.get(name, [])
    ]
    fields += known.get("inducing", []) + known.get("peers", [])
    fields.sort(key=which)
    parts = [
        HEADER.format(
            machine=platform.machine(),
            cores=os.cpu_count(),
            python=platform.python_version(),
            jax=jax.__version__,
        )
    ]
    for name, text in SECTIONS.items():
        rows = fields if name == "fields" else known.get(name, [])
        if rows:
            parts.append(f"{text}\n{table(rows)}")
    if known.get("objective"):
        draw_steps(out / "gp_step.png", known["objective"])
    (out / "gp.md").write_text("\n".join(parts))
