"""The default of `vi.fit` beside NumPyro's AutoMultivariateNormal with Adam, on nine posteriors.

Each fit runs in a fresh process, its compilation included; imports are not. Both are judged by the
model's own density, through NumPyro, at 10,000 fresh draws, never by their own figures.

    python -m benchmarks.gaussian [--seeds 5] [--names arK,garch11] [--out docs/generated]
"""

import argparse
import json
import pathlib
import statistics
import sys

from benchmarks.process import CpuClock, machine, run_alone

DRAWS, ADAM_STEPS, LEARNING_RATE = 10_000, 20_000, 1e-2
PACKAGES = ("jax", "numpyro", "optax")


def one(method: str, name: str, seed: int) -> dict:
    """One fit in this process, timed and judged."""
    import jax
    import jax.numpy as jnp

    import vi  # noqa: F401 - importing is not timed
    from benchmarks.posteriors import get

    jax.config.update("jax_enable_x64", val=True)
    jnp.zeros(3).sum().block_until_ready()
    model, kwargs = get(name)
    measured, sampler = {"kullback": kullback, "numpyro": numpyro_adam}[method](model, kwargs, seed)
    return {"method": method, "name": name, "seed": seed, **measured, **judge(name, sampler)}


def kullback(model, kwargs, seed):
    """A cold call without settings, and a second one with new data of the same shapes."""
    import jax
    import numpy as np

    import vi

    clock = CpuClock()
    posterior = vi.fit(model, key=jax.random.key(seed), on_failure="return", **kwargs)
    cold = clock.read()
    other = {
        k: v * (1 + 1e-6) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v
        for k, v in kwargs.items()
    }
    clock = CpuClock()
    again = vi.fit(model, key=jax.random.key(seed + 1000), on_failure="return", **other)
    warm = clock.read()
    measured = {
        "cold": cold,
        "warm": warm,
        "khat_self": posterior.khat,
        "elbo_self": posterior.elbo,
        "grade": posterior.verdict.grade,
        "dim": posterior.target.dim,
        "gradients": posterior.cost["gradients"],
        "thousand_gradients": _thousand_gradients(posterior.target),
        "retraced": again.cost["compile_seconds"] > 0.01,
    }
    return measured, posterior.sample_unconstrained


def _thousand_gradients(target):
    """CPU seconds of a thousand gradients, in batches as a fit takes them."""
    import jax
    import numpy as np

    batch = 2 * target.dim + 1
    points = 0.1 * np.random.default_rng(0).normal(size=(batch, target.dim))
    gradients = jax.jit(lambda target, z: jax.vmap(target.value_and_grad)(z))
    jax.block_until_ready(gradients(target, points))
    repeats = -(-1000 // batch)
    clock = CpuClock()
    for _ in range(repeats):
        jax.block_until_ready(gradients(target, points))
    return round(clock.read() * 1000 / (repeats * batch), 4)


def numpyro_adam(model, kwargs, seed):
    """What a NumPyro user writes."""
    import jax
    import optax
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoMultivariateNormal

    clock = CpuClock()
    guide = AutoMultivariateNormal(model)
    svi = SVI(model, guide, optax.adam(LEARNING_RATE), Trace_ELBO())
    result = svi.run(jax.random.key(seed), ADAM_STEPS, progress_bar=False, **kwargs)
    params = jax.block_until_ready(result.params)
    cold = clock.read()
    q = guide.get_posterior(params)

    def sampler(key, size):
        z = q.sample(key, (size,))
        return jax.vmap(guide._unpack_latent)(z), q.log_prob(z)

    return {"cold": cold}, sampler


def judge(name: str, sampler, draws: int = DRAWS) -> dict:
    """ELBO, k-hat and errors of moments, from NumPyro's density of the model and ArviZ's PSIS."""
    import warnings

    import jax
    import numpy as np
    from numpyro.infer import init_to_uniform
    from numpyro.infer.util import initialize_model

    from benchmarks.posteriors import get, reference

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz
    model, kwargs = get(name)
    info = initialize_model(
        jax.random.key(0), model, model_kwargs=kwargs, init_strategy=init_to_uniform
    )
    values, log_q = sampler(jax.random.key(4321), draws)
    values = {site: values[site] for site in info.param_info.z}
    evaluate = jax.vmap(lambda z: (-info.potential_fn(z), info.postprocess_fn(z)))
    log_p, sites = jax.jit(evaluate)(values)
    ratios = np.asarray(log_p, float) - np.asarray(log_q, float)
    known = reference(name)
    x = np.stack([column(sites, scalar) for scalar in known.names], 1)
    log_weights, khat = arviz.psislw(ratios.copy())
    plain = _errors(x, np.full(draws, 1 / draws), known)
    weighted = _errors(x, np.exp(log_weights), known)
    return {
        "elbo": float(ratios.mean()),
        "elbo_sem": float(ratios.std() / np.sqrt(draws)),
        "khat": float(khat),
        "mean_error": plain[0],
        "sd_error": plain[1],
        "mean_error_weighted": weighted[0],
        "sd_error_weighted": weighted[1],
        "best": known.best_full_rank,
    }


def _errors(x, weights, known):
    """The largest errors of a weighted mean, in standard deviations, and of one, relative."""
    import numpy as np

    mean = weights @ x
    sd = np.sqrt(weights @ (x - mean) ** 2)
    return (
        float(np.max(np.abs(mean - known.mean) / known.sd)),
        float(np.max(np.abs(sd / known.sd - 1))),
    )


def column(sites, scalar):
    """Draws of a scalar by Stan's name, as in ``theta[1]``."""
    import numpy as np

    site, _, index = scalar.partition("[")
    where = tuple(int(i) - 1 for i in index.rstrip("]").split(",")) if index else ()
    return np.asarray(sites[site], float)[(slice(None), *where)]


def table(rows: list[dict], *, brief: bool = False) -> str:
    """The measurements as a markdown table: medians over seeds, and the worst ELBO of ours.

    Args:
      rows: measurements.
      brief: leave out the errors of moments and what is only of interest to us.
    """
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = [r for r in rows if r["name"] == name and r["method"] == "kullback"]
        peer = [r for r in rows if r["name"] == name and r["method"] == "numpyro"]
        good, adam = [r for r in mine if "error" not in r], [r for r in peer if "error" not in r]
        if not good:
            lines.append({"posterior": name, "verdicts": "failed"})
            continue
        gaps = [r["elbo"] - r["best"] for r in good]
        grades = sorted(r["grade"] for r in good)
        cells = {
            "posterior": name,
            "D": str(good[0]["dim"]),
            "ELBO - best known": f"{statistics.median(gaps):+.3f}",
            "worst": f"{min(gaps):+.3f}",
            "Adam's": _median(adam, lambda r: r["elbo"] - r["best"], "+.2f"),
            "k-hat": _median(good, "khat"),
            "its own": _median(good, "khat_self"),
            "verdicts": ", ".join(f"{grades.count(g)} {g}" for g in dict.fromkeys(grades)),
            "means off by": _median(good, "mean_error"),
            "Adam's means": _median(adam, "mean_error"),
            "sds off by": _median(good, "sd_error"),
            "Adam's sds": _median(adam, "sd_error"),
            "cold, CPU s": _median(good, "cold", ".1f"),
            "Adam's, CPU s": _median(adam, "cold", ".1f"),
            "ratio": _ratio(good, adam),
            "warm, CPU s": _median(good, "warm"),
            "1,000 gradients": _median(good, "thousand_gradients", ".3f"),
        }
        hidden = ("its own", "Adam's means", "Adam's sds", "1,000 gradients") if brief else ()
        lines.append({k: v for k, v in cells.items() if k not in hidden})
    head = max(lines, key=len)
    texts = [" | ".join(line.get(k, "") for k in head) for line in lines]
    return "\n".join(
        f"| {text} |" for text in [" | ".join(head), "|".join(["---"] * len(head)), *texts]
    )


def _median(rows: list[dict], what, form: str = ".2f") -> str:
    pick = what if callable(what) else lambda r: r[what]
    return format(statistics.median(map(pick, rows)), form) if rows else ""


def _ratio(mine: list[dict], others: list[dict]) -> str:
    if not others:
        return ""
    a, b = (statistics.median(row["cold"] for row in rows) for rows in (mine, others))
    return f"{a / b:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "NAME", "SEED"))
    parser.add_argument("--names", help="posteriors, separated by commas; default: all")
    parser.add_argument("--seeds", type=int, default=5, help="fits of ours; Adam runs once")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/generated"))
    parser.add_argument("--readme", type=pathlib.Path, help="a file with marks for the table")
    options = parser.parse_args()
    if options.one:
        method, name, seed = options.one
        print(json.dumps(one(method, name, int(seed))))
        return
    from benchmarks.posteriors import NAMES

    names = options.names.split(",") if options.names else NAMES
    rows = []
    for name in names:
        jobs = [("numpyro", 0), *(("kullback", seed) for seed in range(options.seeds))]
        for method, seed in jobs:
            row = run_alone("benchmarks.gaussian", method, name, str(seed))
            rows.append({"method": method, "name": name, "seed": seed, **row})
            shown = {k: v for k, v in rows[-1].items() if k in ("cold", "elbo", "khat", "error")}
            print(name, method, seed, shown, file=sys.stderr)
    text = table(rows)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gaussian.json").write_text(json.dumps(rows, indent=1) + "\n")
    command = f"python -m benchmarks.gaussian --seeds {options.seeds}"
    intro = f"Written by `{command}` on {machine(*PACKAGES)}.\n"
    title = "# The default of vi.fit beside NumPyro"
    (options.out / "gaussian_table.md").write_text(f"{title}\n\n{intro}\n{text}\n")
    if options.readme:
        _insert(options.readme, f"{intro}\n{table(rows, brief=True)}")


def _insert(readme: pathlib.Path, text: str) -> None:
    begin, end = "<!-- begin: gaussian table -->", "<!-- end: gaussian table -->"
    before, rest = readme.read_text().split(begin)
    after = rest.split(end)[1]
    readme.write_text(f"{before}{begin}\n{text}\n{end}{after}")


if __name__ == "__main__":
    main()
