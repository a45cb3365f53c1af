"""Laws and streams: a mixture in 64 dimensions, conformal radii, a particle filter that learns.

Each row of a table is a process of its own, held to one core; CPU seconds have compilation in them.

    python -m benchmarks.laws [--parts mixture networks conformal filter] [--out docs/generated]
"""

import argparse
import json
import pathlib

import numpy as np

from benchmarks import laws_mixture, laws_networks, laws_streams
from benchmarks.process import machine, run_alone

PACKAGES = ("jax", "numpyro", "optax", "blackjax")
PARTS = {
    "mixture": laws_mixture.METHODS,
    "networks": laws_networks.METHODS,
    "conformal": laws_streams.RADII,
    "filter": laws_streams.FILTERS,
}


def one(part: str, method: str) -> dict:
    """One row in this process."""
    streams = {"conformal": laws_streams.conformal, "filter": laws_streams.following}
    laws = {"mixture": laws_mixture.mixture, "networks": laws_networks.networks}
    return {**laws, **streams}[part](method)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mixture(found: dict[str, dict]) -> str:
    """A mixture in many dimensions."""
    m, rows = laws_mixture, []
    for method, told in found.items():
        if "error" in told:
            rows.append([method, told["error"], *[""] * 5])
            continue
        both = [told[name] for name in ("reverse", "forward") if name in told]
        cells = [f"{x:.2f}" for x in both] if both else ["", ""]
        whole = f"{sum(both):.1f} ± {told['se']:.1f}" if both else "no density"
        shares = f"{min(told['shares']):.2f} to {max(told['shares']):.2f}"
        rows.append([method, f"{told['cpu']:.0f}", whole, *cells, f"{told['sliced']:.2f}", shares])
    head = ["law by", "CPU s", "symmetric KL, nats", "KL(q, p)", "KL(p, q)"]
    head += ["sliced Wasserstein", "shares of components"]
    floor = next((f"{told['floor']:.2f}" for told in found.values() if "floor" in told), "-")
    return f"""## A mixture in {m.D} dimensions

{m.COMPONENTS} equal components of unit covariance, means normal, some 11 deviations apart.
*Wasserstein flow* is `flows.wasserstein_flow` from a normal of deviation {m.WIDE:g}, {m.STEPS}
steps of {m.STEP:g} by convex maps of {m.HIDDEN} units, `estimate="density"`; *neural spline* is
that of `vi.fit`, {m.SPLINE_STEPS:,} steps, from its own start and from that wide normal; *SVGD* has
{m.PARTICLES} annealed particles, begun there too; *mean field* ends when it is done. KL by
{m.DRAWS:,} draws of q and {m.EXACT:,} exact ones; sliced Wasserstein between {m.PARTICLES} draws of
each, {floor} between exact ones. Shares of {1 / m.COMPONENTS:g} would be right; they are of the
draws nearest to a component.

{table(head, rows)}

{_alone(found)}
"""


def _alone(found: dict[str, dict]) -> str:
    """Which laws have all but lost the other components."""
    shares = {method: max(told["shares"]) for method, told in found.items() if "shares" in told}
    alone = [method for method, most in shares.items() if most > 0.95]
    if not alone:
        return "No law ends in one component."
    count = laws_mixture.COMPONENTS
    return (
        f"More than 95 % of the draws are in one component for: {', '.join(alone)}. A law that is "
        f"right\nthere, and has nothing elsewhere, has a KL(q, p) of log {count}, "
        f"{np.log(count):.2f}."
    )


def networks(found: dict[str, dict]) -> str:
    """A small network."""
    n, rows = laws_networks, []
    for method, told in found.items():
        if "error" in told:
            rows.append([method, told["error"], "", ""])
            continue
        scores = [f"{x:.3f}" for x in told["scores"]]
        rows.append([method, f"{told['cpu']:.1f}", f"{np.median(told['scores']):.3f}"])
        rows[-1].append(", ".join(scores))
    head = ["by", "CPU s of a split", "held-out log likelihood of a row, median", "of each split"]
    return f"""## A small Bayesian network

The diabetes rows of scikit-learn, {n.UNITS} hidden units of tanh, unit normal priors, {n.D}
unknowns, {n.SEEDS} splits with {n.TEST} rows held out. *Mean field* is `vi.fit`, which ends when it
is done; the chains have {n.SECONDS:g} CPU seconds for each split, a third for each of three step
sizes, of which {n.VALID} rows of the rest choose one; minibatches of {n.BATCH} rows.
*Structured SGLD* is `samplers.structured_sgld` with a group for each hidden unit; *SGLD* is the
same with one group, *SGHMC* the recursion of its article. Mean field has the rows that the chains
choose by, too.

{table(head, rows)}

{_gained(found)}
"""


def _gained(found: dict[str, dict]) -> str:
    """What the structured chains have over the best of the others."""
    medians = {k: float(np.median(told["scores"])) for k, told in found.items() if "scores" in told}
    structured = {k: x for k, x in medians.items() if k.startswith("structured")}
    others = {k: x for k, x in medians.items() if k not in structured}
    if not structured or not others:
        return ""
    best = max(others, key=lambda k: others[k])
    apart = ", ".join(f"{x - others[best]:+.3f} ({k})" for k, x in structured.items())
    return f"Beside the best of the others, {best}, structure changes the median by {apart}."


def conformal(found: dict[str, dict]) -> str:
    """Coverage of radii."""
    s, rows, hits = laws_streams, [], 0
    for method, told in found.items():
        if "error" in told:
            rows.append([told["error"], *[""] * 6])
            continue
        for row in told["rows"]:
            off = np.array(row["coverage"]) - 1 + row["alpha"]
            hits += method == s.RADII[0] and abs(off.mean()) <= 0.01
            cells = [f"{1 - row['alpha']:.2f}", row["stream"], f"{np.mean(row['coverage']):.3f}"]
            cells += [f"{np.abs(off).max():.3f}", f"{row['window']:.2f}"]
            rows.append([method, *cells, f"{row['radius']:.2f}", f"{row['loss']:.3f}"])
    head = ["radius by", "wanted", "stream", "covered", "farthest off, of the seeds"]
    head += [f"worst window of {s.WINDOW}", "mean radius", "pinball loss"]
    return f"""## Conformal coverage over changes

{s.LENGTH * len(s.SCALES):,} residuals with four changes, {s.SEEDS} seeds; radii start from
{s.CALIBRATION} residuals before them, the largest of which is the `scale` of
`samplers.online_conformal`. "scales": the standard deviation goes through {
        ", ".join(f"{x:g}" for x in s.SCALES)
    }; "heavy tails": the same, with Student's t of 3 degrees of freedom; "a predictor behind": a
series whose level jumps by 5 to 15 standard deviations, predicted by the mean of its last hundred
values. A window slides over {s.CALIBRATION} residuals; gradient steps on the pinball loss are of
{s.STEP:g} of the scale. The window is the one whose coverage is farthest off, its median over
seeds. The pinball loss is what a radius should have least of, at equal levels.

In {hits} of {len(s.STREAMS) * len(s.ALPHAS)} rows `online_conformal` covers what is wanted within
0.01 on average. Plain gradient steps do so in all of them by construction, since whatever is
missed widens the next radius; what they do not promise is to do it soon after a change. The losses
say which is to be preferred: the learned radius where a predictor falls behind, gradient steps for
heavy tails; on the scales they are within 7 % of each other.

{table(head, rows)}
"""


def following(found: dict[str, dict]) -> str:
    """The filter that learns."""
    s, rows = laws_streams, []
    spans = (0, s.SHIFT - 1), (s.SHIFT - 1, s.SHIFT + 9), (s.SHIFT + 99, s.WINDOWS - 1)
    for method, told in found.items():
        if "error" in told:
            rows.append([method, told["error"], *[""] * 5])
            continue
        mean = lambda name, told=told: [np.mean(told[name][a:b]) for a, b in spans]
        scores = [f"{x:.2f}" for x in mean("score")]
        errors = [f"{x:.3f}" for x in mean("squared")]
        learnt = ", ".join(f"{x:.2f}" for x in (told["decay"][-1], *told["noises"]))
        rows.append([method, *scores, *errors, learnt])
    when = "before", "10 windows after", "last 100 windows"
    head = ["filter", *[f"score {w}" for w in when], *[f"error {w}" for w in when]]
    listed = lambda theta: ", ".join(f"{x:g}" for x in theta)
    return f"""## A particle filter that learns on a stream

A noisy autoregression whose decay, noise of the state and noise of what is seen go from
{listed(s.BEFORE)} to {listed(s.AFTER)} at window {s.SHIFT} of {s.WINDOWS}, of {s.L} observations
each; {s.PARTICLES} particles, {s.SEEDS} seeds. All filters begin with the true parameters:
*online* is `samplers.filters.online_filter` with Adam ({s.RATE:g}), *frozen* the same without
steps, *told* is given the new parameters at the shift. They propose from the law of a state given
what is seen, *bootstrap* from the transition. The score is the log evidence of an observation,
before it is learnt from; the error is the squared one of the filtered mean.

{table([*head, "decay and noises at the end"], rows)}

The bootstrap filter ended with more noise of observation than there was, and worse filtered means.
Its objective is the mean of an estimate of the log evidence, which lies the farther below the true
one the less such noise there is; with the better proposal that gap is small. Neither learner had
caught up within 10 windows of the shift, and before it learning cost a little.
"""


WORDS = {"mixture": mixture, "networks": networks, "conformal": conformal, "filter": following}


def draw_mixture(found: dict[str, dict], path: pathlib.Path) -> None:
    """The figure: draws of each law before the components, in the plane that parts them best."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    m, told = laws_mixture, {k: v for k, v in found.items() if "error" not in v}
    figure, axes = plt.subplots(
        1, len(told), figsize=(2.4 * len(told), 2.7), layout="constrained", sharex=True, sharey=True
    )
    z = m.exact(m.SEEN, 3) @ m.plane()
    for axis, (method, row) in zip(np.atleast_1d(axes), told.items(), strict=True):
        axis.scatter(*z.T, s=3, color="0.75")
        axis.scatter(*np.array(row["seen"]).T, s=3, color="C0")
        axis.set_title(method, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw(found: dict[str, dict], path: pathlib.Path) -> None:
    """The figure: scores and decays of the filters over windows."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    s = laws_streams
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for method, told in found["filter"].items():
        if "error" in told:
            continue
        smooth = np.convolve(told["score"], np.ones(5) / 5, mode="valid")
        axes[0].plot(np.arange(len(smooth)) + 3, smooth, label=method)
        axes[1].plot(np.arange(1, s.WINDOWS), told["decay"], label=method)
    axes[0].set(xlabel="window", ylabel="log evidence of an observation, nats")
    axes[1].set(xlabel="window", ylabel="decay")
    for axis in axes:
        axis.axvline(s.SHIFT, color="0.6", linestyle=":")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure and write the page and the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("PART", "METHOD"))
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/generated"))
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(*given.one)))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "laws.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    for part in given.parts:
        found[part] = {}
        for method in PARTS[part]:
            found[part][method] = run_alone("benchmarks.laws", part, method)
            told = found[part][method]
            print(part, method, told.get("error", told.get("cpu")), flush=True)
    found = {part: found[part] for part in PARTS if part in found}
    kept.write_text(json.dumps(found) + "\n")
    pages = []
    for part, rows in found.items():
        pages.append(WORDS[part](rows))
        if part == "mixture":
            draw_mixture(rows, given.out / "laws_mixture.png")
            pages.append("![Draws, blue, before exact ones, grey](laws_mixture.png)\n")
    if "filter" in found:
        draw(found, given.out / "laws.png")
        pages.append("![Filters over a shift](laws.png)\n")
    head = f"""# Laws and streams

Written by `python -m benchmarks.laws` on {machine(*PACKAGES)}.
"""
    (given.out / "laws.md").write_text("\n".join([head, *pages]))


if __name__ == "__main__":
    main()
