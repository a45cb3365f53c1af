"""A logistic regression of a million rows and a thousand coefficients, from a file on disk.

The rows are drawn from the model. The aim is the best mean-field Gaussian of all rows, found by
Newton's method: its mean is the mode, its variances are one over the diagonal of the Hessian there.
What is reported is the Kullback-Leibler divergence of a fit from it, nats per coefficient; for
scikit-learn, which gives a point, that of the same Gaussian moved there. Each fit is a process
of its own on one core: CPU seconds, compilation and reading included, and the peak of its memory.
`vi.fit` has its defaults, and reads rows from disk; NumPyro's SVI is AutoNormal with Adam, its rate
by a cosine from 0.01 to zero, minibatches of the same size and as many steps, on arrays in memory.

    python -m benchmarks.million [--rows 1000000] [--coefficients 1000] [--out docs/generated]
"""

import argparse
import json
import pathlib
import resource
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.process import CpuClock, machine, run_alone

PACKAGES = ("jax", "numpyro", "optax", "scikit-learn")
BATCH, BLOCK = 1000, 20_000


def make(folder: pathlib.Path, n: int, d: int) -> None:
    """Write the rows, and the aim."""
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=np.float32, shape=(n, d))
    t = np.empty(n, np.float32)
    beta = rng.normal(size=d) / np.sqrt(d)
    for first in range(0, n, BLOCK):
        block = rng.standard_normal((min(BLOCK, n - first), d), np.float32)
        x[first : first + len(block)] = block
        t[first : first + len(block)] = rng.random(len(block)) < 1 / (1 + np.exp(-block @ beta))
    x.flush()
    np.save(folder / "t.npy", t)
    mode, curvature, hessian = np.zeros(d), np.ones(d), np.eye(d)
    some = slice(min(n, 20 * d))  # rows of which the steps' Hessian is
    for step in range(12):
        gradient, curvature = -mode, np.ones(d)
        for x_block, t_block in blocks(folder):
            p = 1 / (1 + np.exp(-x_block @ mode.astype(np.float32)))
            gradient += (t_block - p) @ x_block
            curvature += (p * (1 - p)) @ x_block**2
        if step % 4 == 0:
            part = np.asarray(x[some], float)
            p = 1 / (1 + np.exp(-part @ mode))
            hessian = np.eye(d) + (part.T * (p * (1 - p))) @ part * (n / len(part))
        move = np.linalg.solve(hessian, gradient)
        mode += move
        if np.abs(move * np.sqrt(curvature)).max() < 1e-3:
            break
    np.savez(folder / "aim.npz", mode=mode, sd=curvature**-0.5)


def blocks(folder: pathlib.Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows, some at a time."""
    x, t = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "t.npy")
    for first in range(0, len(x), BLOCK):
        yield x[first : first + BLOCK], t[first : first + BLOCK]


def model(x: Any, t: Any, batch_size: int) -> None:
    """Logistic regression."""
    import numpyro
    import numpyro.distributions as dist

    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(x), subsample_size=batch_size) as rows:
        numpyro.sample("t", dist.Bernoulli(logits=x[rows] @ beta), obs=t[rows])


def fit(who: str, folder: pathlib.Path, steps: int) -> tuple[np.ndarray, np.ndarray | None, dict]:
    """Mean and standard deviations that one of the programs finds, and what it says."""
    x, t = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "t.npy")
    if who == "scikit-learn":
        from sklearn.linear_model import LogisticRegression

        found = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-6).fit(np.asarray(x), t)
        return found.coef_[0], None, {"steps": int(found.n_iter_[0])}
    import jax

    if who == "kullback":
        import vi

        found = vi.fit(
            model, vi.Rows(x), vi.Rows(t), batch_size=BATCH, family="mean_field",
            key=jax.random.key(0), num_draws=500,
        )  # fmt: skip
        said = {"steps": int(found.history["step"][-1]), "grade": found.verdict.grade}
        return np.asarray(found.q.loc), np.sqrt(np.asarray(found.q.variance())), said
    import optax
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal
    from numpyro.optim import optax_to_numpyro

    adam = optax.adam(optax.cosine_decay_schedule(0.01, steps))
    guide = AutoNormal(model)
    svi = SVI(model, guide, optax_to_numpyro(adam), Trace_ELBO(num_particles=10))
    data = jax.device_put((np.asarray(x), t))
    result = svi.run(jax.random.key(0), steps, *data, batch_size=BATCH, progress_bar=False)
    found = result.params
    return (
        np.asarray(found["beta_auto_loc"]),
        np.asarray(found["beta_auto_scale"]),
        {"steps": steps},
    )


def one(who: str, folder: pathlib.Path, steps: int) -> dict:
    """One fit in this process."""
    clock = CpuClock()
    mean, sd, said = fit(who, folder, steps)
    cpu = clock.read()
    aim = np.load(folder / "aim.npz")
    ratio = np.ones(len(mean)) if sd is None else sd / aim["sd"]
    away = (mean - aim["mode"]) / aim["sd"]
    nats = 0.5 * (away**2 + ratio**2 - 1 - 2 * np.log(ratio))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"cpu": cpu, "memory": memory, "nats": nats.mean(), "away": np.abs(away).max(), **said}


def main() -> None:
    """Make the rows, run the programs, write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", nargs=3, metavar=("WHO", "FOLDER", "STEPS"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--coefficients", type=int, default=1_000)
    parser.add_argument("--out", default="docs/generated")
    given = parser.parse_args()
    if given.one:
        who, folder, steps = given.one
        print(json.dumps(one(who, pathlib.Path(folder), int(steps))))
        return
    n, d = given.rows, given.coefficients
    lines = [
        "# A million rows",
        "",
        f"Written by `python -m benchmarks.million` on {machine(*PACKAGES)}.",
        "",
        (__doc__ or "").split("    python")[0].strip(),
        "",
        f"Here {n:,} rows of {d:,} coefficients, {4 * n * d / 2**30:.1f} GB.",
        "",
        "| program | CPU s | memory, GB | nats per coefficient | largest error of a mean, sd |"
        " steps | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        make(pathlib.Path(name), n, d)
        steps = 10_000
        for who in ("kullback", "numpyro", "scikit-learn"):
            row = run_alone("benchmarks.million", who, name, str(steps), timeout=3000)
            print(who, row, flush=True)
            if "error" in row:
                lines.append(f"| {who} | {row['error']} | | | | | |")
                continue
            steps = row["steps"] if who == "kullback" else steps
            lines.append(
                f"| {who} | {row['cpu']:.0f} | {row['memory']:.1f} | {row['nats']:.4f} | "
                f"{row['away']:.2f} | {row['steps']} | {row.get('grade', '')} |"
            )
    out = pathlib.Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "million.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
