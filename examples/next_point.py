"""Where to look next: constrained Bayesian optimisation, and labels where they are needed.

The first is a problem of two coordinates whose constraint is as unknown as its objective; with the
constraint raised beyond what any point can meet, it is declared infeasible. The second asks for the
places on a terrain that are above 670 metres, a label at a time where the process is least sure.

    python examples/next_point.py [--out out]
"""

import argparse
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import gp

matplotlib.use("Agg")
BOX = np.array([[0.0, 6.0], [0.0, 6.0]])
FIRST, STEPS = 10, 40
LABELS, BATCH, ROUNDS, LEVEL = 60, 10, 12, 670.0


def objective(x: np.ndarray) -> np.ndarray:
    """To be minimised."""
    return np.cos(2 * x[:, 0]) * np.cos(x[:, 1]) + np.sin(x[:, 0])


def constraint(x: np.ndarray) -> np.ndarray:
    """Not to be positive."""
    return np.cos(x[:, 0] + x[:, 1]) + 0.5


def grid(sides: list, count: int) -> np.ndarray:
    """Points of a regular grid."""
    lines = [np.linspace(low, high, count) for low, high in sides]
    return np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, len(lines))


def begin(x: np.ndarray, y: np.ndarray) -> gp.Stream:
    """A process of the first points with hyperparameters that are a guess, as a stream."""
    first = gp.fit(
        x,
        y,
        key=jax.random.key(0),
        kernel=gp.SquaredExponential(jnp.full(2, 0.8), 1.0),
        likelihood=gp.Gaussian(1e-4),
        train=False,
        method="inducing",
        method_options={"inducing": grid(BOX.tolist(), 13)},
    )
    return gp.stream(first, key=jax.random.key(0), num_memory=0)


def optimise(limit: Callable, seed: int) -> dict:
    """Points until the steps are over, or the problem is declared infeasible."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(BOX[:, 0], BOX[:, 1], size=(FIRST, 2))
    flows = [begin(x, f(x)) for f in (objective, limit)]
    for step in range(STEPS):
        key = jax.random.fold_in(jax.random.key(seed), step)
        found = gp.propose(
            flows[0], BOX, key=key, constraints=flows[1:], num_points=512, num_rounds=12
        )
        if not found.feasible:
            return {"x": x, "declared": step}
        new, x = found.x[None], np.concatenate([x, found.x[None]])
        pairs = zip(flows, (objective, limit), strict=True)
        flows = [flow.update(new, f(new), key=key, num_memory=0) for flow, f in pairs]
    return {"x": x, "declared": None}


def best_so_far(x: np.ndarray) -> np.ndarray:
    """The least objective at points that meet the constraint to 0.01."""
    values = np.where(constraint(x) <= 0.01, objective(x), np.inf)
    return np.minimum.accumulate(values)


def terrain() -> tuple[np.ndarray, np.ndarray]:
    """Places in cells, and whether they are high."""
    from matplotlib.cbook import get_sample_data

    heights = get_sample_data("jacksboro_fault_dem.npz")["elevation"][100:150, 100:150]
    return grid([(0, 49), (0, 49)], 50), (heights.ravel() > LEVEL).astype(float)


def label(seed: int, *, informed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy on all cells after each round, and the cells that were labelled."""
    cells, high = terrain()
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(cells))[:LABELS]
    first = gp.fit(
        cells[chosen],
        high[chosen],
        key=jax.random.key(seed),
        kernel=gp.Matern(jnp.full(2, 10.0), 9.0),
        likelihood=gp.Bernoulli(),
        train=False,
        method="inducing",
        method_options={"inducing": grid([(0, 49), (0, 49)], 10)},
    )
    flow = gp.stream(first, key=jax.random.key(seed), num_memory=LABELS)
    right = []
    for number in range(ROUNDS):
        mean, variance = flow.predict(cells)
        right.append(np.mean((mean > 0) == high))
        doubt = 1.96 * np.sqrt(variance) - np.abs(mean) if informed else rng.random(len(cells))
        doubt[chosen] = -np.inf
        near = np.argsort(-doubt)[: 10 * BATCH]
        new = rng.permutation(near)[:BATCH]  # not ten neighbours of one doubtful cell
        chosen = np.concatenate([chosen, new])
        key = jax.random.fold_in(jax.random.key(seed), number)
        flow = flow.update(cells[new], high[new], key=key, num_memory=LABELS)
    return np.asarray(right), chosen


def main(out: pathlib.Path) -> dict:
    """Run both, print what came of them, and save a picture under ``out``."""
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    with jax.enable_x64(True):  # noqa: FBT003
        runs = [optimise(constraint, seed) for seed in range(3)]
        never = optimise(lambda x: constraint(x) + 1.0, 0)
        asked = [label(seed, informed=True) for seed in range(3)]
        random = [label(seed, informed=False) for seed in range(3)]
    cells = grid(BOX.tolist(), 401)
    best = objective(cells)[constraint(cells) <= 0].min()
    gaps = [best_so_far(run["x"])[-1] - best for run in runs]
    guess = [
        best_so_far(np.random.default_rng(seed).uniform(0, 6, (FIRST + STEPS, 2)))[-1] - best
        for seed in range(100)
    ]
    print(
        f"least feasible value {best:.3f}; after {FIRST} + {STEPS} points above it by "
        f"{', '.join(f'{gap:.3f}' for gap in gaps)}; at random by {np.median(guess):.3f}"
    )
    when = never["declared"]
    said = f"not declared in {STEPS}" if when is None else f"declared infeasible after {when}"
    print(f"with no feasible point: {said} proposals")
    curve = {
        "asked": np.mean([a for a, _ in asked], 0),
        "random": np.mean([a for a, _ in random], 0),
    }
    for name, values in curve.items():
        print(
            f"labels {name:7s} right {100 * values[0]:.1f} % at {LABELS}, "
            f"{100 * values[-1]:.1f} % at {LABELS + BATCH * (ROUNDS - 1)}"
        )
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), constrained_layout=True)
    shape = (401, 401)
    line = np.linspace(0, 6, 401)
    axes[0].contourf(line, line, objective(cells).reshape(shape).T, 20, cmap="viridis")
    bad = np.where(constraint(cells) > 0, 1.0, np.nan).reshape(shape).T
    axes[0].contourf(line, line, bad, [0.5, 1.5], colors="white", alpha=0.6)
    x = runs[0]["x"]
    axes[0].plot(*x[:FIRST].T, "k.", label="first")
    axes[0].scatter(*x[FIRST:].T, c=np.arange(STEPS), cmap="autumn", s=18, label="proposed")
    axes[0].set_title("proposals; white: the constraint is not met")
    axes[0].legend(fontsize=8)
    for run in runs:
        axes[1].plot(np.maximum(best_so_far(run["x"]) - best, 1e-4), color="#30638e")
    axes[1].set_yscale("log")
    axes[1].axhline(np.median(guess), color="grey", linestyle=":")
    axes[1].set_title("gap to the best; dotted: as many at random")
    counts = LABELS + BATCH * np.arange(ROUNDS)
    for name, values in curve.items():
        axes[2].plot(counts, 100 * values, label=name)
    axes[2].set_title("cells named rightly, %")
    axes[2].set_xlabel("labels")
    axes[2].legend()
    figure.savefig(out / "next_point.png", dpi=110)
    print(f"Picture: {out}/next_point.png")
    return {"gaps": gaps, "declared": never["declared"], **curve}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"))
    main(parser.parse_args().out)
