"""Gaussian processes by sparse inverse Cholesky factors, in CPU seconds; writes a page of docs.

    python -m benchmarks.sic terrain draw inducing full million objective dense labels counts
        dimensions [--peers peers.json] [--out docs/generated]

``terrain``: 5,000 heights of the elevation grid that ships with matplotlib, 2,000 left out.
``draw``: 5,000 points of a Matérn-3/2 draw with noise, 1,000 left out.
``labels``, ``counts``: 20,000 labels, and counts, of a smooth surface, 5,000 left out.
``inducing``: the same fields by inducing inputs and minibatches.
``full``: 110,000 heights and 28,000 predictions, hyperparameters from 5,000 of them.
``million``: order to posterior mean at 1,000,000 points, m = 20.
``objective``: a step of the minibatch objective against the number of points.
``dense``: the ELBO of 1,000 labels beside that of the dense process.
``dimensions``: what predictions lose against the exact process, in 2 to 20 dimensions.

Each name adds to gp.json, from which gp.md is made. ``--peers`` adds the output of
`benchmarks.gp_peers`: a row replaces that of the same library on the same field. Times are those of
the process, compilation included unless said, on one thread if the environment says so
(OMP_NUM_THREADS=1).
"""

import argparse
import json
import pathlib
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

import gp
from benchmarks.fields import FIELDS, draw, labels, terrain
from benchmarks.sic_report import write
from gp.dense import DensePrior
from gp.local import local_kriging
from gp.model import Data, Model
from gp.natural_gradient import start_sites
from gp.prior import Conditional
from gp.sic import DoubleKL, FactorRun, SICPrior, double_kl, neighbor_gap
from gp.sic.columns import conditional_columns
from gp.sic.conditional import SICFactor, posterior_shift
from gp.sic.graph import sic_graph
from gp.sic.incomplete import incomplete_cholesky
from gp.training import follow

KEY = jax.random.key(0)
FITTED = {"labels": gp.Bernoulli(), "counts": gp.Poisson()}


def cpu():
    return time.process_time()


def row_of(name, who, posterior, x_new, y_new, times):
    """A row of the table; times are those of the start, of the end of the fit, of predictions."""
    start, fitted, predicted = times
    return {
        "field": name,
        "who": who,
        "fit": fitted - start,
        "predict": predicted - fitted,
        "nlpd": -float(posterior.log_predictive_density(x_new, y_new).mean()),
        "steps": posterior.cost["steps"],
        "grade": posterior.verdict.grade,
    }


def field(name):
    """Fit and predict, with compilation, and where that is quick once more without."""
    x, y, x_new, y_new = FIELDS[name]()
    rows = []
    for run in ("first call",) if name in FITTED else ("first call", "again"):
        start = cpu()
        posterior = gp.fit(x, y, key=KEY, method="sic", likelihood=FITTED.get(name))
        fitted = cpu()
        posterior.predict(x_new)
        predicted = cpu()
        times = start, fitted, predicted
        row = row_of(name, f"kullback, {run}", posterior, x_new, y_new, times)
        if name not in FITTED:
            local = posterior.log_predictive_density(x_new, y_new, method="local")
            row["local"] = -float(local.mean())
        rows.append(row)
        print(json.dumps(row), posterior.verdict, flush=True)
    return rows


def inducing(names=("terrain", "draw", "labels", "counts"), count=256, steps=500):
    """Inducing inputs on minibatches, as the peers of `benchmarks.gp_peers` have them."""
    rows = []
    for name in names:
        x, y, x_new, y_new = FIELDS[name]()
        z = x[np.random.default_rng(0).permutation(len(x))[:count]]
        start = cpu()
        posterior = gp.fit(
            x,
            y,
            key=KEY,
            method="inducing",
            method_options={"inducing": z},
            kernel=gp.Matern(np.ones(x.shape[1]), 1.0),
            likelihood=FITTED.get(name, gp.Gaussian(0.1)),
            minibatches=256,
            num_steps=steps,
            on_failure="return",
        )
        fitted = cpu()
        posterior.predict(x_new)
        predicted = cpu()
        who, times = f"kullback, inducing, M = {count}", (start, fitted, predicted)
        row = row_of(name, who, posterior, x_new, y_new, times)
        rows.append(row)
        print(json.dumps(row), posterior.verdict, flush=True)
    return rows


def full():
    x, y, x_new, y_new = terrain(110_000, 28_000)
    model = gp.fit(x[:5000], y[:5000], key=KEY, method="sic").model
    parts = {"kernel": model.kernel, "mean": model.mean, "likelihood": model.likelihood}
    start = cpu()
    posterior = gp.fit(x, y, key=KEY, method="sic", train=False, **parts)
    fitted = cpu()
    posterior.predict(x_new)
    predicted = cpu()
    score = lambda **way: -float(posterior.log_predictive_density(x_new, y_new, **way).mean())
    row = {
        "fit": fitted - start,
        "predict": predicted - fitted,
        "nlpd": score(),
        "nlpd, local": score(method="local"),
        "iterations": int(posterior.q.factor.iterations),
    }
    return [row]


def million(count=1_000_000):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(count, 2)) * np.sqrt(count) / 10
    y = np.sin(x[:, 0]) * np.cos(x[:, 1]) + 0.1 * rng.normal(size=count)
    kernel, times = gp.Matern(1.0, 1.0), [cpu()]
    graph = sic_graph(x, 20)
    times.append(cpu())
    inputs, pattern = jnp.asarray(x[graph.order]), jax.tree.map(jnp.asarray, graph.pattern)
    columns = jax.jit(lambda x, near: conditional_columns(kernel, x, x, near))
    u, _ = jax.block_until_ready(columns(inputs, pattern.neighbors))
    times.append(cpu())
    w = jnp.full(count, 100.0)
    v = jax.block_until_ready(jax.jit(incomplete_cholesky)(pattern, u, w))
    times.append(cpu())
    found = jax.jit(posterior_shift)(pattern, u, v, w, w * y[graph.order])
    jax.block_until_ready(found.x)
    times.append(cpu())
    parts = ("order and neighbours", "columns", "incomplete factor", "mean")
    row = dict(zip(parts, np.diff(times).tolist(), strict=True))
    row["total"] = times[-1] - times[0]
    row["residual"] = float(found.residual)
    row["GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [row]


def objective(counts=(1_000, 10_000, 100_000, 1_000_000)):
    rows = []
    columns = jax.jit(lambda kernel, x, near: conditional_columns(kernel, x, x, near)[0])
    for count in counts:
        rng = np.random.default_rng(0)
        x = rng.uniform(size=(count, 2)) * np.sqrt(count) / 30
        y = np.sin(x[:, 0]) + 0.1 * rng.normal(size=count)
        model = Model(gp.Matern(0.3, 1.0), gp.Zero(), gp.Gaussian(0.01))
        model = jax.tree.map(jnp.asarray, model)
        data = Data.merged(x, y)
        prior = SICPrior.of(model.kernel, model.mean, data.x, per_block=8)
        u = columns(model.kernel, prior.inputs, prior.graph.pattern.neighbors)
        nothing, zero = jnp.zeros(count), jnp.zeros(())
        factor = SICFactor(u, u, nothing, zero, jnp.asarray(0), zero, zero + 1, zero)
        q = Conditional(nothing, nothing, zero, zero, zero, factor)
        target, start = double_kl(prior, model, data, q, ["kernel.lengthscale"])
        run = FactorRun(target, start, KEY, DoubleKL(8), None, 300)
        state, times = run.initial(), []
        while not run.done(state):
            begin = cpu()
            state = run.advance(state)
            times.append((cpu() - begin) * 10)
        width = prior.groups.ancestors.shape[1]
        rows.append({"points": count, "ancestors": width, "ms": min(times[1:])})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def dense(count=1000):
    x, y, *_ = labels(count, 1)
    kernel, likelihood = gp.Matern(0.6, 3.0), gp.Bernoulli()
    data, rows = Data.merged(x, y), []
    sites, model = start_sites(likelihood, data), Model(kernel, gp.Zero(), likelihood)
    for who in ("dense", "sic"):
        begin = cpu()
        if who == "dense":
            prior = DensePrior(kernel, gp.Zero(), data.x)
        else:
            prior = SICPrior.of(kernel, gp.Zero(), data.x, latent=True, per_block=32)
        found = jax.block_until_ready(follow(model, prior, data, sites))
        row = {"prior": who, "elbo": float(found.elbo), "steps": int(found.steps)}
        rows.append({**row, "seconds": cpu() - begin})
    return rows


def lost(exact, other, noise):
    """Nats a new datum, from the exact prediction to another one."""
    (mean, variance), (m, v) = ([np.asarray(a) for a in one] for one in (exact, other))
    v, variance = v + noise, variance + noise
    return float(np.mean(0.5 * (np.log(v / variance) + (variance + (mean - m) ** 2) / v - 1)))


def dimensions(count=3000, left_out=300):
    rows = []
    condition = jax.jit(lambda prior, sites: prior.condition(sites))
    for d in (2, 3, 4, 5, 10, 20):
        for noise in (0.01, 0.2):
            length = 0.5 * np.sqrt(d)
            x, y, x_new, _ = draw(count, left_out, d, length, noise)
            x, x_new = map(jnp.asarray, (x, x_new))
            parts = gp.Matern(jnp.full(d, length), jnp.asarray(1.0)), gp.Zero()
            sites = gp.Sites(jnp.asarray(y) / noise, jnp.full(count, 1 / noise))
            prior = DensePrior(*parts, x)
            truth = prior.predict(condition(prior, sites), x_new)
            row = {"D": d, "noise": noise}
            for m in (30, 60):
                prior = SICPrior.of(*parts, x, num_neighbors=m)
                q = condition(prior, sites)
                row[f"SIC, m = {m}"] = lost(truth, prior.predict(q, x_new), noise)
                if m == 30:
                    row["gap"] = float(neighbor_gap(prior, nugget=0.3 * noise))
            for k in (30, 50, 100):
                found = local_kriging(*parts, x, sites, x_new, k)
                row[f"local, {k}"] = lost(truth, found, noise)
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--peers", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/generated"))
    given = parser.parse_args()
    jax.config.update("jax_enable_x64", val=True)
    runs = {
        "inducing": inducing,
        "full": full,
        "million": million,
        "objective": objective,
        "dense": dense,
        "dimensions": dimensions,
    }
    for name in given.names:
        rows = field(name) if name in FIELDS else runs[name]()
        print(name, json.dumps(rows), flush=True)
        write(given.out, {name: rows})
    if given.peers:
        write(given.out, {}, [json.loads(line) for line in given.peers.read_text().splitlines()])


if __name__ == "__main__":
    main()
