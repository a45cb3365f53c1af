"""A map from a thousand points of the elevation grid that ships with Matplotlib.

The process is exact. Its verdict says how well the points predict each other; two thousand heights
that it has not seen are the test, by the whole posterior and by the fifty nearest points alone.

    python examples/elevation.py [--out out]
"""

import argparse
import pathlib

import jax
import matplotlib
import numpy as np

import gp

matplotlib.use("Agg")
KEPT, HELD_OUT = 1000, 2000
CELL = np.array([0.077, 0.093])  # kilometres


def load() -> tuple[np.ndarray, ...]:
    """Places in kilometres and heights in hundreds of metres: kept, and held out."""
    from matplotlib.cbook import get_sample_data

    with get_sample_data("jacksboro_fault_dem.npz") as file:
        heights = file["elevation"].astype(float) / 100
    rows, columns = np.indices(heights.shape)
    places = CELL * np.stack([columns.ravel(), rows.ravel()], 1)
    chosen = np.random.default_rng(0).permutation(heights.size)[: KEPT + HELD_OUT]
    x, y = places[chosen], heights.ravel()[chosen]
    return x[:KEPT], y[:KEPT], x[KEPT:], y[KEPT:]


def main(out: pathlib.Path) -> gp.Posterior:
    """Fit, predict, and save a picture under ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    with jax.enable_x64(True):  # noqa: FBT003
        x, y, x_new, y_new = load()
        posterior = gp.fit(x, y, key=jax.random.key(0))
        print(posterior, "\n")
        print(posterior.summary(), "\n")
        for method in ("posterior", "local"):
            found = posterior.predict(x_new, method=method)
            density = posterior.log_predictive_density(x_new, y_new, method=method).mean()
            error = 100 * np.sqrt(np.mean((found.mean - y_new) ** 2))
            print(f"{method}: {density:.3f} nats a height held out, error {error:.0f} m")
        posterior.plot(points=120).savefig(out / "elevation.png", dpi=120)
        print(f"Picture: {out}/elevation.png")
    return posterior


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"))
    main(parser.parse_args().out)
