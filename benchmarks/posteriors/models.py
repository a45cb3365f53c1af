"""The models and their data; see README.md for where they come from."""

import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

HERE = pathlib.Path(__file__).resolve().parent
sample = numpyro.sample


class Reference(NamedTuple):
    """What is known of a posterior; ``names`` are Stan's, as in ``theta[1]``."""

    source: str
    draws: int
    log_evidence: float | None
    best_full_rank: float
    best_mean_field: float
    names: list[str]
    mean: list[float]
    sd: list[float]


def _flat(name: str, shape: tuple = (), support: Any = constraints.real) -> jax.Array:
    return sample(name, dist.ImproperUniform(support, (), shape))


def eight_schools_noncentered(y, sigma):
    mu = sample("mu", dist.Normal(0, 5))
    tau = sample("tau", dist.HalfCauchy(5))
    z = sample("theta_trans", dist.Normal(0, 1).expand([len(y)]).to_event(1))
    theta = numpyro.deterministic("theta", mu + tau * z)
    sample("y", dist.Normal(theta, sigma).to_event(1), obs=y)


def eight_schools_centered(y, sigma):
    mu = sample("mu", dist.Normal(0, 5))
    tau = sample("tau", dist.HalfCauchy(5))
    theta = sample("theta", dist.Normal(mu, tau).expand([len(y)]).to_event(1))
    sample("y", dist.Normal(theta, sigma).to_event(1), obs=y)


def logmesquite(X, y):
    beta = _flat("beta", (X.shape[1],))
    sigma = _flat("sigma", (), constraints.positive)
    sample("y", dist.Normal(X @ beta, sigma).to_event(1), obs=y)


def kidscore_interaction(X, y):
    beta = _flat("beta", (X.shape[1],))
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    sample("y", dist.Normal(X @ beta, sigma).to_event(1), obs=y)


def arK(K, y):
    alpha = sample("alpha", dist.Normal(0, 10))
    beta = sample("beta", dist.Normal(0, 10).expand([K]).to_event(1))
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    lags = jnp.stack([y[K - k : len(y) - k] for k in range(1, K + 1)], 1)
    sample("y", dist.Normal(alpha + lags @ beta, sigma).to_event(1), obs=y[K:])


def garch11(y, sigma1):
    mu = _flat("mu")
    alpha0 = _flat("alpha0", (), constraints.positive)
    alpha1 = _flat("alpha1", (), constraints.unit_interval)
    # Stan has beta1 uniform on (0, 1 - alpha1); here it is a fraction of that interval.
    fraction = _flat("beta1_frac", (), constraints.unit_interval)
    beta1 = numpyro.deterministic("beta1", fraction * (1 - alpha1))
    numpyro.factor("jacobian", jnp.log1p(-alpha1))
    first = jnp.asarray(sigma1**2, jnp.result_type(float))

    def step(variance, before):
        variance = alpha0 + alpha1 * (before - mu) ** 2 + beta1 * variance
        return variance, variance

    _, variances = jax.lax.scan(step, first, y[:-1])
    variances = jnp.concatenate([first[None], variances])
    sample("y", dist.Normal(mu, jnp.sqrt(variances)).to_event(1), obs=y)


def gp_pois_regr(x, k):
    rho = sample("rho", dist.Gamma(25, 4))
    alpha = sample("alpha", dist.HalfNormal(2))
    z = sample("f_tilde", dist.Normal(0, 1).expand([len(x)]).to_event(1))
    distance = (x[:, None] - x[None, :]) / rho
    covariance = alpha**2 * jnp.exp(-0.5 * distance**2) + 1e-10 * jnp.eye(len(x))
    f = numpyro.deterministic("f", jnp.linalg.cholesky(covariance) @ z)
    sample("k", dist.Poisson(jnp.exp(f)).to_event(1), obs=k)


def low_dim_gauss_mix(y):
    mu = _flat("mu", (2,), constraints.ordered_vector)
    numpyro.factor("mu_prior", dist.Normal(0, 2).log_prob(mu).sum())
    sigma = sample("sigma", dist.HalfNormal(2).expand([2]).to_event(1))
    theta = sample("theta", dist.Beta(5, 5))
    each = dist.Normal(mu, sigma).log_prob(y[:, None]) + jnp.log(jnp.stack([theta, 1 - theta]))
    numpyro.factor("likelihood", jax.nn.logsumexp(each, axis=1).sum())


def radon_noncentered(J, county, log_uppm, floor, log_radon):
    sigma_alpha = sample("sigma_alpha", dist.HalfNormal(1))
    sigma_y = sample("sigma_y", dist.HalfNormal(1))
    mu_alpha = sample("mu_alpha", dist.Normal(0, 10))
    beta = sample("beta", dist.Normal(0, 10).expand([2]).to_event(1))
    raw = sample("alpha_raw", dist.Normal(0, 1).expand([J]).to_event(1))
    alpha = numpyro.deterministic("alpha", mu_alpha + sigma_alpha * raw)
    mean = alpha[county] + beta[0] * log_uppm + beta[1] * floor
    sample("y", dist.Normal(mean, sigma_y).to_event(1), obs=log_radon)


def _columns(*columns: Any) -> np.ndarray:
    size = max(np.size(c) for c in columns)
    return np.stack([np.broadcast_to(np.asarray(c, float), size) for c in columns], 1)


def _kidiq(data: dict) -> dict:
    school, iq = data["mom_hs"], data["mom_iq"]
    return {"X": _columns(1.0, school, iq, school * iq), "y": data["kid_score"]}


def _mesquite(data: dict) -> dict:
    sizes = ("diam1", "diam2", "canopy_height", "total_height", "density")
    logs = [np.log(data[name]) for name in sizes]
    return {"X": _columns(1.0, *logs, data["group"]), "y": np.log(data["weight"])}


def _radon(data: dict) -> dict:
    county = data["county_idx"].astype(int) - 1
    rest = {name: data[name] for name in ("log_uppm", "log_radon")}
    return {"J": data["J"], "county": county, "floor": data["floor_measure"], **rest}


def _poisson(data: dict) -> dict:
    return {"x": data["x"], "k": data["k"].astype(int)}


def _pick(*names: str) -> Callable[[dict], dict]:
    return lambda data: {name: data[name] for name in names}


_MODELS: dict[str, tuple[Callable, str, Callable[[dict], dict]]] = {
    "eight_schools_noncentered": (
        eight_schools_noncentered, "eight_schools", _pick("y", "sigma")
    ),
    "eight_schools_centered": (eight_schools_centered, "eight_schools", _pick("y", "sigma")),
    "kidscore_interaction": (kidscore_interaction, "kidscore_interaction", _kidiq),
    "logmesquite": (logmesquite, "logmesquite", _mesquite),
    "arK": (arK, "arK", _pick("K", "y")),
    "garch11": (garch11, "garch11", _pick("y", "sigma1")),
    "gp_pois_regr": (gp_pois_regr, "gp_pois_regr", _poisson),
    "low_dim_gauss_mix": (low_dim_gauss_mix, "low_dim_gauss_mix", _pick("y")),
    "radon_noncentered": (radon_noncentered, "radon_noncentered", _radon),
}  # fmt: skip
NAMES = tuple(_MODELS)


def get(name: str) -> tuple[Callable, dict[str, Any]]:
    """A model, and its arguments by name."""
    model, file, prepare = _MODELS[name]
    raw = json.loads((HERE / "data" / f"{file}.json").read_text())
    data = {k: np.asarray(v, float) if isinstance(v, list) else v for k, v in raw.items()}
    return model, prepare(data)


def reference(name: str) -> Reference:
    """What is known of a posterior."""
    return Reference(**json.loads((HERE / "reference.json").read_text())[name])
