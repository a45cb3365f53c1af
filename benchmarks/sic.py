"""Gaussian processes by sparse inverse Cholesky factors, in CPU seconds; GPBoost beside, if there.

    python -m benchmarks.sic terrain draw full million objective bernoulli [--gpboost]

``terrain``: 5,000 heights of the elevation grid that ships with matplotlib, 2,000 left out.
``draw``: 5,000 points of a Matérn-3/2 draw with noise, 1,000 left out.
``full``: 110,000 heights and 28,000 predictions, hyperparameters from 5,000 of them.
``million``: order to posterior mean at 1,000,000 points, m = 20.
``objective``: a step of the minibatch objective against the number of points.
``bernoulli``: labels at 1,000 and 20,000 points; the ELBO beside that of the dense process.

Times are those of the process, compilation included unless said, on one thread if the environment
says so (OMP_NUM_THREADS=1).
"""

import argparse
import json
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

import gp
from gp.evidence import exact_sites
from gp.model import Data, Model
from gp.natural_gradient import start_sites
from gp.sic import DoubleKL, SICPrior, double_kl
from gp.sic.columns import conditional_columns
from gp.sic.conditional import posterior_shift
from gp.sic.graph import sic_graph
from gp.sic.incomplete import incomplete_cholesky
from gp.training import follow

KEY = jax.random.key(0)


def cpu():
    return time.process_time()


def say(name, **numbers):
    shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in numbers.items()}
    print(name, json.dumps(shown), flush=True)


def terrain(count, left_out):
    import matplotlib.cbook

    with matplotlib.cbook.get_sample_data("jacksboro_fault_dem.npz") as file:
        height = file["elevation"].astype(float)
    rows, columns = np.indices(height.shape)
    x = np.stack([rows.ravel(), columns.ravel()], 1).astype(float)
    x, y = (x - x.mean(0)) / x.std(0), height.ravel()
    y = (y - y.mean()) / y.std()
    order = np.random.default_rng(0).permutation(len(y))[: count + left_out]
    return x[order[:count]], y[order[:count]], x[order[count:]], y[order[count:]]


def draw(count, left_out):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(count + left_out, 2))
    covariance = np.array(gp.Matern(0.15)(jnp.asarray(x), jnp.asarray(x)))
    f = np.linalg.cholesky(covariance + 1e-8 * np.eye(len(x))) @ rng.normal(size=len(x))
    y = f + 0.1 * rng.normal(size=len(x))
    return x[:count], y[:count], x[count:], y[count:]


def regression(name, data, **options):
    x, y, x_new, y_new = data
    for run in ("first", "again"):
        start = cpu()
        posterior = gp.fit(x, y, key=KEY, method="sic", method_options=options)
        fitted = cpu()
        prediction = posterior.predict(x_new)
        predicted = cpu()
        score = -posterior.log_predictive_density(x_new, y_new).mean()
        local = -posterior.log_predictive_density(x_new, y_new, method="local").mean()
        rmse = float(np.sqrt(np.mean((prediction.mean - y_new) ** 2)))
        say(
            f"{name} {run} {options}",
            fit=fitted - start,
            predict=predicted - fitted,
            nlpd=float(score),
            rmse=rmse,
            nlpd_local=float(local),
            steps=posterior.cost["steps"],
        )
    return posterior


def gpboost(name, data):
    import gpboost as peer

    x, y, x_new, y_new = data
    start = cpu()
    model = peer.GPModel(
        gp_coords=x,
        cov_function="matern_ard",
        cov_fct_shape=1.5,
        gp_approx="vecchia",
        num_neighbors=30,
        likelihood="gaussian",
    )
    model.fit(y=y, X=np.ones((len(y), 1)))
    fitted = cpu()
    found = model.predict(
        gp_coords_pred=x_new,
        X_pred=np.ones((len(y_new), 1)),
        predict_var=True,
        predict_response=True,
    )
    mean, variance = found["mu"], found["var"]
    score = 0.5 * np.mean(np.log(2 * np.pi * variance) + (y_new - mean) ** 2 / variance)
    say(f"{name} GPBoost", fit=fitted - start, predict=cpu() - fitted, nlpd=float(score))


def full():
    x, y, x_new, y_new = terrain(110_000, 28_000)
    small = gp.fit(x[:5000], y[:5000], key=KEY, method="sic")
    start = cpu()
    model = small.model
    posterior = gp.fit(
        x,
        y,
        key=KEY,
        method="sic",
        kernel=model.kernel,
        mean=model.mean,
        likelihood=model.likelihood,
        train=False,
    )
    fitted = cpu()
    prediction = posterior.predict(x_new)
    predicted = cpu()
    score = -posterior.log_predictive_density(x_new, y_new).mean()
    local = -posterior.log_predictive_density(x_new, y_new, method="local").mean()
    say(
        "full",
        fit=fitted - start,
        predict=predicted - fitted,
        nlpd=float(score),
        nlpd_local=float(local),
        rmse=float(np.sqrt(np.mean((prediction.mean - y_new) ** 2))),
        iterations=int(posterior.q.factor.iterations),
        residual=float(posterior.q.factor.residual),
    )


def million(count=1_000_000):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(count, 2)) * np.sqrt(count) / 10
    y = np.sin(x[:, 0]) * np.cos(x[:, 1]) + 0.1 * rng.normal(size=count)
    kernel, begin = gp.Matern(1.0, 1.0), cpu()
    graph = sic_graph(x, 20)
    ordered = cpu()
    inputs, pattern = jnp.asarray(x[graph.order]), jax.tree.map(jnp.asarray, graph.pattern)
    columns = jax.jit(lambda x, near: conditional_columns(kernel, x, x, near))
    u, _ = jax.block_until_ready(columns(inputs, pattern.neighbors))
    prior = cpu()
    w = jnp.full(count, 100.0)
    v = jax.block_until_ready(jax.jit(incomplete_cholesky)(pattern, u, w))
    factored = cpu()
    found = jax.jit(posterior_shift)(pattern, u, v, w, w * y[graph.order])
    jax.block_until_ready(found.x)
    say(
        "million",
        graph=ordered - begin,
        columns=prior - ordered,
        incomplete=factored - prior,
        mean=cpu() - factored,
        total=cpu() - begin,
        iterations=int(found.iterations),
        residual=float(found.residual),
        gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )


def objective(counts=(1_000, 10_000, 100_000)):
    for count in counts:
        rng = np.random.default_rng(0)
        x = rng.uniform(size=(count, 2)) * np.sqrt(count) / 30
        y = np.sin(x[:, 0]) + 0.1 * rng.normal(size=count)
        model = Model(gp.Matern(0.3, 1.0), gp.Zero(), gp.Gaussian(0.01))
        data = Data.merged(x, y)
        prior = SICPrior.of(model.kernel, model.mean, data.x, per_block=8)
        sites = exact_sites(model.likelihood, data)
        q = jax.jit(lambda prior, sites: prior.condition(sites))(prior, sites)
        target, start = double_kl(prior, model, data, q, ["kernel.lengthscale"])
        step = jax.jit(lambda estimator, *a: estimator(*a))
        args = DoubleKL(8), KEY, start, target
        jax.block_until_ready(step(*args))
        begin = cpu()
        for _ in range(10):
            jax.block_until_ready(step(*args))
        say(
            "objective",
            n=count,
            milliseconds=(cpu() - begin) * 100,
            width=prior.groups.ancestors.shape[1],
        )


def bernoulli(counts=(1_000, 20_000)):
    for count in counts:
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.uniform(size=(count, 2)) * 2)
        f = 2 * np.sin(3 * x[:, 0]) * np.cos(4 * x[:, 1])
        y = jnp.asarray((rng.uniform(size=count) < 1 / (1 + np.exp(-f))).astype(float))
        kernel, likelihood = gp.Matern(0.6, 3.0), gp.Bernoulli()
        data = Data.merged(np.asarray(x), np.asarray(y))
        sites = start_sites(likelihood, data)
        model = Model(kernel, gp.Zero(), likelihood)
        begin = cpu()
        prior = SICPrior.of(kernel, gp.Zero(), data.x, latent=True, per_block=32)
        found = jax.block_until_ready(follow(model, prior, data, sites))
        say(
            "bernoulli",
            n=count,
            elbo=float(found.elbo),
            steps=int(found.steps),
            seconds=cpu() - begin,
        )
        if count <= 2000:
            from gp.dense import DensePrior

            begin = cpu()
            exact = follow(model, DensePrior(kernel, gp.Zero(), data.x), data, sites)
            say(
                "bernoulli dense",
                elbo=float(exact.elbo),
                steps=int(exact.steps),
                seconds=cpu() - begin,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--gpboost", action="store_true")
    given = parser.parse_args()
    jax.config.update("jax_enable_x64", val=True)
    for name in given.names:
        if name in ("terrain", "draw"):
            data = terrain(5000, 2000) if name == "terrain" else draw(5000, 1000)
            regression(name, data)
            regression(name, data, num_neighbors=20, num_rows=1000)
            if given.gpboost:
                gpboost(name, data)
        else:
            {"full": full, "million": million, "objective": objective, "bernoulli": bernoulli}[
                name
            ]()


if __name__ == "__main__":
    main()
