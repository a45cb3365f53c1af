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
    import samplers.tempering as tempering
    temperature, looked = tempering.temperature, set()
    def looking(*args, mesh, **named):  # at what one device is given
        if mesh not in looked:
            looked.add(mesh)
            static = {"static_argnames": ("num_moves", "mesh")}
            again = jax.jit(temperature.__wrapped__, **static).lower(*args, mesh=mesh, **named)
            print("bytes", again.compile().memory_analysis().argument_size_in_bytes, flush=True)
        return temperature(*args, mesh=mesh, **named)
    tempering.temperature = looking
    for where in (mesh, None):
        found = vi.fit(density, np.zeros(3, np.float32), key=jax.random.key(0), mesh=where)
        print("found", found.elbo, *map(float, found.q.loc), flush=True)
        few = {"num_samples": 10, "num_warmup": 50, "num_chains": 5, "start": start}
        chains = samplers.nuts(density, np.zeros(3), key=jax.random.key(1), mesh=where, **few)
        print("chains", *chains.transitions.z.sum((0, 1)), flush=True)
        some = {"num_particles": 40, "num_populations": 8, "num_moves": 2, "start": start}
        found = samplers.smc(density, np.zeros(3), key=jax.random.key(1), mesh=where, **some)
        print("populations", found.log_evidence, *found.points.sum((0, 1)), flush=True)
    # A run that eight devices have begun is ended by one.
    path = sys.stdin.readline().strip()
    data, stop = (X, t), lambda step, *_: step >= 200
    vi.fit(model, *data, key=jax.random.key(0), mesh=mesh, checkpoint=path, callback=stop, **short)
    show(mesh, **short)
    show(None, checkpoint=path, **short)
"""


GP = """
import functools, re, sys
import jax, numpy as np
if len(sys.argv) > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        sys.argv[2], num_processes=2, process_id=int(sys.argv[1]), initialization_timeout=60
    )
import gp
from gp.sic import SICPrior
from jax.sharding import NamedSharding, PartitionSpec as P
from vi.compile import quick_options
from vi.targets.mesh import rows_over, whole

mesh, alone = jax.make_mesh((jax.device_count(),), ("rows",)), len(sys.argv) == 1
plain, seen = jax.jit, {"loss_of", "take_steps"} if alone else set()

def cost(name, where, compiled, rows):
    memory, text = compiled.memory_analysis(), compiled.as_text()
    sizes = re.findall(r"= \\w+\\[(\\d+)[^=]* all-gather", text)
    gathers = sum(int(size) >= min(rows, 255) for size in sizes)
    moved = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    print("cost", name, where, compiled.cost_analysis()["flops"], *moved, gathers, flush=True)

def looking(function, **options):  # at what is compiled of a fit: once of each name and mesh
    inner = getattr(function, "func", function)
    compiled = plain(function, **options)
    name = getattr(inner, "__name__", "")
    def call(*args, **named):
        label = f"{method}.{name}"
        if (label, where) not in done and name in seen:
            done.add((label, where))
            cost(label, where, compiled.lower(*args).compile(), rows)
            if where == "one":  # the twin: the same on every device
                every = NamedSharding(mesh, P())
                put = lambda a: jax.device_put(a, every) if hasattr(a, "shape") else a
                cost(label, "whole", compiled.lower(*jax.tree.map(put, args)).compile(), rows)
        return compiled(*args, **named)
    return call

done, rows = set(), 2048
quick_options()
jax.jit = looking

rng = np.random.default_rng(0)
x = rng.uniform(size=(rows, 2)).astype(np.float32)
f = np.sin(6 * x[:, 0]) * np.cos(4 * x[:, 1])
y = (f + 0.1 * rng.normal(size=rows)).astype(np.float32)
common = {"key": jax.random.key(0), "on_failure": "return"}
ways = {"inducing": {"num_inducing": 8}, "sic": {"num_neighbors": 20, "num_rows": 64}}
places = {"mesh": mesh, "one": None} if alone else {"mesh": mesh}

def show(x, y, **options):
    found = gp.fit(x, y, **common, method=method, method_options=ways[method], **options)
    print("found", found.elbo, *found.predict(x[:3]).mean, flush=True)
    return found

batches = {"likelihood": gp.Bernoulli(), "minibatches": 512, "num_steps": 10}
for where, mesh_of in places.items():
    method = "inducing"
    show(x, 1.0 * (f > 0), mesh=mesh_of, **batches)
    if alone:
        show(x, y, num_steps=3, mesh=mesh_of)
        method = "sic"
        show(x[:255], y[:255], num_steps=3, mesh=mesh_of)
if alone:
    seen = set()
    # Rows that repeat, and that eight devices do not divide. Steps that these have begun are ended
    # by one, and what it found is kept.
    few, method = slice(205), "inducing"
    data = np.concatenate([x[few], x[:5]]), np.concatenate([y[few], y[5:10]])
    path, stop = sys.stdin.readline().strip(), lambda step, *_: step >= 5
    show(*data, mesh=mesh, num_steps=10)
    begun = {"mesh": mesh, "checkpoint": path, "callback": stop}
    show(*data, num_steps=10, **begun)
    found = show(*data, checkpoint=path, num_steps=10)
    found.save(path + ".npz")
    kept = gp.load(path + ".npz", *data).predict(x[:3]).mean
    np.testing.assert_allclose(kept, found.predict(x[:3]).mean, rtol=1e-5)
    # The evidence that trains other likelihoods, with its derivative.
    prior = SICPrior.of(gp.Matern(0.3), gp.Zero(), x[:100], num_neighbors=5, latent=True)
    value = lambda prior, sites: prior.log_normalizer(sites)
    look = plain(jax.value_and_grad(value, allow_int=True))
    for mesh_of in (mesh, None):
        with rows_over(mesh_of):
            sites = gp.Sites(*whole((10 * y[:100], 10 * np.ones_like(y[:100]))))
            found, slope = look(whole(prior), sites)
        print("latent", found, slope.kernel.lengthscale)
    for wrong in ({"method": "dense"}, {"mesh": 8}):
        try:
            gp.fit(*data, **{**common, "method": "sic", "mesh": mesh, **wrong})
        except (ValueError, TypeError) as error:
            print("error", error)
"""


def _found(output):
    return np.array([line.split()[1:] for line in _lines(output, "found")], float)


def _lines(output, kind):
    return [line for line in output.splitlines() if line.startswith(kind)]


def _on_eight_devices(script, directory):
    """What a script prints; it is told a path."""
    flags = "--xla_force_host_platform_device_count=8"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=env,
        input=str(directory / "run.npz") + "\n",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def _in_two_processes(script):
    """What each prints, of two that know of each other through `jax.distributed` on loopback."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", script]
    processes = [subprocess.Popen([*command, str(i), address], env=env, **pipes) for i in range(2)]
    outputs = [process.communicate(timeout=400) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return [output for output, _ in outputs]


@pytest.fixture(scope="module")
def of_eight(tmp_path_factory):
    output = _on_eight_devices(FIT, tmp_path_factory.mktemp("mesh"))
    return _found(output), output


@pytest.mark.slow
def test_chains_on_eight_devices_are_those_on_one(of_eight):
    """Five chains, which eight devices do not share evenly; to the last bit."""
    spread, single = _lines(of_eight[1], "chains")
    assert spread == single


@pytest.mark.slow
def test_populations_on_eight_devices_are_those_on_one(of_eight):
    """To the last bit; each device is given an eighth of the particles. The twin: without mesh."""
    spread, single = _lines(of_eight[1], "populations")
    assert spread == single
    share, whole = (int(line.split()[1]) for line in _lines(of_eight[1], "bytes"))
    assert share < whole / 4


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
    first, second = map(_found, _in_two_processes(FIT))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, of_eight[0][:6:2], rtol=2e-5, atol=2e-4)


@pytest.fixture(scope="module")
def gp_of_eight(tmp_path_factory):
    return _on_eight_devices(GP, tmp_path_factory.mktemp("gp"))


@pytest.mark.slow
def test_gaussian_processes_on_eight_devices_are_those_on_one(gp_of_eight):
    """All rows and minibatches; rows that repeat and do not divide, by a run that one took over."""
    found = _found(gp_of_eight)
    assert found.shape == (9, 4)
    np.testing.assert_allclose(found[[0, 1, 2, 6]], found[[3, 4, 5, 8]], rtol=2e-4, atol=2e-4)
    assert abs(found[7, 0] - found[8, 0]) > 0.1  # the twin: fewer steps, another number
    latent = [line.split()[1:] for line in _lines(gp_of_eight, "latent")]
    np.testing.assert_allclose(*np.array(latent, float), rtol=1e-4)
    methods, device = _lines(gp_of_eight, "error")
    assert "expected with a mesh a method in ['inducing', 'sic']" in methods
    assert "'dense'" in methods
    assert "expected a jax.sharding.Mesh" in device


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inducing.loss_of", "inducing.take_steps", "sic.loss_of"])
def test_eight_devices_share_the_work_of_a_gaussian_process(gp_of_eight, name):
    """What is compiled is one device's part: its operations and bytes, and no array of all rows.

    The twin has the data whole on each of the eight devices.
    """
    lines = [line.split()[1:] for line in _lines(gp_of_eight, "cost")]
    costs = {where: np.array(rest, float) for which, where, *rest in lines if which == name}
    assert set(costs) == {"mesh", "one", "whole"}
    shared = [0, 2] if name.startswith("sic") else [0, 1, 2]  # there, each has all the data
    assert (costs["mesh"][shared] < costs["one"][shared] / 4).all()
    assert costs["mesh"][3] == 0
    assert (costs["whole"][:3] > costs["one"][:3] / 2).all()


@pytest.mark.slow
def test_two_processes_find_the_gaussian_process_of_one(gp_of_eight):
    first, second = map(_found, _in_two_processes(GP))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, _found(gp_of_eight)[:1], rtol=2e-4, atol=2e-4)


PARTICLES = """
import jax, jax.numpy as jnp, numpy as np
import vi
from samplers.particles import svgd

rows = np.random.default_rng(0).normal(size=(200, 10)).astype(np.float32)
how = svgd(lambda z: -0.5 * z @ z - jnp.sum(jnp.logaddexp(0, rows @ z)), 1.0, method="newton")
x = np.random.default_rng(1).normal(size=(64, 10)).astype(np.float32)
step = jax.jit(how.step)
for start in (vi.shard(x, jax.make_mesh((8,), ("rows",))), x):
    given = jax.random.key(0), how.init(start)
    compiled = step.lower(*given).compile()
    print("flops", compiled.cost_analysis()["flops"])
    print("found", *np.asarray(step(*given)[0].particles).reshape(-1))
"""


@pytest.mark.slow
def test_particles_that_are_spread_share_their_work(tmp_path):
    """Particles that `vi.shard` has spread: a step is one program; the twin's are not spread."""
    output = _on_eight_devices(PARTICLES, tmp_path)
    np.testing.assert_allclose(*_found(output), rtol=2e-4, atol=2e-4)
    share, whole = (float(line.split()[1]) for line in _lines(output, "flops"))
    assert share < whole / 4
