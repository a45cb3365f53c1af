"""Time and memory of the main paths, against the sizes that a user has.

Each point is a process of its own, held to one core: CPU seconds of a first call, compilation
included; of a second call with other data or another key; and the peak of its memory, of which
Python, JAX and the library take about 0.3 GB.

    python -m benchmarks.scaling [--names rows dimension] [--out docs/generated]
    python -m benchmarks.scaling --draw  # the figure alone, from what was measured before
"""

import argparse
import json
import pathlib
import resource
import sys
from collections.abc import Callable

from benchmarks.process import CpuClock, machine, run_alone

PACKAGES = ("jax", "numpyro", "optax")
# Path: what grows, its values, and what it is.
PATHS = {
    "rows": ("N", (1_000, 10_000, 100_000, 1_000_000), "`vi.fit`, logistic regression, D = 10"),
    "minibatches": (
        "N", (10_000, 100_000, 1_000_000),
        "`vi.fit` of `vi.Rows` on disk, D = 10, 2,000 steps of 500 rows, 1,000 draws to judge",
    ),
    "dimension": ("D", (10, 30, 100, 300), "`vi.fit`, full rank, logistic regression, N = 2,000"),
    "mean_field": ("D", (100, 1_000, 10_000), "`vi.fit(family='mean_field')`, a skewed density"),
    "particles": ("K", (1, 10, 100, 1_000), "1,000 steps of `vi.iwae`, D = 10, N = 1,000"),
    "components": ("K", (1, 4, 16), "`vi.fit` of a mixture of K Gaussians, D = 10, 1,000 steps"),
    "exact_gp": ("N", (250, 500, 1_000, 2_000), "`gp.fit(method='dense')`, two inputs"),
    "sparse_factors": ("N", (2_000, 8_000, 32_000), "`gp.fit(method='sic')`, two inputs, 5 steps"),
    "inducing": (
        "M", (50, 100, 200, 400), "`gp.fit(method='inducing')`, N = 5,000, 200 steps of 256 rows"
    ),
    "state_space": ("N", (1_000, 10_000, 100_000), "`gp.fit(method='state_space')`, 5 steps"),
    "nuts": ("D", (10, 100, 1_000), "`samplers.nuts` of a normal density, 4 x 250 draws"),
}  # fmt: skip


def logistic(n: int, d: int, seed: int) -> tuple:
    """Rows and labels, 32 bits."""
    import numpy as np

    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    p = 1 / (1 + np.exp(-x @ (rng.normal(size=d) / np.sqrt(d))))
    return x, (rng.random(n) < p).astype(np.float32)


def regression(x, t, batch_size=None):
    """Logistic regression."""
    import numpyro
    import numpyro.distributions as dist

    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(x), subsample_size=batch_size) as rows:
        numpyro.sample("t", dist.Bernoulli(logits=x[rows] @ beta), obs=t[rows])


def work(path: str, size: int) -> Callable[[int], object]:
    """A function of a seed that does the work once."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import vi

    key = jax.random.key
    if path in ("rows", "dimension", "particles", "minibatches"):
        n, d = {"rows": (size, 10), "dimension": (2000, size), "particles": (1000, 10)}.get(
            path, (size, 10)
        )
        options = {"family": "full_rank"}
        if path == "particles":
            options |= {"objective": vi.iwae(num_particles=size), "num_steps": 1000}
        if path != "minibatches":
            data = [logistic(n, d, seed) for seed in range(2)]
            return lambda seed: vi.fit(regression, *data[seed], key=key(seed), **options)
        x, t = logistic(n, d, 0)
        folder = pathlib.Path(sys.argv[-1])
        np.save(folder / "x.npy", x)
        np.save(folder / "t.npy", t)
        rows = [vi.Rows(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in "xt"]
        options |= {"num_steps": 2000, "num_draws": 1000, "batch_size": 500}
        return lambda seed: vi.fit(regression, *rows, key=key(seed), **options)
    if path in ("mean_field", "components", "nuts"):
        skewed = lambda z: jnp.sum(z - jnp.exp(z)) if path == "mean_field" else -0.5 * z @ z
        target = vi.target(skewed, jnp.zeros(10 if path == "components" else size))
        if path == "nuts":
            import samplers

            return lambda seed: samplers.nuts(target, key=key(seed), num_samples=250)
        family = "mean_field"
        if path == "components":
            starts = [jax.random.normal(key(i), (10,)) for i in range(size)]
            family = vi.mixture([vi.full_rank(10, loc=loc) for loc in starts])
        options = {"num_steps": 1000} if path == "components" else {}
        return lambda seed: vi.fit(target, key=key(seed), family=family, **options)
    import gp

    n = 5000 if path == "inducing" else size
    inputs = 1 if path == "state_space" else 2
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 10, (n, inputs))
    y = np.sin(x).sum(1) + 0.3 * rng.normal(size=n)
    method = {"exact_gp": "dense", "sparse_factors": "sic"}.get(path, path)
    options = {"method": method, "num_steps": 5}
    if path == "inducing":
        options |= {"num_steps": 200, "minibatches": 256, "method_options": {"num_inducing": size}}
    return lambda seed: gp.fit(x, y + seed, key=key(seed), on_failure="return", **options)


def one(path: str, size: int) -> dict:
    """One point in this process."""
    run = work(path, size)
    clock = CpuClock()
    run(0)
    first = clock.read()
    run(1)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"size": size, "first": first, "second": clock.read() - first, "memory": memory}


def report(found: dict[str, list[dict]]) -> str:
    """The table as markdown."""
    lines = [
        "# What grows with what",
        "",
        f"Written by `python -m benchmarks.scaling` on {machine(*PACKAGES)}.",
        "",
        (__doc__ or "").split("\n\n")[1],
        "",
        "![CPU seconds and memory](scaling.png)",
        "",
        "| what | size | first call, CPU s | second call, CPU s | memory, GB |",
        "|---|---|---|---|---|",
    ]
    for path, rows in found.items():
        letter, _, about = PATHS[path]
        for row in rows:
            cells = (
                [row["error"], "", ""]
                if "error" in row
                else [f"{row['first']:.1f}", f"{row['second']:.2f}", f"{row['memory']:.1f}"]
            )
            lines.append(f"| {about} | {letter} = {row['size']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(found: dict[str, list[dict]], path: pathlib.Path) -> None:
    """The figure: second calls and memory against size, each path a line of its own colour."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    styles = zip("osv^D<>pPX*", [*mpl.colormaps["tab10"].colors, "black"], strict=True)
    for (name, rows), (mark, color) in zip(found.items(), styles, strict=False):
        rows = [row for row in rows if "error" not in row]
        sizes = [row["size"] for row in rows]
        label = f"{name.replace('_', ' ')} ({PATHS[name][0]})"
        line = {"marker": mark, "color": color, "label": label}
        axes[0].loglog(sizes, [row["second"] for row in rows], **line)
        axes[1].loglog(sizes, [row["memory"] for row in rows], **line)
    axes[0].set(xlabel="size", ylabel="CPU seconds of a second call")
    axes[1].set(xlabel="size", ylabel="peak memory, GB")
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure and write the table and the figure."""
    import tempfile

    parser = argparse.ArgumentParser()
    parser.add_argument("--one", nargs=3, metavar=("PATH", "SIZE", "FOLDER"))
    parser.add_argument("--names", nargs="+", choices=PATHS, default=list(PATHS))
    parser.add_argument("--out", default="docs/generated")
    parser.add_argument("--draw", action="store_true", help="measure nothing, draw what is there")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one[0], int(given.one[1]))))
        return
    out = pathlib.Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "scaling.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    if given.draw:
        draw(found, out / "scaling.png")
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in given.names:
            rows = []
            for size in PATHS[name][1]:
                row = run_alone("benchmarks.scaling", name, str(size), folder)
                rows.append({"size": size, **row})
                print(name, rows[-1], flush=True)
            found[name] = rows
    found = {name: found[name] for name in PATHS if name in found}
    kept.write_text(json.dumps(found, indent=1) + "\n")
    (out / "scaling.md").write_text(report(found))
    draw(found, out / "scaling.png")


if __name__ == "__main__":
    main()
