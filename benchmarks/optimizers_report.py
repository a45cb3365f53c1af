"""Tables and the figure of `benchmarks.optimizers`, from its raw results."""

import pathlib

import numpy as np

ADAMS = ("adam_cosine", "adam")
GOAL = 0.05  # nats
RATES = 5  # in a grid, unless the best is at its end
SHOWN = {  # what the figure shows
    "adam_cosine": "#222222",
    "sgd_cosine": "#999999",
    "normalized_momentum": "#b5651d",
    "normalized_a_dog": "#30638e",
    "tightly_clipped_a_dog": "#7fb2d9",
    "dowg": "#3a7d44",
    "lbfgs": "#c8553d",
    "lazy_newton": "#7d3c98",
    "oasis": "#d4a017",
}


def _losses(entry: dict) -> np.ndarray:
    """Of shape (runs, segments); what is not a number is as bad as can be."""
    return np.nan_to_num(np.asarray(entry["losses"], float), nan=np.inf, posinf=np.inf)


def _methods(problem: dict) -> dict[str, dict]:
    return {key: entry for key, entry in problem["methods"].items() if entry}


def best(problem: dict) -> float:
    """The lowest loss that any run of any method has at its end or on the way."""
    return min(float(_losses(entry).min()) for entry in _methods(problem).values())


def tuned_adam(problem: dict) -> dict:
    """The better of the two Adams on the seeds for tuning."""
    entries = [problem["methods"][key] for key in ADAMS]
    return min(entries, key=lambda entry: np.nanmin(entry["tuning"]["final"]))


def final(budget: int, entry: dict) -> np.ndarray:
    """Losses of the runs when the budget of gradients is spent; infinite if none fits into it."""
    within = np.sum(np.asarray(entry["gradients"]) <= budget * (1 + 1e-9), axis=1)
    losses = _losses(entry)
    last = np.take_along_axis(losses, np.maximum(within - 1, 0)[:, None], axis=1)[:, 0]
    return np.where(within > 0, last, np.inf)


def at_time(entry: dict, seconds: float) -> np.ndarray | None:
    """Losses of the runs after some CPU seconds; None before the first evaluation."""
    losses = _losses(entry)
    reached = int(seconds / entry["cpu_seconds"] * losses.shape[1] * (1 + 1e-9))
    return losses[:, min(reached, losses.shape[1]) - 1] if reached else None


def _number(x: float) -> str:
    if not np.isfinite(x):
        return "∞"
    if abs(x) < 0.0005:
        return "0.000"
    return f"{x:.3f}" if abs(x) < 10 else (f"{x:.0f}" if abs(x) < 1e4 else f"{x:.0e}")


def _table(results: dict, cell: object, last: object = None) -> list[str]:
    order = dict.fromkeys(key for p in results.values() for key in p["methods"])
    found = {k: e["label"] for p in results.values() for k, e in _methods(p).items()}
    labels = {key: found[key] for key in order if key in found}
    extra = ["within 0.05 on"] if last else []
    rows = [["method", *results, *extra]]
    for key, label in labels.items():
        cells = []
        for problem in results.values():
            entry = _methods(problem).get(key)
            cells.append("–" if entry is None else cell(problem, entry))
        rows.append([label, *cells, *([last(key)] if last else [])])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:], ""]


def _gap_cell(problem: dict, entry: dict) -> str:
    gaps = final(problem["budget"], entry) - best(problem)
    return f"{_number(np.median(gaps))} ({_number(gaps.max())})"


def _time_cell(problem: dict, entry: dict) -> str:
    losses = at_time(entry, problem["methods"]["adam_cosine"]["cpu_seconds"])
    return "not yet" if losses is None else _number(np.median(losses) - best(problem))


def behind(problem: dict, entry: dict) -> float:
    """Nats by which the median run is behind that of the tuned Adam at equal gradients."""
    with np.errstate(invalid="ignore"):
        ours, adams = (final(problem["budget"], e) for e in (entry, tuned_adam(problem)))
        return float(np.median(ours) - np.median(adams))


def _rate_cell(problem: dict, entry: dict) -> str:
    if not entry["tuned"]:
        return "none"
    rates = entry["tuning"]["rates"]
    end = "*" if entry["rate"] in (rates[0], rates[-1]) else ""
    return f"{entry['rate']:g}{end}" + (f" ({len(rates)})" if len(rates) > RATES else "")


def _cost_cell(problem: dict, entry: dict) -> str:
    each = 1000 * entry["cpu_seconds"] / entry["steps"]
    return f"{each:.3g} ({entry['compile_seconds']:.1f})"


def markdown(results: dict) -> str:
    """The report; every number in it comes from the raw results."""

    def within(key: str) -> str:
        entries = [(p, _methods(p).get(key)) for p in results.values()]
        met = [behind(p, entry) <= GOAL for p, entry in entries if entry]
        return f"{sum(met)} of {len(met)}"

    lines = [
        "# Optimizers compared",
        "",
        "Made by `python -m benchmarks.optimizers`; the numbers are differences of negative",
        "ELBOs in nats, less is better. Medians over five seeds. A learning rate, where a method",
        "has one, was chosen by three other seeds from five rates, or, where the best of them was",
        "at an end, from ten or fifteen: fifteen further runs or more. Methods without a chosen",
        "rate below were not tuned at all. A Hessian-vector product counts as two",
        "gradients; L-BFGS pays for its draws and line searches. A dash: not for this problem, by",
        "its parameters (too many), its family or its noise.",
        "",
        *[f"- **{name}**: {p['about']}; {p['budget']} gradients." for name, p in results.items()],
        "",
        "## Equal gradients",
        "",
        "Gap to the best loss of any run, when the budget is spent: median (worst seed).",
        "",
        *_table(results, _gap_cell),
        "## Against tuned Adam, at equal gradients",
        "",
        "Nats behind the better of the two tuned Adams; negative is ahead.",
        "",
        *_table(results, lambda p, e: _number(behind(p, e)), within),
        "## Equal CPU time",
        "",
        "Median gap after the CPU time that Adam with a cosine schedule takes for its budget, or",
        "at the end of a method's own budget where that comes first.",
        "",
        *_table(results, _time_cell),
        "## Learning rates chosen",
        "",
        "A star marks an end of the grid; in brackets is how many rates were tried, if not five.",
        "",
        *_table(results, _rate_cell),
        "## Milliseconds of CPU a step (seconds to compile)",
        "",
        *_table(results, _cost_cell),
        "![Gap against gradients](optimizers.png)",
        "",
    ]
    return "\n".join(lines)


def figure(results: dict, path: pathlib.Path) -> None:
    """Median gap against gradients, one panel a problem."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    shape = {"figsize": (4 * columns, 2.7 * rows), "squeeze": False}
    picture, axes = plt.subplots(rows, columns, **shape)
    lines = {}
    for axis, (name, problem) in zip(axes.flat, results.items(), strict=False):
        lowest = best(problem)
        for key, entry in _methods(problem).items():
            if key in SHOWN:
                gap = np.median(_losses(entry), axis=0) - lowest
                gap = np.where(np.isfinite(gap), np.maximum(gap, 1e-4), np.nan)
                x = np.median(np.asarray(entry["gradients"]), axis=0)
                (lines[entry["label"]],) = axis.plot(x, gap, color=SHOWN[key], lw=1.4)
        axis.set(yscale="log", title=name, xlim=(0, problem["budget"]))
        axis.set_ylim(top=min(axis.get_ylim()[1], 1e6))
        axis.axhline(GOAL, color="grey", lw=0.6, ls=":")
    for axis in axes.flat[len(results) :]:
        axis.axis("off")
    for axis in axes[:, 0]:
        axis.set_ylabel("gap to the best, nats")
    for axis in axes[-1]:
        axis.set_xlabel("gradients")
    picture.legend(lines.values(), lines.keys(), loc="lower center", ncols=4, fontsize=8)
    picture.tight_layout(rect=(0, 0.1, 1, 1))
    picture.savefig(path, dpi=90)
    plt.close(picture)


def write(results: dict, docs: pathlib.Path) -> None:
    """Write ``optimizers.md`` and ``optimizers.png`` under ``docs``."""
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "optimizers.md").write_text(markdown(results))
    figure(results, docs / "optimizers.png")
