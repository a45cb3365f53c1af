"""A small Bayesian neural network on real data: Adam against optimizers that need no tuning.

How far has diabetes come in a year? 442 patients, ten measurements each, the data that ship with
scikit-learn. Eight hidden units, a mean-field Gaussian over the 98 unknowns; the same model,
start and number of steps for every optimizer. Adam is given its usual learning rate and one ten
times as large; the others have none to give. One of them, DoWG, shows what goes wrong when a rule
of this kind meets gradients that are now and then enormous, and clipping or normalising is what
keeps its faster sibling, A-DoG, from the same fate. OASIS has eight Hessian-vector products in
each step.

    python examples/bayesian_neural_network.py [--steps 4000] [--out out]
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax

import optim
import vi

matplotlib.use("Agg")
HIDDEN = 8


def network(draws, X):
    """The mean response of each row, for one draw of the weights."""
    hidden = jnp.tanh(X @ draws["inner"] / X.shape[1] ** 0.5 + draws["shift"])
    return hidden @ draws["outer"] / HIDDEN**0.5 + draws["offset"]


def model(X, y=None):
    """One hidden layer, unit normal weights, unknown noise."""
    normal = lambda name, *shape: numpyro.sample(
        name, dist.Normal(0, 1).expand(shape).to_event(len(shape))
    )
    weights = {
        "inner": normal("inner", X.shape[1], HIDDEN),
        "shift": normal("shift", HIDDEN),
        "outer": normal("outer", HIDDEN),
        "offset": normal("offset"),
    }
    noise = numpyro.sample("noise", dist.LogNormal(0, 1))
    with numpyro.plate("patients", len(X)):
        numpyro.sample("y", dist.Normal(network(weights, X), noise), obs=y)


def load(seed=0):
    """Standardised measurements and responses; train and test rows."""
    from sklearn.datasets import load_diabetes

    X, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    train, test = order[:342], order[342:]
    standard = lambda a: (a - a[train].mean(0)) / a[train].std(0)
    X, y = standard(X), standard(y)
    return X[train], y[train], X[test], y[test]


def held_out(draws, X, y):
    """Mean log predictive density of each held-out patient, nats, and root mean squared error."""
    means = jax.vmap(lambda draw: network(draw, X))(
        {name: draws[name] for name in ("inner", "shift", "outer", "offset")}
    )
    log_p = dist.Normal(means, draws["noise"][:, None]).log_prob(y)
    density = jax.nn.logsumexp(log_p, axis=0) - np.log(len(log_p))
    return float(jnp.mean(density)), float(jnp.sqrt(jnp.mean((means.mean(0) - y) ** 2)))


OPTIMIZERS = {
    "Adam 0.01": optax.adam(0.01),
    "Adam 0.1": optax.adam(0.1),
    "normalised A-DoG": optim.a_dog(normalize=True),
    "clipped A-DoG": optax.chain(optim.clip_by_ema_norm(), optim.a_dog()),
    "OASIS": optim.oasis(jax.random.key(2)),
    "DoWG": optim.dowg(),
}


def main(out: pathlib.Path, steps: int = 4000) -> dict[str, vi.Posterior]:
    """Fit with each optimizer, compare, and save a picture under ``out``."""
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    X, y, X_test, y_test = load()
    rng = np.random.default_rng(1)
    shapes = {"inner": (X.shape[1], HIDDEN), "shift": (HIDDEN,), "outer": (HIDDEN,), "offset": ()}
    start = {name: 0.3 * rng.normal(size=shape) for name, shape in shapes.items()}
    start["noise"] = np.array(1.0)

    fits = {}
    print(f"{steps} steps of 10 draws; the answers are averages of the iterates.\n")
    print(f"{'':18s} {'ELBO':>16s} {'held-out density':>18s} {'error':>7s} {'seconds':>8s} verdict")
    for name, optimizer in OPTIMIZERS.items():
        fit = vi.fit(
            *(model, X),
            y=y,
            key=jax.random.key(0),
            family="mean_field",
            optimizer=optimizer,
            num_steps=steps,
            init=start,
        )
        density, error = held_out(fit.sample(jax.random.key(1), 1000), X_test, y_test)
        seconds = fit.cost["seconds"]
        elbo = f"{fit.elbo:9.2f} ± {fit.elbo_sem:4.2f}"
        judged = f"{density:18.4f} {error:7.4f} {seconds:8.1f} {fit.verdict.grade}"
        print(f"{name:18s} {elbo:>16s} {judged}")
        fits[name] = fit

    figure, axis = plt.subplots(figsize=(7, 4.2))
    best = max(fit.elbo for fit in fits.values())
    for name, fit in fits.items():
        axis.plot(fit.history["step"], fit.history["elbo"], lw=1.2, label=name)
    axis.set(xlabel="step", ylabel="ELBO of the iterates, nats", ylim=(best - 60, best + 5))
    axis.legend()
    figure.tight_layout()
    figure.savefig(out / "bayesian_neural_network.png", dpi=120)
    print(f"\nPicture: {out}/bayesian_neural_network.png")
    return fits


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"))
    options = parser.parse_args()
    main(options.out, options.steps)
