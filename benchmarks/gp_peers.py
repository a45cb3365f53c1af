"""GPBoost on the fields of `benchmarks.sic`, a line of JSON each; needs no JAX.

python -m benchmarks.gp_peers terrain draw labels counts
"""

import json
import sys
import time

import numpy as np

from benchmarks.fields import FIELDS, LIKELIHOODS


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


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(json.dumps(gpboost(name)), flush=True)
