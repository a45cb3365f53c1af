"""How often a verdict is true: everyday models and nine posteriors, their fits against MCMC.

Each fit of `benchmarks.everyday` is compared with draws of NUTS (NumPyro's, four chains of 2,000,
64-bit), each of `benchmarks.posteriors` with the moments of its reference draws: the largest error
of a posterior mean in posterior standard deviations, and the largest relative error of a standard
deviation, over the coordinates of the unconstrained space, or the scalars of the reference. A fit
is usable if they are at most 0.2 and 20 %. The draws are those of the approximation, and those of
``resample``. A model on which the chains of NUTS disagree (R-hat of 1.05 or more) is not counted.

    python -m benchmarks.verdicts [--seeds 3] [--names local_level] [--out docs/generated]
"""

import argparse
import json
import pathlib
import sys

from benchmarks.process import CpuClock, machine, run_alone

USABLE = 0.2
GRADES = ("good", "fair", "poor", "failed")
PACKAGES = ("jax", "numpyro")
FIELDS = ("seed", "grade", "khat", "cpu", "mean", "sd", "mean_resampled", "sd_resampled")


def one(name: str, seeds: int, family: str) -> dict:
    """One model in this process: fits of several seeds, and NUTS."""
    import jax
    import numpy as np

    import vi
    from benchmarks.everyday import MODELS
    from benchmarks.gaussian import column
    from benchmarks.posteriors import get, reference

    jax.config.update("jax_enable_x64", val=True)
    if name in MODELS:
        model, data = MODELS[name]()
        target = vi.target(model, **data)
        mean, sd, about = nuts(model, data, target)
        latent = lambda draws: {site: draws[site] for site in target.layout.names}
        scalars = lambda draws: np.asarray(jax.jit(jax.vmap(target.unconstrain))(latent(draws)))
    else:
        model, data = get(name)
        target, known = vi.target(model, **data), reference(name)
        mean, sd, about = known.mean, known.sd, {"rhat": None, "ess": None}
        scalars = lambda draws: np.stack([column(draws, scalar) for scalar in known.names], 1)
    rows = []
    for seed in range(seeds):
        clock = CpuClock()
        fit = vi.fit(model, key=jax.random.key(seed), family=family, on_failure="return", **data)
        row = {
            "seed": seed,
            "grade": fit.verdict.grade,
            "khat": float(fit.diagnostics.khat),
            "cpu": clock.read(),
        }
        for suffix, draws in (
            ("", fit.sample(jax.random.key(99), 16384)),
            ("_resampled", fit.resample(jax.random.key(99), 16384)),
        ):
            row |= errors(scalars(draws), mean, sd, suffix)
        rows.append(row)
    return {"name": name, "dim": target.dim, **about, "rows": rows}


def nuts(model, data: dict, target) -> tuple:
    """Moments by NumPyro's NUTS on the unconstrained space, and how far its chains agree."""
    import jax
    import numpy as np
    from numpyro.infer import MCMC, NUTS

    from samplers.mixing import rhat_and_ess

    kernel = NUTS(model, target_accept_prob=0.9, dense_mass=target.dim <= 50)
    mcmc = MCMC(kernel, num_warmup=1500, num_samples=2000, num_chains=4,
                chain_method="sequential", progress_bar=False)  # fmt: skip
    mcmc.run(jax.random.key(1), **data)
    draws = mcmc.get_samples()
    z = jax.jit(jax.vmap(target.unconstrain))({k: draws[k] for k in target.layout.names})
    z = np.asarray(z).reshape(4, 2000, -1)
    rhat, bulk, _ = rhat_and_ess(z)
    about = {"rhat": float(rhat.max()), "ess": float(bulk.min())}
    flat = z.reshape(-1, z.shape[-1])
    return flat.mean(0), flat.std(0), about


def errors(ours, mean, sd, suffix: str) -> dict:
    """Largest errors of a mean (in standard deviations) and of a standard deviation."""
    import numpy as np

    away = np.abs(ours.mean(0) - mean) / sd
    spread = np.abs(ours.std(0) / sd - 1)
    return {f"mean{suffix}": float(away.max()), f"sd{suffix}": float(spread.max())}


def usable(row: dict, suffix: str = "") -> bool:
    """Whether the moments of a fit can be used."""
    return row[f"mean{suffix}"] <= USABLE and row[f"sd{suffix}"] <= USABLE


def report(found: list[dict], family: str) -> str:
    """Tables as markdown: each model, and grades against the truth."""
    lines = [
        "| model | D | NUTS: R-hat | ESS | grades | k-hat | CPU s | mean | sd | mean, resampled |"
        " sd, resampled |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model in found:
        rows = model["rows"]
        span = lambda key, rows=rows: " ".join(f"{row[key]:.2f}" for row in rows)
        lines.append(
            f"| {model['name']} | {model['dim']} | {_chains(model)} | "
            f"{' '.join(row['grade'] for row in rows)} | "
            + " | ".join(map(span, FIELDS[2:]))
            + " |"
        )
    unsettled = [model["name"] for model in found if (model["rhat"] or 1) >= 1.05]
    settled = [row for model in found if model["name"] not in unsettled for row in model["rows"]]
    lines += ["", "| grade | fits | usable | usable after resampling |", "|---|---|---|---|"]
    for grade in GRADES:
        rows = [row for row in settled if row["grade"] == grade]
        counts = sum(map(usable, rows)), sum(usable(row, "_resampled") for row in rows)
        lines.append(f"| {grade} | {len(rows)} | {counts[0]} | {counts[1]} |")
    if unsettled:
        lines += ["", f"Not counted, since the chains of NUTS disagree: {', '.join(unsettled)}."]
    title = f"# How often a verdict is true, family={family!r}\n\n"
    said = f"Written by `python -m benchmarks.verdicts` on {machine(*PACKAGES)}.\n\n"
    return title + said + (__doc__ or "").split("    python")[0] + "\n" + "\n".join(lines) + "\n"


def _chains(model: dict) -> str:
    return f"{model['rhat']:.3f} | {model['ess']:.0f}" if model["rhat"] else "reference draws |"


def main() -> None:
    """Run all models and write the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--one")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--family", default="full_rank")
    parser.add_argument("--names", default="", help="of models to run again; default: all, anew")
    parser.add_argument("--out", default="docs/generated")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one, given.seeds, given.family)))
        return
    from benchmarks.everyday import MODELS
    from benchmarks.posteriors import NAMES

    out = pathlib.Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    before = out / "verdicts.json"
    found = json.loads(before.read_text()) if given.names and before.exists() else []
    for name in given.names.split(",") if given.names else (*MODELS, *NAMES):
        got = run_alone(
            "benchmarks.verdicts", name, "--seeds", str(given.seeds), "--family", given.family,
            timeout=3000,
        )  # fmt: skip
        if "error" in got:
            print(f"{name}: {got['error']}", file=sys.stderr)
            continue
        found = [*(row for row in found if row["name"] != name), got]
        print(json.dumps(got), flush=True)
    before.write_text(json.dumps(found, indent=1) + "\n")
    (out / "verdicts.md").write_text(report(found, given.family))


if __name__ == "__main__":
    main()
