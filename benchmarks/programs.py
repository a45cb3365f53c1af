"""What programs cost beside hand-written JAX and NumPyro: variance, compilation, time, memory.

python -m benchmarks.programs [--only discrete flips sites vae]
"""

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import Trace_ELBO, TraceGraph_ELBO

import vi
from benchmarks.process import machine

KEY = jax.random.key(0)
PACKAGES = ("jax", "numpyro")
ABOUT = (
    "Compilation is CPU seconds of the process, tracing included; steps are medians of interleaved "
    "rounds, so that a busy machine slows all peers alike. What counts are ratios, to the first "
    "row. What is cited was not run here."
)


def compiled(function, *args):
    """The compiled function, and CPU seconds of tracing and compiling it."""
    start = time.process_time()
    done = jax.jit(function).lower(*args).compile()
    return done, time.process_time() - start


def medians(functions, *args, rounds=30, repeats=20):
    """Median milliseconds of each, in interleaved rounds."""
    times = {name: [] for name in functions}
    for f in functions.values():
        jax.block_until_ready(f(*args))
    for _ in range(rounds):
        for name, f in functions.items():
            start = time.perf_counter()
            for _ in range(repeats):
                out = f(*args)
            jax.block_until_ready(out)
            times[name].append((time.perf_counter() - start) / repeats * 1e3)
    return {name: float(np.median(t)) for name, t in times.items()}


def table(title, header, rows):
    """A section with a table, in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join([f"## {title}\n", *("| " + " | ".join(map(str, x)) + " |" for x in lines), ""])


# ---- a discrete autoencoder: 64 rows of 6 bits -------------------------------------------------


def discrete():
    n, bits, dim = 64, 6, 16
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(bits, dim)), jnp.float32)
    truth = rng.integers(0, 2, (n, bits))
    x = jnp.asarray(truth @ np.asarray(weights) + rng.normal(size=(n, dim)), jnp.float32)
    params = {
        "w": jnp.asarray(0.01 * rng.normal(size=(dim, bits)), jnp.float32),
        "b": jnp.zeros(bits),
    }

    def model(x):
        with numpyro.plate("rows", n):
            z = numpyro.sample("z", dist.Bernoulli(0.5 * jnp.ones(bits)).to_event(1))
            numpyro.sample("x", dist.Normal(z @ weights, 1.0).to_event(1), obs=x)

    def guide(x):
        w, b = numpyro.param("w", params["w"]), numpyro.param("b", params["b"])
        with numpyro.plate("rows", n):
            numpyro.sample("z", dist.Bernoulli(logits=x @ w + b).to_event(1))

    score, plain = vi.Score(), vi.Score(baseline="none")
    losses = {  # with evaluations of the model for each datum
        "NumPyro TraceGraph_ELBO, 8 draws": (TraceGraph_ELBO(num_particles=8), 8),
        "vi.Score, 8 draws": (vi.elbo(num_particles=8, estimator=score), 8),
        "vi.Score, 2 draws": (vi.elbo(num_particles=2, estimator=score), 2),
        "vi.Score('none'), 8 draws": (vi.elbo(num_particles=8, estimator=plain), 8),
        "vi.MeasureValued, 1 draw": (vi.elbo(estimator=vi.MeasureValued()), 1 + bits),
        "vi.Enumerate (default)": (vi.elbo(), 2**bits),
    }
    steps, rows = {}, []
    for name, (loss, evaluations) in losses.items():
        one = jax.value_and_grad(lambda p, key, x, loss=loss: loss.loss(key, p, model, guide, x))
        steps[name], seconds = compiled(one, params, KEY, x)
        many = jax.jit(
            lambda keys, one=one: jax.lax.map(lambda k: one(params, k, x)[1], keys, batch_size=50)
        )
        grads = many(jax.random.split(KEY, 2000))
        variance = sum(float(g.var(0).sum()) for g in jax.tree.leaves(grads))
        rows.append([name, evaluations, f"{seconds:.1f}", f"{variance:.3g}"])
    times = medians(steps, params, KEY, x)
    first = next(iter(times.values()))
    for row, ms in zip(rows, times.values(), strict=True):
        row += [f"{ms:.3f}", f"{ms / first:.2f}"]
    header = [
        "estimator of the ELBO", "evaluations", "compile s", "gradient variance", "step ms", "ratio"
    ]  # fmt: skip
    return table("Discrete autoencoder, 64 x 6 Bernoulli, amortised guide", header, rows)


# ---- six enumerated coin flips -----------------------------------------------------------------


def flips():
    def model():
        total = 0.0
        for i in range(6):
            total = total + numpyro.sample(f"z{i}", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(total, 1.0), obs=2.5)

    def guide():
        logits = numpyro.param("logits", jnp.zeros(6))
        for i in range(6):
            numpyro.sample(f"z{i}", dist.Bernoulli(logits=logits[i]))

    at = {"logits": jnp.linspace(-1, 1, 6)}
    objective = vi.elbo(estimator=vi.Enumerate())
    step = jax.value_and_grad(lambda p, key: objective.loss(key, p, model, guide))
    _, seconds = compiled(step, at, KEY)
    rows = [["vi.Enumerate", f"{seconds:.2f}"], ["(GenJAX 1.0.13, flip_enum, cited)", "101"]]
    rows.append(["(NumPyro TraceEnum_ELBO with funsor, cited)", "4.7"])
    return table("Six enumerated coin flips", ["", "trace and compile, CPU s"], rows)


# ---- forty scalar sites ------------------------------------------------------------------------


def sites():
    n = 40

    def model():
        before = 0.0
        for i in range(n):
            before = numpyro.sample(f"z{i}", dist.Normal(0.9 * before, 1.0))
        numpyro.sample("y", dist.Normal(before, 1.0), obs=1.0)

    def guide():
        loc = numpyro.param("loc", jnp.zeros(n))
        scale = numpyro.param("scale", jnp.ones(n))
        for i in range(n):
            numpyro.sample(f"z{i}", dist.Normal(loc[i], scale[i]))

    def by_hand(p, key):
        z = p["loc"] + p["scale"] * jax.random.normal(key, (n,))
        normal = lambda x, m, s: -0.5 * ((x - m) / s) ** 2 - jnp.log(s) - 0.5 * jnp.log(2 * jnp.pi)
        before, out = 0.0, 0.0
        for i in range(n):
            out = out + normal(z[i], 0.9 * before, 1.0) - normal(z[i], p["loc"][i], p["scale"][i])
            before = z[i]
        return -out - normal(1.0, before, 1.0)

    at = {"loc": jnp.zeros(n), "scale": jnp.ones(n)}
    peers = {
        "hand-written, one flat draw": by_hand,
        "vi.elbo()": lambda p, key: vi.elbo().loss(key, p, model, guide),
        "NumPyro Trace_ELBO": lambda p, key: Trace_ELBO().loss(key, p, model, guide),
    }
    compiled(jax.value_and_grad(by_hand), at, KEY)  # warm up the compiler itself
    rows, first = [], None
    for name, loss in peers.items():
        _, seconds = compiled(jax.value_and_grad(loss), at, KEY)
        first = first or seconds
        rows.append([name, f"{seconds:.1f}", f"{seconds / first:.2f}"])
    return table(
        "A chain of 40 scalar Normal sites", ["", "trace and compile, CPU s", "ratio"], rows
    )


# ---- a variational autoencoder -----------------------------------------------------------------


def vae():
    data, hidden, latent, batch = 784, 400, 20, 128
    shapes = {
        "e1": (data, hidden), "e2": (hidden, 2 * latent), "d1": (latent, hidden),
        "d2": (hidden, data),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    at = {n: jnp.asarray(0.05 * rng.normal(size=s), jnp.float32) for n, s in shapes.items()}
    x = jnp.asarray(rng.random((batch, data)) < 0.3, jnp.float32)

    def encode(p, x):
        out = jax.nn.relu(x @ p["e1"]) @ p["e2"]
        return out[:, :latent], jnp.exp(0.5 * out[:, latent:])

    def decode(p, z):
        return jax.nn.relu(z @ p["d1"]) @ p["d2"]

    def parameters(*names):
        return {name: numpyro.param(name, at[name]) for name in names}

    def model(x):
        p = parameters("d1", "d2")
        with numpyro.plate("rows", batch):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(latent), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decode(p, z)).to_event(1), obs=x)

    def guide(x):
        loc, scale = encode(parameters("e1", "e2"), x)
        with numpyro.plate("rows", batch):
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def by_hand(likelihood):
        def loss(p, key, x):
            loc, scale = encode(p, x)
            noise = jax.random.normal(key, loc.shape)
            z = loc + scale * noise
            kl = jnp.sum(0.5 * z**2 - 0.5 * noise**2 - jnp.log(scale))
            return kl - jnp.sum(likelihood(decode(p, z), x))

        return loss

    peers = {
        "hand-written": by_hand(lambda logits, x: x * logits - jax.nn.softplus(logits)),
        "hand-written, NumPyro's Bernoulli": by_hand(
            lambda logits, x: dist.Bernoulli(logits=logits).log_prob(x)
        ),
        "vi.elbo()": lambda p, key, x: vi.elbo().loss(key, p, model, guide, x),
        "NumPyro Trace_ELBO": lambda p, key, x: Trace_ELBO().loss(key, p, model, guide, x),
    }
    steps, rows = {}, []
    for name, loss in peers.items():
        steps[name], seconds = compiled(jax.value_and_grad(loss), at, KEY, x)
        memory = steps[name].memory_analysis().temp_size_in_bytes / 2**20
        rows.append([name, f"{seconds:.1f}", f"{memory:.2f}"])
    times = medians(steps, at, KEY, x, rounds=25, repeats=2)
    first = next(iter(times.values()))
    for row, ms in zip(rows, times.values(), strict=True):
        row += [f"{ms:.1f}", f"{ms / first:.2f}"]
    header = ["", "compile s", "temporaries MB", "step ms", "ratio"]
    return table("Variational autoencoder 784-400-20, batch 128, one draw", header, rows)


PARTS = {"discrete": discrete, "flips": flips, "sites": sites, "vae": vae}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=PARTS, help="print these, and write nothing")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/generated"))
    given = parser.parse_args()
    found = []
    for name in given.only or PARTS:
        found.append(PARTS[name]())
        print(found[-1], flush=True)
    if not given.only:
        about = f"Written by `python -m benchmarks.programs` on {machine(*PACKAGES)}. {ABOUT}"
        text = "\n".join(["# Objectives and estimators", "", about, "", *found])
        (given.out / "programs.md").write_text(text)
