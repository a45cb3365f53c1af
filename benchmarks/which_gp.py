"""Which method for how many data, of how many coordinates, and which likelihood.

    python -m benchmarks.which_gp [--out docs/generated]

Data are a draw of a Matérn-3/2 process in the unit box, length scale 0.3 √D, with noise of variance
0.05 or as labels. Hyperparameters are the true ones, so that methods differ only in how they
represent the process. Seconds are CPU seconds of fit and 500 predictions, without compilation.
"""

import argparse
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import gp

NOISE, NEW, FEATURES = 0.05, 500, 3000
SIZES, LARGEST_DENSE, INDUCING = (500, 2000, 8000), 2000, 200
COLORS = {"dense": "#30638e", "sic": "#d1495b", "inducing": "#edae49", "state_space": "#3c7a57"}


def plan() -> list[tuple[str, str, int, int]]:
    """Likelihood, method, coordinates and data of each run."""
    runs = []
    for dim, others in ((1, ["state_space", "inducing"]), (2, ["sic", "inducing"])):
        runs += [("Gaussian", method, dim, n) for n in SIZES for method in others]
        runs += [("Gaussian", "dense", dim, n) for n in SIZES if n <= LARGEST_DENSE]
    runs += [("Gaussian", m, dim, 2000) for dim in (4, 8) for m in ("dense", "sic", "inducing")]
    runs += [("Bernoulli", m, 2, 2000) for m in ("dense", "sic", "inducing")]
    return [*runs, ("Bernoulli", "state_space", 1, 2000)]


def draw(dim: int, count: int, likelihood: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of a draw by random features."""
    rng = np.random.default_rng(dim)
    chi = np.sqrt(rng.chisquare(3, FEATURES) / 3)
    frequencies = rng.normal(size=(FEATURES, dim)) / chi[:, None] / (0.3 * np.sqrt(dim))
    phases, weights = rng.uniform(0, 2 * np.pi, FEATURES), rng.normal(size=FEATURES)
    x = rng.uniform(size=(count, dim))
    f = np.cos(x @ frequencies.T + phases) @ weights * np.sqrt(2 / FEATURES)
    if likelihood == "Bernoulli":
        return x, (rng.logistic(size=count) < 3 * f) * 1.0
    return x, f + np.sqrt(NOISE) * rng.normal(size=count)


def measure(likelihood: str, method: str, dim: int, count: int) -> dict:
    """Seconds, NLPD and grade of one run."""
    x, y = draw(dim, count + NEW, likelihood)
    labels = likelihood == "Bernoulli"
    kernel = gp.Matern(jnp.full(dim, 0.3 * np.sqrt(dim)), 9.0 if labels else 1.0)
    options = {"num_inducing": min(INDUCING, count)} if method == "inducing" else {}
    for _ in range(2):  # the first compiles
        start = time.process_time()
        found = gp.fit(
            x[:count],
            y[:count],
            key=jax.random.key(0),
            kernel=gp.Matern(0.3, kernel.variance) if dim == 1 else kernel,
            likelihood=gp.Bernoulli() if labels else gp.Gaussian(NOISE),
            mean=gp.Zero(),
            method=method,
            method_options=options,
            train=False,
        )
        nlpd = -found.log_predictive_density(x[count:], y[count:]).mean()
        seconds = time.process_time() - start
    return {
        "likelihood": likelihood,
        "method": method,
        "coordinates": dim,
        "data": count,
        "seconds": float(seconds),
        "nlpd": float(nlpd),
        "grade": found.verdict.grade,
    }


def picture(rows: list[dict], path: pathlib.Path) -> None:
    """Seconds against the number of data, and what is lost against coordinates."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), constrained_layout=True)
    gaussian = [row for row in rows if row["likelihood"] == "Gaussian"]
    for method, color in COLORS.items():
        own = [row for row in gaussian if row["method"] == method]
        for axis, dim in zip(axes, (1, 2), strict=False):
            line = sorted((r["data"], r["seconds"]) for r in own if r["coordinates"] == dim)
            if line:
                axis.loglog(*zip(*line, strict=True), "o-", color=color, label=method)
        exact = {
            r["coordinates"]: r["nlpd"]
            for r in gaussian
            if r["method"] == "dense" and r["data"] == LARGEST_DENSE
        }
        loss = sorted(
            (r["coordinates"], max(r["nlpd"] - exact[r["coordinates"]], 1e-6))
            for r in own
            if r["data"] == LARGEST_DENSE and r["coordinates"] in exact and method != "dense"
        )
        if loss:
            axes[2].loglog(*zip(*loss, strict=True), "o-", color=color, label=method)
    for axis, ticks in zip(axes, (SIZES, SIZES, (1, 2, 4, 8)), strict=True):
        axis.set_xticks(ticks, map(str, ticks), minor=False)
        axis.set_xticks([], minor=True)
        axis.legend(fontsize=8)
    axes[0].set_title("CPU seconds, one coordinate")
    axes[1].set_title("CPU seconds, two coordinates")
    axes[2].set_title(f"NLPD beyond the exact process, {LARGEST_DENSE} data")
    for axis, label in zip(axes, ("data", "data", "coordinates"), strict=True):
        axis.set_xlabel(label)
    figure.savefig(path, dpi=100)


def page(rows: list[dict]) -> str:
    """The table as a page."""
    lines = [
        "# Which Gaussian process: measured",
        "",
        "Made by `python -m benchmarks.which_gp`, which says what the data are. CPU seconds of "
        "fit and prediction without compilation; NLPD is minus the mean log density of 500 new "
        "data, in nats. What they speak for: [Which Gaussian process?](../explanation/which_gp.md)",
        "",
        "![Seconds against the number of data, loss against coordinates](which_gp.png)",
        "",
        "| likelihood | coordinates | data | method | seconds | NLPD | grade |",
        "|---|---|---|---|---|---|---|",
    ]
    order = lambda r: (r["likelihood"] != "Gaussian", r["coordinates"], r["data"], r["method"])
    for r in sorted(rows, key=order):
        lines.append(
            f"| {r['likelihood']} | {r['coordinates']} | {r['data']} | `{r['method']}` | "
            f"{r['seconds']:.2f} | {r['nlpd']:.4f} | {r['grade']} |"
        )
    return "\n".join(lines) + "\n"


def main(out: pathlib.Path) -> list[dict]:
    """Measure what is not measured yet; write numbers, page and picture."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "which_gp.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    known = {(r["likelihood"], r["method"], r["coordinates"], r["data"]) for r in rows}
    with jax.enable_x64(True):  # noqa: FBT003
        for run in plan():
            if run not in known:
                rows.append(measure(*run))
                print(rows[-1], flush=True)
                path.write_text(json.dumps(rows, indent=1) + "\n")
    (out / "which_gp.md").write_text(page(rows))
    picture(rows, out / "which_gp.png")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/generated"))
    main(parser.parse_args().out)
