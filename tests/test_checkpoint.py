"""Nothing is lost: kill and resume to the same bits, corrupt files, other people's files."""

import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vi
from tests import models
from vi import storage

OPTIONS = {
    "gaussian": {},
    "low_rank": {"family": "low_rank", "rank": 2},
    "stochastic": {"family": "full_rank", "optimizer": optax.adam(0.02), "num_steps": 1500},
}


def fit(path=None, callback=None, kind="gaussian", key=0):
    return vi.fit(
        models.schools, models.SCHOOLS_Y, models.SCHOOLS_SIGMA, key=jax.random.key(key),
        checkpoint=path, callback=callback, **OPTIONS[kind],
    )  # fmt: skip


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a.q, b.q)))


@pytest.mark.parametrize(
    "kind", ["gaussian", pytest.param("low_rank", marks=pytest.mark.slow), "stochastic"]
)
def test_a_stopped_run_continues_to_the_same_bits(tmp_path, kind):
    whole = fit(kind=kind)
    path, calls = tmp_path / "state.npz", []

    def stop(step, state, info):
        calls.append(step)
        return len(calls) % 5 == 0

    posterior = fit(path, stop, kind)
    for _ in range(40):
        if posterior.status != vi.Status.STOPPED:
            break
        posterior = fit(path, stop, kind)
    assert len(calls) > 5
    assert same(whole, posterior)
    assert whole.status == posterior.status
    assert whole.cost["gradients"] == posterior.cost["gradients"]
    assert np.array_equal(whole.history["elbo"], posterior.history["elbo"], equal_nan=True)


SLOW = """
import sys, time
sys.path.insert(0, {root!r})
from tests.test_checkpoint import fit
fit({path!r}, lambda step, state, info: time.sleep(0.05), "stochastic")
"""

WHOLE = """
import sys
sys.path.insert(0, {root!r})
from tests.test_checkpoint import bits, fit
print(bits(fit({path!r}, kind="stochastic")))
"""


def bits(posterior):
    return [np.asarray(leaf).tobytes().hex() for leaf in jax.tree.leaves(posterior.q)]


def command(code, path):
    root = str(pathlib.Path(__file__).resolve().parents[1])
    return [sys.executable, "-c", code.format(root=root, path=path)]


def bits_of_a_process(path):
    return subprocess.run(command(WHOLE, path), capture_output=True, text=True, check=True).stdout


def test_a_killed_process_resumes_to_the_same_bits(tmp_path):
    path = tmp_path / "state.npz"
    child = subprocess.Popen(command(SLOW, str(path)))
    deadline = time.time() + 120
    while not path.exists() and time.time() < deadline and child.poll() is None:
        time.sleep(0.01)
    assert path.exists(), "the child never wrote a checkpoint"
    time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    leaves, _ = storage.load(path)
    assert 0 < int(leaves[0]) < 1500, "the child was not killed in the middle"
    whole = bits_of_a_process(None)
    assert len(whole) > 100
    assert bits_of_a_process(str(path)) == whole


def test_a_finished_fit_is_not_run_again(tmp_path):
    path = tmp_path / "state.npz"
    first = fit(path)
    calls = []
    again = fit(path, lambda step, state, info: calls.append(step))
    assert not calls
    assert same(first, again)


def test_other_fits_are_refused(tmp_path):
    path = tmp_path / "state.npz"
    fit(path)
    with pytest.raises(vi.CheckpointError, match="it differs in key, starts"):
        fit(path, key=1)
    with pytest.raises(vi.CheckpointError, match="delete it or use another path"):
        fit(path, kind="stochastic")
    with pytest.raises(vi.CheckpointError, match="it differs in data"):
        vi.fit(
            models.schools, models.SCHOOLS_Y + 1, models.SCHOOLS_SIGMA, key=jax.random.key(0),
            checkpoint=path,
        )  # fmt: skip


@pytest.mark.parametrize("damage", ["truncated", "rubbish", "empty"])
def test_damaged_files_are_named(tmp_path, damage):
    path = tmp_path / "state.npz"
    fit(path)
    storage.previous(path).unlink()
    content = path.read_bytes()
    damaged = {"truncated": content[: len(content) // 2], "rubbish": b"no zip", "empty": b""}
    path.write_bytes(damaged[damage])
    with pytest.raises(vi.CheckpointError, match="expected a complete file"):
        fit(path)


def test_storage_round_trip_and_atomicity(tmp_path):
    path = tmp_path / "tree.npz"
    tree = {"a": jnp.arange(3.0), "b": [2, 1.5, True], "k": jax.random.key(3, impl="rbg")}
    storage.save(path, tree, {"x": 1})
    back, meta = storage.load_like(path, tree)
    assert meta == {"x": 1}
    assert np.array_equal(back["a"], tree["a"])
    assert back["b"] == [2, 1.5, True]
    assert [type(x) for x in back["b"]] == [int, float, bool]
    assert jax.random.key_impl(back["k"]) == jax.random.key_impl(tree["k"])

    class Unserialisable:
        pass

    with pytest.raises(TypeError):
        storage.save(path, tree, {"x": Unserialisable()})
    assert storage.load(path)[1] == {"x": 1}
    storage.save(path, tree, {"x": 2})
    assert storage.load(tmp_path / "tree.npz.previous")[1] == {"x": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tree.npz", "tree.npz.previous"]
    with pytest.raises(FileNotFoundError):
        storage.load(tmp_path / "nothing.npz")


def _with_sd(sd):
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        numpyro.sample("y", dist.Normal(mu, sd).expand(y.shape).to_event(1), obs=y)

    return model


def test_files_are_tied_to_the_model(tmp_path):
    """The same sites and data under another likelihood; the twin is the same model made anew."""
    y, key = np.arange(4.0), jax.random.key(0)
    checkpoint, saved = tmp_path / "state.npz", tmp_path / "posterior.npz"
    first = vi.fit(_with_sd(1.0), y, key=key, checkpoint=checkpoint)
    first.save(saved)
    assert same(vi.fit(_with_sd(1.0), y, key=key, checkpoint=checkpoint), first)
    assert same(vi.Posterior.load(saved, _with_sd(1.0), y), first)
    with pytest.raises(vi.CheckpointError, match="model"):
        vi.fit(_with_sd(1.5), y, key=key, checkpoint=checkpoint)
    with pytest.raises(vi.CheckpointError, match="log density"):
        vi.Posterior.load(saved, _with_sd(1.5), y)


def test_checkpoints_are_tied_to_the_optimizer(tmp_path):
    path = tmp_path / "state.npz"
    target = vi.target(lambda x: -jnp.sum(x**2), jnp.zeros(2))
    options = {"key": jax.random.key(0), "num_steps": 100, "checkpoint": path}
    vi.fit(target, optimizer=optax.adam(1e-3), **options)
    with pytest.raises(vi.CheckpointError, match="program"):
        vi.fit(target, optimizer=optax.adam(1e-1), **options)
