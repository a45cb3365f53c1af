"""A short use of every package as it was installed: ``python tests/smoke.py``, in any folder.

Python puts this file's folder on the path and not the checkout, so what is imported is the wheel;
``make wheel-lowest`` and ``make wheel-newest`` run it where only the wheel is installed.
"""

import importlib
import importlib.metadata
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings

PACKAGES = ("optim", "vi", "flows", "gp", "samplers")


def contents(checkout: pathlib.Path) -> None:
    """The wheel has all modules of the packages, marked as typed, and nothing else."""
    files = importlib.metadata.distribution("kullback").files or []
    names = {file.as_posix() for file in files if not file.parts[0].endswith(".dist-info")}
    names = {name for name in names if not name.endswith(".pyc")}
    expected = {
        path.relative_to(checkout).as_posix()
        for package in PACKAGES
        for path in (checkout / package).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert names == expected, f"wheel and checkout differ: {sorted(names ^ expected)}"
    for package in PACKAGES:
        where = pathlib.Path(importlib.import_module(package).__file__ or "")
        assert where.parents[1] != checkout, f"{package} comes from the checkout: {where}"


def seconds_to_import() -> None:
    """Prints what ``import`` of each package adds to that of JAX, in CPU seconds."""
    code = (
        "import time; a = time.process_time(); import jax; b = time.process_time(); import {}; "
        "print(time.process_time() - b, b - a)"
    )
    best = {}
    for package in PACKAGES:
        command = [sys.executable, "-c", code.format(package)]
        runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in "ab"]
        best[package] = min(tuple(map(float, run.stdout.split())) for run in runs)
    added = ", ".join(f"{package} {more:.2f}" for package, (more, _) in best.items())
    jax_itself = min(seconds for _, seconds in best.values())
    print(f"import: jax {jax_itself:.2f} CPU s; beyond it: {added}")


def uses(folder: pathlib.Path) -> None:
    """Fits, draws, tables, pictures, files: one of each kind."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import numpyro
    import numpyro.distributions as dist
    import optax

    import flows
    import gp
    import optim
    import samplers
    import vi

    def model(x, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 10))
        scale = numpyro.sample("scale", dist.HalfNormal(5))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(slope * x, scale), obs=y)

    key, x = jax.random.key(0), np.linspace(-1.0, 1.0, 50)
    y = 2 * x + 0.5 * np.random.default_rng(0).normal(size=50)
    posterior = vi.fit(model, x, y, key=key)
    print("vi.fit:", posterior.verdict)
    assert posterior.verdict.grade in ("good", "fair")
    assert posterior.summary().loc["slope", "mean"] > 1.5
    posterior.plot_marginals().savefig(folder / "marginals.png")
    posterior.save(folder / "posterior.npz")
    assert vi.Posterior.load(folder / "posterior.npz", model, x, y).elbo == posterior.elbo
    exported = posterior.to_arviz()
    assert exported["posterior"]["slope"].shape[0] == 1
    assert posterior.predictive(key, x)["y"].shape[1] == 50

    flow = flows.realnvp(2, key=key, num_layers=2, hidden=(8,))
    bound = vi.iwae(num_particles=4)
    richer = vi.fit(model, x, y, key=key, family=flow, objective=bound, num_steps=100)
    assert np.isfinite(richer.elbo)

    chains = samplers.nuts(model, x, y, key=key, start=posterior, num_samples=200)
    print("samplers.nuts:", chains.verdict)
    assert abs(float(np.mean(chains.draws()["slope"])) - 2) < 0.5

    process = gp.fit(x[:, None], y, key=key)
    print("gp.fit:", process.verdict)
    assert np.sqrt(np.mean((np.asarray(process.predict(x[:, None]).mean) - 2 * x) ** 2)) < 0.5

    optimizer, z = optim.dog(), jnp.ones(3)
    state = optimizer.init(z)
    for _ in range(3):
        updates, state = optimizer.update(2 * z, state, z)
        z = optax.apply_updates(z, updates)
    assert bool(jnp.all(jnp.isfinite(z)))


def main() -> None:
    """Run all of it."""
    warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing")
    begun = time.process_time()
    names = ("jax", "jaxlib", "numpyro", "blackjax", "distrax", "optax", "arviz", "numpy")
    versions = (f"{name} {importlib.metadata.version(name)}" for name in names)
    print("python", sys.version.split()[0], *versions)
    contents(pathlib.Path(__file__).resolve().parents[1])
    seconds_to_import()
    import matplotlib

    matplotlib.use("Agg")
    with tempfile.TemporaryDirectory() as folder:
        uses(pathlib.Path(folder))
    print(f"smoke test passed in {time.process_time() - begun:.0f} CPU s")


if __name__ == "__main__":
    main()
