"""Which method for how many data, of how many coordinates, and which likelihood.

    python -m benchmarks.which_gp [--out docs/generated]

Data are a draw f of a Matérn-3/2 process of variance one in the unit box, length scale 0.3 √D: with
noise of variance 0.05, as labels of log odds 3 f, or as counts of log rate 1 + f. Hyperparameters
are the true ones, so that methods differ only in how they represent the process; `inducing` has 200
inputs, `local` predicts by kriging on the nearest 50 data. Seconds are CPU seconds of fit and 500
predictions, without compilation.
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
COORDINATES = {"Gaussian": (2, 3, 4, 6, 8), "Bernoulli": (2, 4, 8), "Poisson": (2, 4, 8)}
SCALE = {"Gaussian": 1.0, "Bernoulli": 3.0, "Poisson": 1.0}
COLORS = {
    "dense": "#30638e",
    "sic": "#d1495b",
    "local": "#8d5a97",
    "inducing": "#edae49",
    "state_space": "#3c7a57",
}


def plan() -> list[tuple[str, str, int, int]]:
    """Likelihood, method, coordinates and data of each run."""
    runs = []
    for likelihood, coordinates in COORDINATES.items():
        for dim, others in ((1, ["state_space", "inducing"]), (2, ["sic", "inducing"])):
            runs += [(likelihood, method, dim, n) for n in SIZES for method in others]
            runs += [(likelihood, "dense", dim, n) for n in SIZES if n <= LARGEST_DENSE]
        methods = ["dense", "sic", "inducing"]
        runs += [(likelihood, m, dim, 2000) for dim in coordinates if dim > 2 for m in methods]
    return [*runs, *(("Gaussian", "local", dim, 2000) for dim in COORDINATES["Gaussian"])]


def draw(dim: int, count: int, likelihood: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of a draw by random features."""
    rng = np.random.default_rng(dim)
    chi = np.sqrt(rng.chisquare(3, FEATURES) / 3)
    frequencies = rng.normal(size=(FEATURES, dim)) / chi[:, None] / (0.3 * np.sqrt(dim))
    phases, weights = rng.uniform(0, 2 * np.pi, FEATURES), rng.normal(size=FEATURES)
    x = rng.uniform(size=(count, dim))
    f = np.cos(x @ frequencies.T + phases) @ weights * np.sqrt(2 / FEATURES)
    if likelihood == "Bernoulli":
        return x, (rng.logistic(size=count) < SCALE[likelihood] * f) * 1.0
    if likelihood == "Poisson":
        return x, rng.poisson(np.exp(1 + f)).astype(float)
    return x, f + np.sqrt(NOISE) * rng.normal(size=count)


LIKELIHOODS = {"Gaussian": gp.Gaussian(NOISE), "Bernoulli": gp.Bernoulli(), "Poisson": gp.Poisson()}


def measure(likelihood: str, method: str, dim: int, count: int) -> dict:
    """Seconds, NLPD and grade of one run."""
    x, y = draw(dim, count + NEW, likelihood)
    scales = 0.3 if dim == 1 else jnp.full(dim, 0.3 * np.sqrt(dim))
    options = {"num_inducing": min(INDUCING, count)} if method == "inducing" else {}
    predictions = {"method": "local"} if method == "local" else {}
    for _ in range(2):  # the first compiles
        start = time.process_time()
        found = gp.fit(
            x[:count],
            y[:count],
            key=jax.random.key(0),
            kernel=gp.Matern(scales, SCALE[likelihood] ** 2),
            likelihood=LIKELIHOODS[likelihood],
            mean=gp.ConstantMean(1.0) if likelihood == "Poisson" else gp.Zero(),
            method="sic" if method == "local" else method,
            method_options=options,
            train=False,
        )
        nlpd = -found.log_predictive_density(x[count:], y[count:], **predictions).mean()
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
    """Seconds against data, and what is lost against coordinates; a row for each likelihood."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 3, figsize=(12, 9.5), constrained_layout=True)
    for line, likelihood in zip(axes, COORDINATES, strict=True):
        some = [row for row in rows if row["likelihood"] == likelihood]
        exact = {
            r["coordinates"]: r["nlpd"]
            for r in some
            if r["method"] == "dense" and r["data"] == LARGEST_DENSE
        }
        for method, color in COLORS.items():
            own = [row for row in some if row["method"] == method]
            style = {"color": color, "label": method, "marker": "o"}
            for axis, dim in zip(line, (1, 2), strict=False):
                seconds = sorted((r["data"], r["seconds"]) for r in own if r["coordinates"] == dim)
                if len(seconds) > 1:
                    axis.loglog(*zip(*seconds, strict=True), **style)
            loss = sorted(
                (r["coordinates"], r["nlpd"] - exact[r["coordinates"]])
                for r in own
                if r["data"] == LARGEST_DENSE and r["coordinates"] in exact and method != "dense"
            )
            if loss:
                line[2].plot(*zip(*loss, strict=True), **style)
        line[2].axhline(0.0, color=COLORS["dense"], lw=1)
        line[2].set_xscale("log")
        for axis, ticks in zip(line, (SIZES, SIZES, (1, 2, 4, 8)), strict=True):
            axis.set_xticks(ticks, map(str, ticks), minor=False)
            axis.set_xticks([], minor=True)
            axis.legend(fontsize=8)
        line[0].set_title(f"{likelihood}: seconds, one coordinate")
        line[1].set_title(f"{likelihood}: seconds, two coordinates")
        line[2].set_title(f"{likelihood}: nats lost, {LARGEST_DENSE} data")
    for axis, label in zip(axes[-1], ("data", "data", "coordinates"), strict=True):
        axis.set_xlabel(label)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def page(rows: list[dict]) -> str:
    """The table as a page."""
    lines = [
        "# Which Gaussian process: measured",
        "",
        "Made by `python -m benchmarks.which_gp`. Data are a draw f of a Matérn-3/2 process of "
        "variance one in the unit box, length scale 0.3 √D: with noise of variance 0.05, as "
        "labels of log odds 3 f, or as counts of log rate 1 + f. Hyperparameters are the true "
        "ones. `inducing` has 200 inputs; `local` predicts from the nearest 50 data. CPU seconds "
        "of fit and prediction without compilation, the verdict in them, which for labels and "
        "counts weighs 1,000 draws up to 2,000 data; NLPD is minus the mean log density of 500 "
        "new data, in nats, and nats lost are those beyond the dense process. What they speak "
        "for: [Which Gaussian process?](../explanation/which_gp.md)",
        "",
        "![Seconds against the number of data, loss against coordinates](which_gp.png)",
        "",
        "| likelihood | coordinates | data | method | seconds | NLPD | grade |",
        "|---|---|---|---|---|---|---|",
    ]
    known = list(COORDINATES)
    order = lambda r: (known.index(r["likelihood"]), r["coordinates"], r["data"], r["method"])
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
