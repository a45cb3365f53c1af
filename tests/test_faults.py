"""What can go wrong around a fit: full disks, damaged files, kills, threads, a thousand calls."""

import concurrent.futures
import errno
import gc
import mmap
import resource
import signal
import subprocess
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import threadpoolctl

import vi
from tests import models
from tests.test_checkpoint import SLOW, bits_of_a_process, command, fit, same
from vi import storage
from vi.threads import _controller, blas_threads


@pytest.mark.slow
def test_a_full_disk_costs_only_the_checkpoint(tmp_path, monkeypatch):
    """From the third save on the disk is full: one warning, the same fit, the second file whole."""
    whole, path, saves = fit(kind="stochastic"), tmp_path / "state.npz", []
    savez = np.savez

    def full(file, **arrays):
        saves.append(file)
        if len(saves) > 2:
            file.write(b"half a fi")
            raise OSError(errno.ENOSPC, "No space left on device")
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match=r"could not be written .*No space left.*goes on") as said:
        posterior = fit(path, lambda *_: time.sleep(0.2), "stochastic")
    assert len(said) == 1
    assert len(saves) > 3, "the disk was not tried again"
    assert same(posterior, whole)
    monkeypatch.undo()
    assert 0 < int(storage.load(path)[0][0]) < 1500
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.npz", "state.npz.previous"]
    assert same(fit(path, kind="stochastic"), whole)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    whole, path, calls = fit(kind="stochastic"), tmp_path / "state.npz", []

    def stop(step, state, info):
        calls.append(step)
        return len(calls) == 8

    fit(path, stop, "stochastic")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r"complete file.*Going on from .*state.npz.previous"):
        again = fit(path, kind="stochastic")
    assert same(again, whole)


def test_a_file_has_its_name_at_every_moment(tmp_path, monkeypatch):
    """Killed between the two renames of a save, a checkpoint would be lost if it had not."""
    path, replace, seen = tmp_path / "state.npz", storage.os.replace, []
    storage.save(path, [1], {})

    def watched(source, target):
        replace(source, target)
        seen.append(path.exists() and storage.load(path)[0])

    monkeypatch.setattr(storage.os, "replace", watched)
    storage.save(path, [2], {})
    assert seen == [[1], [2]]


@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path):
    """Whenever it is killed, what is left is resumed to the bits of an undisturbed run."""
    path, rng = tmp_path / "state.npz", np.random.default_rng(0)
    child = None
    for _ in range(20):
        child = subprocess.Popen(command(SLOW, str(path)))
        deadline = time.time() + 120
        before = storage.load(path)[0][0] if path.exists() else -1
        while time.time() < deadline and child.poll() is None:
            if path.exists() and storage.load(path)[0][0] != before:
                break
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.06))
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert bits_of_a_process(str(path)) == bits_of_a_process(None)


def test_two_fits_in_two_threads():
    """The same as one after the other."""
    x, y = models.logistic_data()
    jobs = {
        "schools": lambda: fit(),
        "logistic": lambda: vi.fit(models.logistic, x, y, key=jax.random.key(1)),
    }
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        futures = {name: pool.submit(job) for name, job in jobs.items()}
        together = {name: future.result() for name, future in futures.items()}
    for name, job in jobs.items():
        assert same(together[name], job()), name


def test_limits_on_threads_that_overlap_leave_none_behind():
    """Two threads, the first to enter leaving first."""
    libraries = threadpoolctl.ThreadpoolController().select(user_api="blas")
    known = {x["filepath"] for x in _controller().info()}
    count = lambda: {x["num_threads"] for x in libraries.info() if x["filepath"] in known}
    before, entered, left = count(), threading.Event(), threading.Event()

    def second():
        with blas_threads(3):
            entered.set()
            left.wait()

    thread = threading.Thread(target=second)
    with blas_threads(3):
        assert count() == {1}
        thread.start()
        entered.wait()
    left.set()
    thread.join()
    assert count() == before


def resident():
    """Memory of this process, MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.slow
def test_a_thousand_fits_take_no_more_memory_and_compile_nothing(caplog):
    """Other data at each call. Twin: results that are kept take memory."""

    def model_density(x, y):
        return -0.5 * jnp.sum((x - y) ** 2) - jnp.sum(jnp.exp(0.3 * x))

    def run(count, keep):
        for i in range(count):
            y = np.full(4, 0.01 * i, np.float32)
            keep.append(vi.fit(model_density, jnp.zeros(4), y, key=jax.random.key(0)))
            del keep[:-10]
        gc.collect()
        return resident()

    before = run(100, [])
    with jax.log_compiles():
        after = run(1000, [])
    assert not [r for r in caplog.records if "Compiling" in r.getMessage()]
    assert after - before < 30, f"{after - before:.0f} MB more"
    with mmap.mmap(-1, 40 * 2**20) as ballast:  # pages of its own: none is one freed before
        ballast.write(b"1" * len(ballast))
        assert resident() - after > 30
