"""Eight schools: a funnel that no Gaussian fits, a verdict that says so, and what to do about it.

The effects of coaching in eight schools (Rubin, 1981), with the data and the reference draws of
MCMC that ship with ArviZ. In its centred form the posterior is a funnel: where the spread tau of
the schools is small, their effects are tied together.

    python examples/eight_schools.py [--out out]
"""

import argparse
import pathlib
import warnings

import jax
import matplotlib
import numpy as np
import numpyro
import numpyro.distributions as dist

import vi

matplotlib.use("Agg")
SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])  # standard errors of the effects


def model(y, sigma):
    """The effects, partially pooled."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([len(y)]).to_event(1))
    numpyro.sample("y", dist.Normal(theta, sigma).to_event(1), obs=y)


def load():
    """Observed effects, and draws of MCMC: ``y, {site: (S, *shape)}``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz

        data = arviz.load_arviz_data("non_centered_eight")
    stacked = data.posterior.stack(sample=("chain", "draw"))
    draws = {name: stacked[name].transpose("sample", ...).values for name in ("mu", "tau", "theta")}
    return data.observed_data["obs"].values, draws


def main(out: pathlib.Path) -> dict[str, vi.Posterior]:
    """Fit, compare, and save pictures under ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    y, reference = load()

    gaussian = vi.fit(model, y, sigma=SIGMA, key=jax.random.key(0))
    print("The best Gaussian:\n", gaussian.summary(), f"\n{gaussian.verdict}\n")

    richer = vi.fit(model, y, sigma=SIGMA, key=jax.random.key(0), family="auto")
    print("Richer families, as the verdict advises:")
    for rung in richer.rungs:
        print(f"  {rung['family']:40s} ELBO {rung['elbo']:.2f}  k-hat {rung['khat']:.2f}")
    print(richer.verdict, "\n")

    corrected = richer.resample(jax.random.key(1), 4000)
    print("Means and standard deviations    Gaussian         auto    corrected         MCMC")
    columns = [fit.sample(jax.random.key(2), 4000) for fit in (gaussian, richer)]
    for name in ("mu", "tau"):
        cells = [f"{d[name].mean():5.2f} ± {d[name].std():4.2f}" for d in (*columns, corrected)]
        cells.append(f"{reference[name].mean():5.2f} ± {reference[name].std():4.2f}")
        print(f"  {name:28s}", *cells)

    sites = ["mu", "tau", "theta"]
    for name, fit in (("gaussian", gaussian), ("auto", richer)):
        figure = fit.plot_marginals(sites, reference=reference, most=4)
        figure.savefig(out / f"eight_schools_{name}.png", dpi=120)
    richer.plot_pairs(["mu", "tau", "theta"], most=4).savefig(
        out / "eight_schools_pairs.png", dpi=120
    )
    print(f"\nPictures: {out}/eight_schools_*.png")
    return {"gaussian": gaussian, "auto": richer}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"))
    main(parser.parse_args().out)
