"""A posterior with funnels, by a normalizing flow, beside NUTS.

Which of ten measurements tell the progress of diabetes in 442 patients (Efron et al., 2004; the
data ship with scikit-learn)? A horseshoe prior lets each coefficient be nearly zero or free, which
makes funnels that no Gaussian fits. The flow starts as the best Gaussian; NUTS then runs in the
flow's coordinates and is the judge.

    python examples/flow_posterior.py [--out out]
"""

import argparse
import pathlib

import jax
import matplotlib
import numpy as np
import numpyro
import numpyro.distributions as dist

import samplers
import vi

matplotlib.use("Agg")


def model(x, y):
    """Linear regression under a horseshoe prior, all in standard units."""
    width = numpyro.sample("width", dist.HalfCauchy(0.3))
    local = numpyro.sample("local", dist.HalfCauchy(np.ones(x.shape[1])).to_event(1))
    beta = numpyro.sample("beta", dist.Normal(0, width * local).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(x @ beta, sigma).to_event(1), obs=y)


def load() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Standardised measurements and outcome, and the names of the measurements."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    standard = lambda a: (a - a.mean(0)) / a.std(0)
    return standard(data.data), standard(data.target), list(data.feature_names)


def picture(fits: dict[str, dict[str, np.ndarray]], names: list[str]):
    """Pairs of a coefficient and its scale, one row a measurement, one column a fit."""
    import matplotlib.pyplot as plt

    shown = [names.index(name) for name in ("age", "bp")]
    figure, axes = plt.subplots(
        len(shown), len(fits), figsize=(3 * len(fits), 5), sharex="row", sharey=True
    )
    for column, (title, draws) in enumerate(fits.items()):
        for row, j in enumerate(shown):
            scale = np.log(draws["width"] * draws["local"][:, j])
            axes[row, column].plot(draws["beta"][:, j], scale, ".", ms=2, alpha=0.25)
            axes[row, column].set_xlabel(f"beta[{names[j]}]")
        axes[0, column].set_title(title)
    for row in range(len(shown)):
        axes[row, 0].set_ylabel("log scale of its prior")
    axes[0, 0].set_ylim(-9, 3)
    figure.tight_layout()
    return figure


def main(out: pathlib.Path) -> dict[str, object]:
    """Fit, sample, compare, and save a picture under ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    with jax.enable_x64(True):  # noqa: FBT003
        x, y, names = load()
        target = vi.target(model, x, y)
        gaussian = vi.fit(target, key=jax.random.key(0))
        print(gaussian.verdict, "\n")
        flow = vi.fit(target, key=jax.random.key(0), family="neural_spline")
        print(flow.verdict, "\n")
        chains = samplers.nuts(target, key=jax.random.key(1), start=flow, target_acceptance=0.95)
        print(chains.verdict, "\n")
        draws = {
            "Gaussian": gaussian.sample(jax.random.key(2), 4000),
            "neural spline flow": flow.sample(jax.random.key(2), 4000),
            "flow, resampled": flow.resample(jax.random.key(2), 4000),
            "NUTS": chains.sample(jax.random.key(2), 4000),
        }
        print("Coefficients          ", *(f"{title:>19s}" for title in draws))
        for j, name in enumerate(names):
            betas = [d["beta"][:, j] for d in draws.values()]
            print(f"  {name:20s}", *(f"{b.mean():+10.3f} ± {b.std():.3f}" for b in betas))
        picture(draws, names).savefig(out / "flow_posterior.png", dpi=120)
        print(f"\nPicture: {out}/flow_posterior.png")
    return {"gaussian": gaussian, "flow": flow, "nuts": chains}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"))
    main(parser.parse_args().out)
