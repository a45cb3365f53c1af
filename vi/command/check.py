"""``python -m vi check``: what is installed, and whether it works."""

import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from vi.fitting import fit
from vi.provenance import versions


def run() -> int:
    """Print versions and devices, and fit a model whose posterior is known; 0 if it is found."""
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    devices = ", ".join(str(device) for device in jax.devices())
    floats = 64 if jax.config.read("jax_enable_x64") else 32
    print(
        f"backend {jax.default_backend()}: {devices}; {os.cpu_count()} cores; {floats}-bit floats"
    )
    started = time.perf_counter()
    mean, sd, known_mean, known_sd, grade = known_answer()
    seconds = time.perf_counter() - started
    right = bool(np.all(np.abs(mean - known_mean) < 0.05 * known_sd)) and bool(
        np.all(np.abs(sd / known_sd - 1) < 0.05)
    )
    said = "agrees" if right and grade == "good" else "DISAGREES"
    print(
        f"linear regression in {seconds:.1f} s: {grade}, {said} with the closed form: means "
        f"{np.round(mean, 3)} for {np.round(known_mean, 3)}, standard deviations "
        f"{np.round(sd, 3)} for {np.round(known_sd, 3)}"
    )
    return 0 if said == "agrees" else 1


def known_answer() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, str]:
    """Means and standard deviations of a conjugate regression, fitted and exact; the grade."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)) @ np.array([[1.0, 0.9, 0.0], [0.0, 0.4, 0.0], [0.0, 0.0, 5.0]])
    y = x @ np.array([1.0, -2.0, 0.1]) + rng.normal(size=50)

    def model(x, y):
        b = numpyro.sample("b", dist.Normal(jnp.zeros(x.shape[1]), 2.0).to_event(1))
        numpyro.sample("y", dist.Normal(x @ b, 1.0).to_event(1), obs=y)

    covariance = np.linalg.inv(x.T @ x + np.eye(3) / 4)
    posterior = fit(model, x, y, key=jax.random.key(0), on_failure="return", progress=False)
    found = posterior.q
    return (
        np.asarray(found.loc, float),
        np.sqrt(np.diag(np.asarray(found.covariance(), float))),
        covariance @ (x.T @ y),
        np.sqrt(np.diag(covariance)),
        posterior.verdict.grade,
    )
