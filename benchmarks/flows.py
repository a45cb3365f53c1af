"""Flows and MixFlows beside one another and beside NumPyro's flow guides, at equal CPU time.

On four densities in two dimensions, and on two posteriors that no Gaussian fits; then the ladder
of ``vi.fit(family="auto")`` on nine posteriors. Every fit has the same CPU seconds, compilation
included; steps follow from a trial. All are judged by the density itself, at fresh draws.

    python -m benchmarks.flows [--seconds 20] [--out docs/generated] [--resume]
"""

import argparse
import json
import pathlib
import sys

from benchmarks.process import CpuClock, machine, run_alone

DRAWS, MIXFLOW_DRAWS, PARTICLES, RATE, TRIAL = 10_000, 2_048, 32, 5e-3, 300
MOST_MAPS = 32
POSTERIORS = ("eight_schools_centered", "gp_pois_regr")
OURS = ("neural_spline", "realnvp", "planar", "radial")
METHODS = (*OURS, "mixflow", "AutoIAFNormal", "AutoBNAFNormal")
PACKAGES = ("jax", "numpyro", "optax", "distrax")


def one(method: str, name: str, seconds: float) -> dict:
    """One fit in this process, timed and judged."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    import flows  # noqa: F401 - importing is not timed
    import vi
    from benchmarks.flow_targets import KNOWN
    from benchmarks.posteriors import get

    jax.config.update("jax_enable_x64", val=True)
    jnp.zeros(3).sum().block_until_ready()
    if name in KNOWN:
        density = KNOWN[name].log_density

        def model():
            x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
            numpyro.factor("density", density(x))

        kwargs = {}
    else:
        model, kwargs = get(name)
    if method == "auto":
        measured, sampler, draws = _auto(vi.target(model, **kwargs))
    elif method == "mixflow":
        measured, sampler, draws = _mixflow(vi.target(model, **kwargs), seconds)
    elif method in OURS:
        measured, sampler, draws = _flow(vi.target(model, **kwargs), method, seconds)
    else:
        measured, sampler, draws = _guide(model, kwargs, method, seconds)
    return {**measured, **_judge(name, sampler, draws)}


def _flow(target, family, seconds):
    """The steps that the seconds allow, by a trial; one cold call."""
    import jax

    import vi

    fit = lambda steps: vi.fit(
        target, key=jax.random.key(0), family=family, num_steps=steps, on_failure="return"
    )
    clock = CpuClock()
    fit(TRIAL)
    cold = clock.read()
    clock = CpuClock()
    fit(TRIAL)
    step = clock.read() / TRIAL
    steps = max(TRIAL, int((seconds - cold) / step))
    jax.clear_caches()
    vi.stochastic._COMPILED.clear()
    clock = CpuClock()
    posterior = fit(steps)
    measured = {"cpu": clock.read(), "steps": steps, "grade": posterior.verdict.grade}
    return measured, posterior.sample_unconstrained, DRAWS


def _mixflow(target, seconds):
    """Of as many maps as the seconds allow."""
    import jax

    import flows
    import vi

    def fit(maps):
        clock = CpuClock()
        family = flows.mixflow(maps, num_orbits=64)
        posterior = vi.fit(target, key=jax.random.key(0), family=family, num_draws=1024)
        return posterior, clock.read()

    _, cold = fit(4)
    _, warm = fit(4)
    maps = 1 + max(3, int(3 * (seconds - cold) / warm))
    jax.clear_caches()
    posterior, cpu = fit(min(maps, MOST_MAPS))
    measured = {"cpu": cpu, "steps": posterior.q.num_maps, "grade": posterior.verdict.grade}
    return measured, posterior.sample_unconstrained, MIXFLOW_DRAWS


def _guide(model, kwargs, guide_name, seconds):
    """A flow guide of NumPyro by its own SVI, with our particles, optimizer and schedule."""
    import jax
    import optax
    from numpyro.infer import SVI, Trace_ELBO, autoguide, init_to_uniform

    guide = getattr(autoguide, guide_name)(model, init_loc_fn=init_to_uniform)

    def run(steps):
        rates = optax.cosine_decay_schedule(RATE, steps)
        optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rates))
        svi = SVI(model, guide, optimizer, Trace_ELBO(num_particles=PARTICLES))
        result = svi.run(jax.random.key(0), steps, progress_bar=False, stable_update=True, **kwargs)
        return jax.block_until_ready(result.params)  # it returns before it has run

    clock = CpuClock()
    run(TRIAL)
    cold, spent, trial = clock.read(), 0.0, TRIAL
    while spent < cold + seconds / 10:  # every call compiles: take as many steps as to outweigh it
        trial *= 4
        clock = CpuClock()
        run(trial)
        spent = clock.read()
    step = (spent - cold) / trial
    steps = max(TRIAL, int((seconds - cold) / step))
    clock = CpuClock()
    params = run(steps)
    cpu = clock.read()

    def sampler(key, size):
        q = guide.get_posterior(params)
        z, between = q.sample_with_intermediates(key, (size,))
        return jax.vmap(guide._unpack_latent)(z), q.log_prob(z, between)

    return {"cpu": cpu, "steps": steps, "grade": ""}, sampler, DRAWS


def _auto(target):
    import jax

    import vi

    clock = CpuClock()
    posterior = vi.fit(target, key=jax.random.key(0), family="auto", on_failure="return")
    measured = {"cpu": clock.read(), "rungs": posterior.rungs, "grade": posterior.verdict.grade}
    measured["gradients"] = posterior.cost["gradients"]
    maps = getattr(posterior.q, "num_maps", 0)
    return measured, posterior.sample_unconstrained, MIXFLOW_DRAWS if maps else DRAWS


def _judge(name, sampler, draws):
    """ELBO and k-hat by the density, and the distance to exact draws or the errors of moments."""
    import warnings

    import jax
    import numpy as np

    from benchmarks import gaussian
    from benchmarks.flow_targets import KNOWN, sliced_distance

    if name not in KNOWN:
        return gaussian.judge(name, sampler, draws)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz
    values, log_q = sampler(jax.random.key(4321), draws)
    x = np.asarray(values["x"], float)
    log_p = np.asarray(jax.jit(jax.vmap(KNOWN[name].log_density))(x), float)
    ratios = log_p - np.asarray(log_q, float)
    exact = KNOWN[name].draws(np.random.default_rng(1), 100_000)
    return {
        "elbo": float(ratios.mean()),
        "elbo_sem": float(ratios.std() / np.sqrt(draws)),
        "khat": float(arviz.psislw(ratios.copy())[1]),
        "distance": sliced_distance(x, exact),
    }


def _peers(rows: list[dict]) -> str:
    """One line a target and method."""
    head = ["target", "method", "CPU s", "steps or maps", "ELBO", "k-hat", "distance or errors"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        if "error" in row:
            lines.append([row["name"], row["method"], row["error"][:60], "", "", "", ""])
            continue
        far = f"{row['distance']:.3f}" if "distance" in row else _errors(row)
        elbo = f"{row['elbo']:.3f} ± {row['elbo_sem']:.3f}"
        cells = [row["name"], row["method"], f"{row['cpu']:.0f}", str(row["steps"]), elbo]
        lines.append([*cells, f"{row['khat']:.2f}", far])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _errors(row: dict, kind: str = "") -> str:
    return f"means {row['mean_error' + kind]:.2f}, sds {row['sd_error' + kind]:.2f}"


def _ladders(rows: list[dict], chains: dict[str, float]) -> str:
    head = ["posterior", "rungs: ELBO, k-hat, moments moved by", "verdict", "gradients", "CPU s"]
    head += ["NUTS, CPU s"]
    head += ["ELBO", "k-hat", "errors of plain draws", "of weighted draws"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        if "error" in row:
            lines.append([row["name"], row["error"][:60], *[""] * 8])
            continue
        rungs = "; ".join(
            f"{r['family'].split(' (')[0]}: {r['elbo']:.2f}, {r['khat']:.2f}, {r['moved']:.0%}"
            for r in row["rungs"]
        )
        cells = [row["name"], rungs, row["grade"], f"{row['gradients']:,}", f"{row['cpu']:.0f}"]
        cells.append(f"{chains[row['name']]:.0f}" if row["name"] in chains else "")
        errors = _errors(row), _errors(row, "_weighted")
        lines.append([*cells, f"{row['elbo']:.2f}", f"{row['khat']:.2f}", *errors])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _chains(path: pathlib.Path) -> dict[str, float]:
    """CPU seconds of 1,000 effective draws by the better peer, of each posterior measured."""
    from benchmarks.samplers import price

    found: dict[str, float] = {}
    for row in json.loads(path.read_text()) if path.exists() else []:
        if row["method"] != "kullback" and "error" not in row:
            cost = price(row, "")
            found[row["name"]] = min(cost, found.get(row["name"], cost))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "NAME", "SECONDS"))
    parser.add_argument("--seconds", type=float, default=20, help="CPU seconds of each fit")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/generated"))
    parser.add_argument("--targets", help="of the comparison, separated by commas; default: all")
    parser.add_argument("--resume", action="store_true", help="keep what the output has already")
    options = parser.parse_args()
    if options.one:
        method, name, seconds = options.one
        print(json.dumps(one(method, name, float(seconds))))
        return
    from benchmarks.flow_targets import KNOWN
    from benchmarks.posteriors import NAMES

    jobs = [("auto", name) for name in NAMES]
    targets = options.targets.split(",") if options.targets else (*KNOWN, *POSTERIORS)
    jobs += [(method, name) for name in targets for method in METHODS]
    options.out.mkdir(parents=True, exist_ok=True)
    before = options.out / "flows.json"
    rows = json.loads(before.read_text()) if options.resume and before.exists() else []
    done = {(row["method"], row["name"]) for row in rows}
    for method, name in [job for job in jobs if job not in done]:
        row = run_alone("benchmarks.flows", method, name, str(options.seconds))
        rows.append({"method": method, "name": name, **row})
        shown = {k: v for k, v in row.items() if k in ("cpu", "elbo", "khat", "error")}
        print(name, method, shown, file=sys.stderr, flush=True)
        _write(options.out, rows, options.seconds)


def _write(out: pathlib.Path, rows: list[dict], seconds: float) -> None:
    (out / "flows.json").write_text(json.dumps(rows, indent=1) + "\n")
    peers = [row for row in rows if row["method"] != "auto"]
    ladders = [row for row in rows if row["method"] == "auto"]
    head = f"""# Flows and MixFlows

Written by `python -m benchmarks.flows --seconds {seconds:g}` on {machine(*PACKAGES)}.
"""
    compared = f"""
## At equal CPU time

Each fit was to have {seconds:g} CPU seconds with its compilation; how many steps or maps that
makes was found by a trial, which errs: what was spent stands beside. There
were at least {TRIAL} steps and at most {MOST_MAPS} maps. On the four
densities in two dimensions the log evidence is 0, and the distance is the sliced Wasserstein
distance to exact draws, in standard deviations; on the posteriors errors are
those of {DRAWS:,} draws against long runs of MCMC: the largest of a mean, in standard deviations,
and of a standard deviation, relative. The ELBO of a MixFlow counts its momentum; it is judged by
{MIXFLOW_DRAWS:,} draws.

{_peers(peers)}
"""
    climbed = f"""
## The ladder

`vi.fit(family="auto")`, in 64-bit floats. The last four columns are by the model's own density, at
draws as they come, and, the last, weighed as ``resample`` does. *NUTS* is what 1,000 effective
draws took by the better of blackjax and NumPyro when `benchmarks.samplers` last ran.

{_ladders(ladders, _chains(out / "samplers.json"))}
"""
    text = head + (compared if peers else "") + (climbed if ladders else "")
    (out / "flows.md").write_text(text)


if __name__ == "__main__":
    main()
