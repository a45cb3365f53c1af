"""How reliable is a MixFlow beside trained flows: ELBO and draws over seeds and learning rates.

The headline claim of Xu, Chen and Campbell (2023), "MixFlows": an ELBO that is more reliable than
that of flows that are trained, and draws comparable to MCMC. Each trained flow is fitted with three
learning rates and three seeds; a MixFlow, which has no rate, with nine seeds; NUTS, for its draws,
with nine as well.

    python -m benchmarks.reliability [--out docs/generated] [--resume]
"""

import argparse
import json
import pathlib
import sys

from benchmarks.process import CpuClock, machine, run_alone

TARGETS = ("banana", "funnel", "cross", "warped")
FLOWS = ("realnvp", "neural_spline", "planar")
METHODS = ("mixflow", *FLOWS, "nuts")
RATES, SEEDS = (1e-3, 5e-3, 2e-2), 3
STEPS, MAPS, DRAWS = 2000, 32, 2048
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "0.4")


def one(method: str, name: str) -> dict:
    """Nine fits of a method in this process: ELBO, k-hat, distance to exact draws, CPU seconds."""
    import jax

    jax.config.update("jax_enable_x64", val=True)
    import jax.numpy as jnp
    import numpy as np

    import vi
    from benchmarks.flow_targets import KNOWN, sliced_distance

    density = KNOWN[name].log_density
    target = vi.target(density, jnp.zeros(2))
    exact = KNOWN[name].draws(np.random.default_rng(1), 100_000)
    rows = []
    for number in range(len(RATES) * SEEDS):
        rate, clock = RATES[number // SEEDS], CpuClock()
        found = _draws(method, target, jax.random.key(number), rate)
        row = {"cpu": clock.read(), "distance": sliced_distance(found.pop("x"), exact), **found}
        rows.append({"rate": rate if method in FLOWS else None, **row})
    return {"rows": rows}


def _draws(method: str, target, key, rate: float) -> dict:
    """Draws of one fit, and, unless it is MCMC, ELBO and k-hat by fresh ones."""
    import jax
    import numpy as np

    import flows
    import vi

    if method == "nuts":
        return {"x": _chains(target, key)}
    if method == "mixflow":
        family = {"family": flows.mixflow(MAPS, num_orbits=64)}
    else:
        family = {"family": method, "learning_rate": rate, "num_steps": STEPS}
    fit = vi.fit(target, key=key, num_draws=DRAWS, on_failure="return", **family)
    x = np.asarray(fit.sample(jax.random.fold_in(key, 1), DRAWS)["x"], float)
    return {"x": x, "elbo": fit.elbo, "khat": fit.khat, "grade": fit.verdict.grade}


def _chains(target, key):
    """As many draws by NumPyro's NUTS, of four chains after 1,000 transitions of warm-up."""
    import jax
    import numpy as np
    from numpyro.infer import MCMC, NUTS

    kernel = NUTS(potential_fn=lambda x: -target.log_density(x))
    options = {"num_chains": 4, "chain_method": "vectorized", "progress_bar": False}
    chains = MCMC(kernel, num_warmup=1000, num_samples=DRAWS // 4, **options)
    chains.run(key, init_params=jax.random.normal(jax.random.fold_in(key, 1), (4, target.dim)))
    return np.asarray(chains.get_samples(), float)


def _write(out: pathlib.Path, found: dict) -> None:
    (out / "reliability.json").write_text(json.dumps(found, indent=1) + "\n")
    head = [
        "target",
        "method",
        "ELBO: median",
        "worst",
        "best",
        "k-hat",
        "distance: median",
        "worst",
    ]
    head += ["CPU s"]
    lines = [head, ["---"] * len(head)]
    for job, result in found.items():
        name, method = job.split(" ")
        if "error" in result:
            lines.append([name, method, result["error"][:60], *[""] * 6])
            continue
        column = lambda key, rows=result["rows"]: [row[key] for row in rows if key in row]
        elbo = _spread(column("elbo")) if column("elbo") else [""] * 3
        khat = f"{_median(column('khat')):.2f}" if column("khat") else ""
        far = column("distance")
        cells = [name, method, *elbo, khat, f"{_median(far):.3f}", f"{max(far):.3f}"]
        lines.append([*cells, f"{_median(column('cpu')[1:]):.1f}"])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text = f"""# How reliable a MixFlow is

Written by `python -m benchmarks.reliability` on {machine("jax", "numpyro")}.

Nine fits of each: trained flows with learning rates {RATES[0]}, {RATES[1]} and {RATES[2]}, three
seeds each, {STEPS} steps of 32 particles; MixFlows of at most {MAPS} maps, nine seeds; NumPyro's
NUTS, four chains, as many draws. 64-bit floats. The log evidence is 0. The distance is the sliced
Wasserstein distance of {DRAWS} draws to exact ones, in standard deviations. CPU seconds are those
of a second call, without compilation. The ELBO of a MixFlow is that of position and momentum.

{_said(found)}
![ELBO gaps and distances of nine fits](reliability.png)

{table}
"""
    (out / "reliability.md").write_text(text)
    _draw(found, out / "reliability.png")


def _said(found: dict) -> str:
    """What of the claim holds, on the targets that all have run on."""
    rows = {job: result["rows"] for job, result in found.items() if "rows" in result}
    done = [name for name in TARGETS if all(f"{name} {method}" in rows for method in METHODS)]
    spread = lambda job: max(r["elbo"] for r in rows[job]) - min(r["elbo"] for r in rows[job])
    far = lambda job: _median([row["distance"] for row in rows[job]])
    if not done:
        return ""
    ours = max(spread(f"{name} mixflow") for name in done)
    theirs = {m: max(spread(f"{name} {m}") for name in done) for m in FLOWS}
    shown = ", ".join(f"{spreads:.2f} ({method})" for method, spreads in theirs.items())
    near = [name for name in done if far(f"{name} mixflow") <= 1.5 * far(f"{name} nuts")]
    best = max(row["elbo"] for name in done for row in rows[f"{name} mixflow"])
    lowest = min(_median([row["elbo"] for row in rows[f"{name} mixflow"]]) for name in done)
    more = "so it is the more reliable" if ours < min(theirs.values()) else "so it is no more so"
    where = f" ({', '.join(near)})" if near else ""
    return f"""Over the nine fits the ELBO of a MixFlow differs by at most {ours:.2f} nats, that of
trained flows, learning rates included, by up to {shown}; {more}.
It is {best:.2f} at best, and {lowest:.2f} in the median on the hardest target. Draws of MixFlows
are within 1.5 times the distance of those of NUTS on {len(near)} of {len(done)} targets{where}. The
paper takes more maps; rounding grows with each, and `flows.mixflow` takes half as many until it can
invert them.
"""


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _spread(elbos: list[float]) -> list[str]:
    return [
        f"{x:.3f}" if x > -1e4 else f"{x:.1e}" for x in (_median(elbos), min(elbos), max(elbos))
    ]


def _draw(found: dict, path: pathlib.Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(TARGETS), figsize=(10, 5), sharex=True, sharey="row")
    for column, name in zip(axes.T, TARGETS, strict=True):
        for i, (method, colour) in enumerate(zip(METHODS, COLOURS, strict=True)):
            rows = found.get(f"{name} {method}", {}).get("rows", [])
            places = [i + 0.08 * (j - 4) for j in range(len(rows))]
            if method != "nuts":
                gaps = [min(max(-row["elbo"], 1e-4), 1e3) for row in rows]
                column[0].plot(places, gaps, "o", ms=4, color=colour, alpha=0.7)
            far = [min(row["distance"], 10) for row in rows]
            column[1].plot(places, far, "o", ms=4, color=colour, alpha=0.7)
        column[0].set(title=name, yscale="log")
        column[1].set(yscale="log")
        column[1].set_xticks(range(len(METHODS)), METHODS, rotation=45, ha="right", fontsize=8)
    axes[0, 0].set_ylabel("log evidence - ELBO, nats")
    axes[1, 0].set_ylabel("distance to exact draws")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Run what is asked for, each method on each target in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "TARGET"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/generated"))
    parser.add_argument("--resume", action="store_true", help="keep what the output has already")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(*options.one)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    before = options.out / "reliability.json"
    found = json.loads(before.read_text()) if options.resume and before.exists() else {}
    for name in TARGETS:
        for method in METHODS:
            if f"{name} {method}" in found:
                continue
            found[f"{name} {method}"] = run_alone("benchmarks.reliability", method, name)
            print(name, method, file=sys.stderr, flush=True)
            _write(options.out, found)


if __name__ == "__main__":
    main()
