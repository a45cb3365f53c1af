"""Logistic regression: is a tumour malignant? 30 measurements of 569 cell samples.

The Wisconsin breast cancer data that ship with scikit-learn, with a normal prior on the
coefficients. The fit takes seconds; held-out data say what the uncertainty is worth, beside the
single best point.

    python examples/logistic_regression.py [--out out]
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import numpyro
import numpyro.distributions as dist

import vi

matplotlib.use("Agg")


def model(X, y=None):
    """Coefficients of standardised measurements, and an intercept."""
    intercept = numpyro.sample("intercept", dist.Normal(0, 5))
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("patients", len(X)):
        numpyro.sample("y", dist.Bernoulli(logits=intercept + X @ beta), obs=y)


def load(seed=0):
    """Standardised measurements, 0 for benign and 1 for malignant, names; train and test rows."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    order = np.random.default_rng(seed).permutation(len(data.target))
    train, test = order[:400], order[400:]
    X = (data.data - data.data[train].mean(0)) / data.data[train].std(0)
    y = 1.0 - data.target
    return X[train], y[train], X[test], y[test], list(data.feature_names)


def held_out(draws, X, y):
    """Mean log predictive density of each held-out patient, nats, and accuracy."""
    logits = draws["intercept"][:, None] + draws["beta"] @ X.T
    log_p = np.asarray(dist.Bernoulli(logits=jnp.asarray(logits)).log_prob(y))
    predictive = np.logaddexp.reduce(log_p, axis=0) - np.log(len(log_p))
    chance = 1 / (1 + np.exp(-logits))
    return predictive.mean(), np.mean((chance.mean(0) > 0.5) == y)


def plot(posterior, names, path):
    """Coefficients with their central 90 % intervals, largest first."""
    import matplotlib.pyplot as plt

    beta = posterior.sample(jax.random.key(1), 4000)["beta"]
    low, middle, high = np.quantile(beta, [0.05, 0.5, 0.95], axis=0)
    order = np.argsort(np.abs(middle))
    figure, axis = plt.subplots(figsize=(7, 6.5))
    rows = np.arange(len(order))
    axis.hlines(rows, low[order], high[order], color="#30638e", lw=2)
    axis.plot(middle[order], rows, "o", color="#30638e", ms=4)
    axis.axvline(0, color="grey", lw=0.8)
    axis.set_yticks(rows, [names[i] for i in order], fontsize=8)
    axis.set_xlabel("change in log odds of malignancy per standard deviation (90 % intervals)")
    axis.set_title(f"verdict: {posterior.verdict.grade}, k-hat {posterior.khat:.2f}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(out: pathlib.Path) -> vi.Posterior:
    """Fit, judge on held-out data, and save a picture under ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    X, y, X_test, y_test, names = load()

    posterior = vi.fit(model, X, y=y, key=jax.random.key(0))
    print(posterior.summary())
    print(f"\n{posterior.verdict}")
    cost = posterior.cost
    print(f"{cost['gradients']} gradients, {cost['seconds']:.1f} s with compilation.\n")

    point = vi.fit(model, X, y=y, key=jax.random.key(0), family="delta")
    for label, fit in (("posterior", posterior), ("best point", point)):
        density, accuracy = held_out(fit.sample(jax.random.key(2), 2000), X_test, y_test)
        print(f"held out, {label:10s}: log density {density:.4f} nats, accuracy {accuracy:.3f}")

    plot(posterior, names, out / "logistic_regression.png")
    posterior.plot_elbo().savefig(out / "logistic_regression_elbo.png", dpi=120)
    print(f"\nPictures: {out}/logistic_regression*.png")
    return posterior


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"))
    main(parser.parse_args().out)
