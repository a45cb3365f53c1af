"""Other libraries on the fields of `benchmarks.sic`, a line of JSON each; needs only the library.

python -m benchmarks.gp_peers gpboost terrain draw labels counts
python -m benchmarks.gp_peers gpjax terrain draw
python -m benchmarks.gp_peers gpytorch terrain draw
"""

import argparse
import json
import time
from importlib.metadata import version

import numpy as np

from benchmarks.fields import FIELDS, LIKELIHOODS

INDUCING, BATCH, STEPS, NOISE = 256, 256, 500, 0.1


def gpboost(name):
    import gpboost as peer

    x, y, x_new, y_new = FIELDS[name]()
    likelihood = LIKELIHOODS.get(name, "gaussian")
    ones = lambda count: np.ones((count, 1))
    start = time.process_time()
    model = peer.GPModel(
        gp_coords=x,
        cov_function="matern_ard",
        cov_fct_shape=1.5,
        gp_approx="vecchia",
        num_neighbors=30,
        likelihood=likelihood,
    )
    model.fit(y=y, X=ones(len(y)))
    fitted = time.process_time()
    found = model.predict(
        gp_coords_pred=x_new,
        X_pred=ones(len(y_new)),
        predict_var=True,
        predict_response=likelihood != "poisson",
    )
    predicted = time.process_time()
    score = -np.mean(density(likelihood, found["mu"], found["var"], y_new))
    return {
        "field": name,
        "who": f"GPBoost {peer.__version__}",
        "fit": fitted - start,
        "predict": predicted - fitted,
        "nlpd": float(score),
    }


def gpjax(name):
    """Inducing inputs, by natural gradients and Adam on minibatches."""
    import jax

    jax.config.update("jax_enable_x64", val=True)
    import gpjax as peer
    import jax.numpy as jnp
    import optax

    x, y, x_new, y_new = FIELDS[name]()
    z = x[np.random.default_rng(0).permutation(len(x))[:INDUCING]]
    start = time.process_time()
    kernel = peer.kernels.Matern32(lengthscale=jnp.ones(x.shape[1]))
    prior = peer.gps.Prior(mean_function=peer.mean_functions.Constant(), kernel=kernel)
    model = prior * peer.likelihoods.Gaussian(obs_stddev=jnp.asarray(NOISE**0.5))
    family = peer.variational_families.WhitenedVariationalGaussian(model, jnp.asarray(z))
    trained, _ = peer.fit_natgrads(
        model=family,
        objective=lambda q, data: -peer.objectives.elbo(q, data),
        train_data=peer.Dataset(X=jnp.asarray(x), y=jnp.asarray(y)[:, None]),
        optim=optax.adam(0.01),
        num_iters=STEPS,
        batch_size=BATCH,
        key=jax.random.key(0),
        verbose=False,
    )
    jax.block_until_ready(jax.tree.leaves(trained))
    fitted = time.process_time()
    moments = []
    for rows in np.array_split(x_new, -(-len(x_new) // 500)):  # it predicts covariances
        law = trained.model.likelihood(trained.predict(jnp.asarray(rows)))
        moments.append((np.asarray(law.mean).ravel(), np.asarray(law.variance).ravel()))
    mean, variance = map(np.concatenate, zip(*moments, strict=True))
    predicted = time.process_time()
    return {
        "field": name,
        "who": f"GPJax {version('gpjax')}, M = {INDUCING}",
        "fit": fitted - start,
        "predict": predicted - fitted,
        "nlpd": float(-np.mean(density("gaussian", mean, variance, y_new))),
        "steps": STEPS,
    }


def gpytorch(name):
    """Inducing inputs, by natural gradients and Adam on minibatches."""
    import gpytorch as peer
    import torch

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    x, y, x_new, y_new = map(torch.as_tensor, FIELDS[name]())
    z = x[np.random.default_rng(0).permutation(len(x))[:INDUCING]]
    law = peer.variational.NaturalVariationalDistribution(INDUCING)

    class Process(peer.models.ApproximateGP):
        def __init__(self):
            super().__init__(peer.variational.VariationalStrategy(self, z, law))
            self.mean = peer.means.ConstantMean()
            kernel = peer.kernels.MaternKernel(nu=1.5, ard_num_dims=x.shape[1])
            self.kernel = peer.kernels.ScaleKernel(kernel)

        def forward(self, x):
            return peer.distributions.MultivariateNormal(self.mean(x), self.kernel(x))

    start = time.process_time()
    process, likelihood = Process(), peer.likelihoods.GaussianLikelihood()
    process.kernel.base_kernel.lengthscale = 1.0
    process.kernel.outputscale, likelihood.noise = 1.0, NOISE
    process.train()
    natural = peer.optim.NGD(process.variational_parameters(), num_data=len(y), lr=0.1)
    others = [*process.hyperparameters(), *likelihood.parameters()]
    adam = torch.optim.Adam(others, lr=0.01)
    objective = peer.mlls.VariationalELBO(likelihood, process, num_data=len(y))
    for _ in range(STEPS):
        rows = torch.randint(len(y), (BATCH,))
        natural.zero_grad()
        adam.zero_grad()
        (-objective(process(x[rows]), y[rows])).backward()
        natural.step()
        adam.step()
    fitted = time.process_time()
    process.eval()
    with torch.no_grad():
        found = likelihood(process(x_new))
        mean, variance = found.mean.numpy(), found.variance.numpy()
    predicted = time.process_time()
    return {
        "field": name,
        "who": f"GPyTorch {peer.__version__}, M = {INDUCING}",
        "fit": fitted - start,
        "predict": predicted - fitted,
        "nlpd": float(-np.mean(density("gaussian", mean, variance, y_new.numpy()))),
        "steps": STEPS,
    }


def density(likelihood, mean, variance, y):
    """Log predictive densities from what GPBoost predicts."""
    if likelihood == "gaussian":
        return -0.5 * (np.log(2 * np.pi * variance) + (y - mean) ** 2 / variance)
    if likelihood == "bernoulli_logit":  # the mean is the probability
        return np.log(np.where(y > 0, mean, 1 - mean))
    from scipy.special import gammaln, logsumexp

    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    f = mean + np.sqrt(variance) * nodes[:, None]  # of the log rate
    terms = y * f - np.exp(f) - gammaln(y + 1) + np.log(weights / weights.sum())[:, None]
    return logsumexp(terms, axis=0)


PEERS = {"gpboost": gpboost, "gpjax": gpjax, "gpytorch": gpytorch}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("names", nargs="+", choices=FIELDS)
    given = parser.parse_args()
    for name in given.names:
        print(json.dumps(PEERS[given.peer](name)), flush=True)
