"""Objectives under `jax.sharding`: four devices and one give the same loss and gradient."""

import os
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np, numpyro, numpyro.distributions as dist
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import vi

devices = jax.devices()
assert len(devices) == 4
mesh = Mesh(np.array(devices), ("rows",))
rng = np.random.default_rng(0)
x = jnp.asarray(rng.normal(size=(64, 5)), jnp.float32)
at = {"w": jnp.asarray(0.3 * rng.normal(size=(5, 2)), jnp.float32), "t": jnp.array(0.2)}

def model(x):
    w = numpyro.param("w", at["w"])
    with numpyro.plate("rows", 64):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        on = numpyro.sample("on", dist.Bernoulli(0.3))
        loc = numpyro.param("t", 0.2) + z[:, None] * w[:, 0] + on[:, None] * w[:, 1]
        numpyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

def guide(x):
    out = x @ numpyro.param("w", at["w"])
    with numpyro.plate("rows", 64):
        numpyro.sample("z", dist.Normal(out[:, 0], 0.8))
        numpyro.sample("on", dist.Bernoulli(logits=out[:, 1]))

def density(z, x):
    return -0.5 * jnp.sum(z**2) - jnp.sum(jnp.logaddexp(0, x @ z))

def losses(at, q, x):
    score = {"on": vi.Score()}
    found = [
        jax.value_and_grad(lambda p: o.loss(jax.random.key(0), p, model, guide, x))(at)
        for o in (vi.elbo(num_particles=4), vi.iwae(num_particles=4, estimator=score))
    ]
    target = vi.target(density, jnp.zeros(5), x)
    return found, vi.elbo(num_particles=4)(jax.random.key(1), q, target)

q = vi.full_rank(5)
run = jax.jit(losses)
single = jax.device_put((at, q, x), devices[0])
spread = jax.device_put((at, q), NamedSharding(mesh, P())), jax.device_put(
    x, NamedSharding(mesh, P("rows"))
)
here, there = run(*single), run(*spread[0], spread[1])
assert "all-reduce" in run.lower(*spread[0], spread[1]).compile().as_text()
for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
    assert len(b.sharding.device_set) == 4
    print(float(np.max(np.abs(np.asarray(a) - b)) / np.max(np.abs(a))))
"""


@pytest.mark.slow
def test_loss_and_gradient_are_those_of_one_device():
    """Up to the order of summation, in 32 bits; the rows are spread, and their sums gathered."""
    flags = "--xla_force_host_platform_device_count=4"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    differences = np.array([float(line) for line in done.stdout.split()])
    assert len(differences) == 9
    assert differences.max() < 1e-5
