"""A new divergence in ten lines: the squared Hellinger distance, beside the ELBO.

The target is a skewed density, so that no Gaussian fits it and each divergence makes its own
compromise. An objective is a plain function of views of the target p and of the family q; how it
is differentiated is a separate choice.

    python examples/new_divergence.py [--out out] [--quick]
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import numpyro.distributions as dist
import optax

import vi

matplotlib.use("Agg")


@vi.objective
def hellinger(p, q, *, num_particles):
    """Minus the squared Hellinger distance: -E_q (sqrt(p/q) - 1)²."""
    z = q.sample(num_particles)
    log_ratio = p.log_density(z) - q.log_density(z)
    log_ratio = log_ratio - jax.nn.logsumexp(log_ratio) + jnp.log(num_particles)
    return -jnp.mean(jnp.expm1(0.5 * log_ratio) ** 2)


def log_density(x):
    """Log of a standard Gumbel variable, by two: skewed, with one long tail."""
    return dist.Gumbel(0.0, 2.0).log_prob(x).sum()


def exact(loc, scale):
    """Squared Hellinger distance and KL divergence of a Gaussian, by quadrature."""
    x = np.linspace(-15, 60, 20_001)
    log_p = np.asarray(dist.Gumbel(0.0, 2.0).log_prob(x))
    log_q = np.asarray(dist.Normal(loc, scale).log_prob(x))
    integrate = lambda f: np.sum(f) * (x[1] - x[0])
    overlap = integrate(np.exp(0.5 * (log_p + log_q)))
    return 2 - 2 * overlap, integrate(np.exp(log_q) * (log_q - log_p))


def plot(fits, path):
    """Target and fits."""
    import matplotlib.pyplot as plt

    x = np.linspace(-6, 14, 400)
    figure, axis = plt.subplots(figsize=(6.5, 3.6))
    axis.fill_between(x, np.exp(dist.Gumbel(0.0, 2.0).log_prob(x)), color="0.85", label="target")
    for (name, (loc, scale)), colour in zip(fits.items(), ("#30638e", "#d1495b"), strict=True):
        axis.plot(x, np.exp(dist.Normal(loc, scale).log_prob(x)), color=colour, label=name)
    axis.legend(frameon=False)
    axis.set_yticks([])
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(out: pathlib.Path, *, quick: bool = False) -> dict[str, tuple[float, float]]:
    """Fit with both, and compare both by quadrature."""
    out.mkdir(parents=True, exist_ok=True)
    target = vi.target(log_density, jnp.zeros(1))
    objectives = {"ELBO": vi.elbo(num_particles=64), "Hellinger": hellinger(num_particles=64)}
    fits = {}
    for name, objective in objectives.items():
        posterior = vi.fit(
            target,
            key=jax.random.key(0),
            family=vi.mean_field(1, scale=2.0),
            objective=objective,
            optimizer=optax.adam(0.02),
            num_steps=1000 if quick else 4000,
        )
        loc, scale = float(posterior.q.loc[0]), float(posterior.q.variance()[0] ** 0.5)
        distance, kl = exact(loc, scale)
        print(
            f"{name:10s} N({loc:.3f}, {scale:.3f}²): squared Hellinger distance {distance:.4f}, "
            f"KL divergence {kl:.4f}"
        )
        fits[name] = (loc, scale)
    plot(fits, out / "new_divergence.png")
    print(f"Picture: {out}/new_divergence.png")
    return fits


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"))
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    main(given.out, quick=given.quick)
