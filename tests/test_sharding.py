"""Several devices, in one process or two, give the numbers of one."""

import os
import socket
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


FIT = """
import sys
import jax, numpy as np, numpyro, numpyro.distributions as dist
if len(sys.argv) > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        sys.argv[2], num_processes=2, process_id=int(sys.argv[1]), initialization_timeout=60
    )
import samplers
import vi

mesh = jax.make_mesh((jax.device_count(),), ("rows",))
rng = np.random.default_rng(0)
X = rng.normal(size=(512, 3)).astype(np.float32)
t = rng.binomial(1, 1 / (1 + np.exp(-X @ np.array([1.0, -0.5, 2.0])))).astype(np.float32)

def model(X, t, batch_size=None):
    beta = numpyro.sample("beta", dist.Normal(0, 5).expand([3]).to_event(1))
    with numpyro.plate("rows", len(X), subsample_size=batch_size) as rows:
        numpyro.sample("t", dist.Bernoulli(logits=X[rows] @ beta), obs=t[rows])

def show(where, **options):
    found = vi.fit(model, *data, key=jax.random.key(0), mesh=where, **options)
    mean = found.sample(jax.random.key(1), 500)["beta"].mean(0)
    print("found", found.elbo, *map(float, mean), flush=True)

short = {"batch_size": 64, "num_steps": 300, "learning_rate": 0.02}
alone = len(sys.argv) == 1
for data, options in [((X, t), {}), ((X, t), short), ((vi.Rows(X), vi.Rows(t)), short)]:
    show(mesh, **options)
    if alone:
        show(None, **options)
if alone:
    assert len(vi.shard(X, mesh).sharding.device_set) == 8
    def density(z):
        return -(z @ z) - 0.1 * (z**4).sum()
    start = vi.fit(density, np.zeros(3, np.float32), key=jax.random.key(0))
    for where in (mesh, None):
        found = vi.fit(density, np.zeros(3, np.float32), key=jax.random.key(0), mesh=where)
        print("found", found.elbo, *map(float, found.q.loc), flush=True)
        few = {"num_samples": 10, "num_warmup": 50, "num_chains": 5, "start": start}
        chains = samplers.nuts(density, np.zeros(3), key=jax.random.key(1), mesh=where, **few)
        print("chains", *chains.transitions.z.sum((0, 1)), flush=True)
    # A run that eight devices have begun is ended by one.
    path = sys.stdin.readline().strip()
    data, stop = (X, t), lambda step, *_: step >= 200
    vi.fit(model, *data, key=jax.random.key(0), mesh=mesh, checkpoint=path, callback=stop, **short)
    show(mesh, **short)
    show(None, checkpoint=path, **short)
"""


def _found(output):
    lines = [line.split()[1:] for line in output.splitlines() if line.startswith("found")]
    return np.array(lines, float)


@pytest.fixture(scope="module")
def of_eight(tmp_path_factory):
    flags = "--xla_force_host_platform_device_count=8"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    path = str(tmp_path_factory.mktemp("mesh") / "run.npz")
    done = subprocess.run(
        [sys.executable, "-c", FIT], capture_output=True, text=True, check=False, env=env,
        input=path + "\n",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    chains = [line for line in done.stdout.splitlines() if line.startswith("chains")]
    return _found(done.stdout), chains


@pytest.mark.slow
def test_chains_on_eight_devices_are_those_on_one(of_eight):
    """Five chains, which eight devices do not share evenly; to the last bit."""
    _, (spread, single) = of_eight
    assert spread == single


@pytest.mark.slow
def test_fits_on_eight_devices_are_those_on_one(of_eight):
    """All rows, minibatches in memory and outside, points of a density, a run taken over."""
    found, _ = of_eight
    assert found.shape == (10, 4)
    spread, single = found[::2], found[1::2]
    np.testing.assert_allclose(spread, single, rtol=2e-5, atol=2e-4)
    assert np.abs(spread[0] - spread[1]).max() > 1e-3  # the twin: other steps, other numbers


@pytest.mark.slow
def test_two_processes_find_what_one_does(of_eight):
    """Through `jax.distributed` on loopback; each process prints the same posterior."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", FIT]
    processes = [
        subprocess.Popen(
            [*command, str(i), address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=400) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    first, second = (_found(out) for out, _ in outputs)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, of_eight[0][:6:2], rtol=2e-5, atol=2e-4)
