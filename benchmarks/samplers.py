"""VI-started NUTS beside blackjax's and NumPyro's: the price of 1,000 effective draws.

Each run is a fresh process, four chains of 1,000 draws, its compilation and warm-up included and
the variational fit too; imports are not. The price is what comes before the draws and as much of
the draws as gives 1,000 effective ones (bulk, the worst coordinate of the unconstrained space, as
by ArviZ). Peers have their own defaults: 1,000 transitions of windowed warm-up from random starts.

    python -m benchmarks.samplers [--seeds 3] [--names arK,garch11] [--out docs/generated]
"""

import argparse
import json
import pathlib
import statistics
import sys

from benchmarks.process import CpuClock, machine, run_alone

CHAINS, DRAWS, WARMUP, WANTED = 4, 1000, 1000, 1000
METHODS = ("kullback", "blackjax", "numpyro")
PACKAGES = ("jax", "numpyro", "blackjax")


def one(method: str, name: str, seed: int) -> dict:
    """One run in this process, timed and judged."""
    import jax
    import jax.numpy as jnp

    import samplers  # noqa: F401 - importing is not timed
    from benchmarks.posteriors import get

    jax.config.update("jax_enable_x64", val=True)
    jnp.zeros(3).sum().block_until_ready()
    run = {"kullback": kullback, "blackjax": blackjax_nuts, "numpyro": numpyro_nuts}[method]
    measured, z = run(*get(name), seed)
    return {"method": method, "name": name, "seed": seed, **measured, **judge(z)}


def kullback(model, kwargs, seed):
    """One call, the fit included."""
    import jax

    import samplers
    import vi

    clock, at = CpuClock(), {}
    start = vi.fit(model, key=jax.random.key(seed), on_failure="return", **kwargs)
    at["fit"] = clock.read()

    def note(step, state, info):
        if info["step"] and not state.kept.z.shape[1]:
            at["before"], at["gradients"] = clock.read(), info["gradients"]

    chains = samplers.nuts(
        model, key=jax.random.key(seed + 1), start=start, num_samples=DRAWS, num_chains=CHAINS,
        callback=note, **kwargs,
    )  # fmt: skip
    measured = {
        "fit": at["fit"],
        "before": at["before"],
        "all": clock.read(),
        "gradients_before": at["gradients"] + start.cost["gradients"],
        "gradients": chains.cost["gradients"] + start.cost["gradients"],
        "grade": chains.verdict.grade,
        "divergences": chains.convergence.divergences,
    }
    return measured, chains.transitions.z


def blackjax_nuts(model, kwargs, seed):
    """What a blackjax user writes, on our target: its own density would cost more to trace."""
    import blackjax
    import jax
    import jax.numpy as jnp
    import numpy as np

    import vi

    clock = CpuClock()
    target = vi.target(model, **kwargs)
    key, start_key, warm_key = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.uniform(start_key, (CHAINS, target.dim), minval=-2.0, maxval=2.0)
    warmup = blackjax.window_adaptation(blackjax.nuts, target.log_density)

    @jax.jit
    def adapt(keys, x):
        (states, parameters), info = jax.vmap(lambda k, x: warmup.run(k, x, WARMUP))(keys, x)
        return states, parameters, info.info.num_integration_steps.sum()

    states, parameters, leapfrogs = jax.block_until_ready(
        adapt(jax.random.split(warm_key, CHAINS), x)
    )
    before, gradients = clock.read(), int(leapfrogs)
    kernel = blackjax.nuts.build_kernel()

    @jax.jit
    def draw(keys, states, parameters):
        def chain(key, state, parameters):
            def step(state, key):
                state, info = kernel(key, state, target.log_density, **parameters)
                return state, (state.position, info.num_integration_steps, info.is_divergent)

            return jax.lax.scan(step, state, jax.random.split(key, DRAWS))[1]

        return jax.vmap(chain)(keys, states, parameters)

    z, leapfrogs, divergent = jax.block_until_ready(
        draw(jax.random.split(key, CHAINS), states, parameters)
    )
    measured = {
        "before": before,
        "all": clock.read(),
        "gradients_before": gradients,
        "gradients": gradients + int(jnp.sum(leapfrogs)),
        "divergences": int(jnp.sum(divergent)),
    }
    return measured, np.asarray(z)


def numpyro_nuts(model, kwargs, seed):
    """What a NumPyro user writes."""
    import jax
    import numpy as np
    from numpyro.infer import MCMC, NUTS

    import vi

    fields = ("num_steps", "diverging")

    def run(draws: int) -> tuple:
        clock = CpuClock()
        mcmc = MCMC(
            NUTS(model), num_warmup=WARMUP, num_samples=draws, num_chains=CHAINS,
            chain_method="sequential", progress_bar=False,
        )  # fmt: skip
        mcmc.run(jax.random.key(seed), extra_fields=fields, **kwargs)
        found = jax.block_until_ready(mcmc.get_samples(group_by_chain=True))
        return clock.read(), found, mcmc.get_extra_fields()

    total, draws, extra = run(DRAWS)
    before = min(max(total - (run(2 * DRAWS)[0] - total), 0.0), total)  # each run compiles
    again = MCMC(NUTS(model), num_warmup=WARMUP, num_samples=1, num_chains=CHAINS,
                 chain_method="sequential", progress_bar=False)  # fmt: skip
    again.warmup(jax.random.key(seed), extra_fields=fields, collect_warmup=True, **kwargs)
    gradients = int(np.sum(again.get_extra_fields()["num_steps"]))
    target = vi.target(model, **kwargs)
    latent = {name: draws[name] for name in target.layout.names}
    flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in latent.items()}
    z = jax.jit(jax.vmap(target.unconstrain))(flat)
    measured = {
        "before": before,
        "all": total,
        "gradients_before": gradients,
        "gradients": gradients + int(np.sum(extra["num_steps"])),
        "divergences": int(np.sum(extra["diverging"])),
    }
    return measured, np.asarray(z).reshape(CHAINS, DRAWS, -1)


def judge(z) -> dict:
    """Worst effective size and R-hat over coordinates."""
    from samplers.mixing import rhat_and_ess

    rhat, bulk, _ = rhat_and_ess(z)
    return {"rhat": float(rhat.max()), "ess": float(bulk.min())}


def price(row: dict, what: str) -> float:
    """CPU seconds (``""``) or gradients (``"gradients"``) of `WANTED` effective draws."""
    before = row["gradients_before" if what else "before"]
    whole = row["gradients" if what else "all"]
    return before + (whole - before) * WANTED / row["ess"]


def table(rows: list[dict]) -> str:
    """Medians over seeds as a markdown table."""
    head = ["posterior", "grade"]
    head += [f"{m}: ESS" for m in METHODS] + [f"{m}: CPU s" for m in METHODS]
    head += ["best peer, CPU"] + [f"{m}: gradients" for m in METHODS] + ["best peer, gradients"]
    lines, ratios = [], {"": [], "gradients": []}
    for name in dict.fromkeys(row["name"] for row in rows):
        by = {
            m: [r for r in rows if (r["name"], r["method"]) == (name, m) and "error" not in r]
            for m in METHODS
        }
        if not by["kullback"]:
            lines.append([name, "failed"] + [""] * (len(head) - 2))
            continue
        cells = [name, by["kullback"][0]["grade"]]
        cells += [_median(by[m], lambda r: r["ess"], ".0f") for m in METHODS]
        for what, form in (("", ".1f"), ("gradients", ".2g")):
            cells += [_median(by[m], lambda r, what=what: price(r, what), form) for m in METHODS]
            mine, *peers = (
                statistics.median(price(r, what) for r in by[m]) for m in METHODS if by[m]
            )
            ratios[what].append(mine / min(peers))
            cells.append(f"{ratios[what][-1]:.2f}")
        lines.append(cells)
    middle = [f"{statistics.median(ratios[what]):.2f}" for what in ("", "gradients")]
    last = ["median", *[""] * 7, middle[0], "", "", "", middle[1]]
    texts = [" | ".join(line) for line in [*lines, last]]
    rule = "|".join(["---"] * len(head))
    return "\n".join(f"| {text} |" for text in [" | ".join(head), rule, *texts])


def _median(rows: list[dict], pick, form: str) -> str:
    return format(statistics.median(map(pick, rows)), form) if rows else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "NAME", "SEED"))
    parser.add_argument("--names", help="posteriors, separated by commas; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/generated"))
    options = parser.parse_args()
    if options.one:
        method, name, seed = options.one
        print(json.dumps(one(method, name, int(seed))))
        return
    from benchmarks.posteriors import NAMES

    rows = []
    for name in options.names.split(",") if options.names else NAMES:
        for method in METHODS:
            for seed in range(options.seeds):
                row = run_alone("benchmarks.samplers", method, name, str(seed))
                rows.append({"method": method, "name": name, "seed": seed, **row})
                print(rows[-1], file=sys.stderr, flush=True)
    text = table(rows)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "samplers.json").write_text(json.dumps(rows, indent=1) + "\n")
    command = f"python -m benchmarks.samplers --seeds {options.seeds}"
    intro = f"Written by `{command}` on {machine(*PACKAGES)}. {__doc__.split('    python')[0]}"
    (options.out / "samplers.md").write_text(f"# NUTS, started by VI\n\n{intro}\n{text}\n")


if __name__ == "__main__":
    main()
