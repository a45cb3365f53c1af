"""Data that come once: sunspots by the decade, and digits two classes at a time.

Sunspots: yearly numbers since 1700 in eleven batches, each seen once; what the stream knows in the
end of years left out, beside a fit to all years at once. Digits: the classes come in pairs, and in
the end all ten are asked for, with a memory of informative digits, without one, and beside a fit
to all of them.

    python examples/streams.py [--out out]
"""

import argparse
import pathlib

import jax
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import gp

matplotlib.use("Agg")
BATCHES, EVERY = 11, 4  # of sunspots; and which years are left out
PER_CLASS, INDUCING, MEMORY = 60, 100, 150  # of digits


def sunspots() -> tuple[np.ndarray, ...]:
    """Years and roots of sunspot numbers: seen, and left out."""
    from statsmodels.datasets import sunspots as table_of

    table = table_of.load_pandas().data
    x, y = table["YEAR"].to_numpy(), np.sqrt(table["SUNACTIVITY"].to_numpy())
    out = np.arange(len(x)) % EVERY == EVERY - 1
    return x[~out], y[~out], x[out], y[out]


def by_the_decade(key: jax.Array) -> tuple[gp.Stream, gp.Posterior]:
    """The stream of sunspots, and the fit to all of them."""
    x, y, x_new, y_new = sunspots()
    z = np.linspace(x[0], x[-1], 120)
    options = {"key": key, "method": "inducing", "method_options": {"inducing": z}}
    start = {"kernel": gp.Matern(3.0, 10.0), "likelihood": gp.Gaussian(0.5)}
    start["mean"] = gp.ConstantMean(6.0)
    batches = np.array_split(np.arange(len(x)), BATCHES)
    first = gp.fit(x[batches[0]], y[batches[0]], **start, **options)
    flow = gp.stream(first, key=key, num_memory=60)
    for number, rows in enumerate(batches[1:]):
        here = jax.random.fold_in(key, number)
        flow = flow.update(x[rows], y[rows], key=here, num_memory=60, num_steps=30)
    whole = gp.fit(x, y, **start, **options)
    pair = [-found.log_predictive_density(x_new, y_new).mean() for found in (flow, whole)]
    print(
        f"Sunspots, {len(x)} years in {BATCHES} batches, {len(x_new)} left out: NLPD of the stream "
        f"{pair[0]:.4f}, of the fit to all {pair[1]:.4f} ({100 * (pair[0] / pair[1] - 1):+.2f} %)"
    )
    return flow, whole


def digits() -> tuple[np.ndarray, ...]:
    """Images of eight by eight pixels and their classes: seen, and left out."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = x / 16.0, y.astype(float)
    order = np.random.default_rng(0).permutation(len(y))
    chosen = np.concatenate([order[y[order] == c][:PER_CLASS] for c in range(10)])
    rest = np.setdiff1d(order, chosen)
    return x[chosen], y[chosen], x[rest], y[rest]


def pair_by_pair(key: jax.Array) -> dict[str, list[float]]:
    """Accuracy on digits left out of the classes seen so far, after each pair of them."""
    x, y, x_new, y_new = digits()
    options = {
        "key": key,
        "kernel": gp.SquaredExponential(2.0, 4.0),
        "mean": gp.ConstantMean(0.0),
        "likelihood": gp.Categorical(10),
        "method": "inducing",
        "method_options": {"num_inducing": INDUCING},
        "train": False,
    }
    right = lambda found, rows: float(
        np.mean(np.argmax(found.predict_y(x_new[rows])[0], 1) == y_new[rows])
    )
    first = gp.fit(x[y < 2], y[y < 2], **options)
    found: dict[str, list[float]] = {}
    for name, size in (("with memory", MEMORY), ("without", 0)):
        flow = gp.stream(first, key=key, num_memory=size)
        found[name] = [right(flow, y_new < 2)]
        for low in range(2, 10, 2):
            rows = (y >= low) & (y < low + 2)
            here = jax.random.fold_in(key, low)
            flow = flow.update(x[rows], y[rows], key=here, num_memory=size, move=True)
            found[name].append(right(flow, y_new < low + 2))
        steps = ", ".join(f"{100 * share:.1f}" for share in found[name])
        print(f"Digits {name}: {steps} % right, pair by pair", flush=True)
    whole = gp.fit(x, y, **options)
    found["all at once"] = [right(whole, y_new < 10)]
    share = 100 * found["all at once"][0]
    print(f"Digits all at once: {share:.1f} % right of {len(y_new)} left out", flush=True)
    return found


def picture(flow: gp.Stream, whole: gp.Posterior, found: dict[str, list[float]]) -> Figure:
    """Sunspots by the stream and by all data; accuracies as the pairs come."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(3, 2))
    x, _, x_new, y_new = sunspots()
    years = np.linspace(x[0], x[-1], 600)
    mean, variance = flow.predict_y(years)
    spread = 2 * np.sqrt(variance)
    left.fill_between(years, mean - spread, mean + spread, color="tab:blue", alpha=0.2, lw=0)
    left.plot(years, mean, color="tab:blue", label="stream")
    left.plot(years, whole.predict(years).mean, "k:", lw=1, label="all at once")
    left.plot(x_new, y_new, ".", ms=4, color="tab:orange", label="left out")
    for rows in np.array_split(x, BATCHES)[1:]:
        line = left.axvline(rows[0], color="0.8", lw=0.8, zorder=0)
    line.set_label("a batch begins")
    left.set(xlabel="year", ylabel="root of the sunspot number", ylim=(-4, 20))
    left.legend(loc="upper left", ncols=4, fontsize=8)
    pairs = np.arange(1, 6)
    for name in ("with memory", "without"):
        right.plot(pairs, 100 * np.array(found[name]), "o-", label=name)
    right.plot(5, 100 * found["all at once"][0], "k*", ms=11, label="all ten at once")
    right.set(xlabel="pairs of digits seen", ylabel="% right of classes seen", xticks=pairs)
    right.legend(fontsize=8, loc="lower left")
    figure.tight_layout()
    return figure


def main(out: pathlib.Path) -> dict[str, list[float]]:
    """Run both, and save a picture under ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    key = jax.random.key(0)
    with jax.enable_x64(True):  # noqa: FBT003
        flow, whole = by_the_decade(key)
        found = pair_by_pair(key)
        picture(flow, whole, found).savefig(out / "streams.png", dpi=120)
    print(f"Picture: {out}/streams.png")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"))
    main(parser.parse_args().out)
