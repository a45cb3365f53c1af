"""Streams written to disk: the same rows, whole or not there, in the memory of a block."""

import errno
import gc
import pathlib
import tracemalloc

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi

N, B = 103, 20
rng = np.random.default_rng(0)
X = (2.0 + rng.normal(size=(N, 2))).astype(np.float32)
T = rng.integers(0, 2, N)


def blocks(size=15, fail_at=None, watch=None):
    for first in range(0, N, size):
        if watch:
            watch()
        if first == fail_at:
            raise KeyError("of the iterator")
        yield {"X": X[first : first + size], "t": T[first : first + size]}


def model(x, batch_size):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("rows", len(x), subsample_size=batch_size) as rows:
        numpyro.sample("x", dist.Normal(mu, 1.0), obs=x[rows][:, 0])


def fitted(rows):
    how = {"family": "mean_field", "num_steps": 50, "learning_rate": 0.05}
    return vi.fit(model, rows, B, key=jax.random.key(0), on_failure="return", **how).q.loc


def test_the_fit_has_the_bits_of_arrays_on_disk(tmp_path):
    np.save(tmp_path / "X.npy", X)
    saved = fitted(vi.Rows(np.load(tmp_path / "X.npy", mmap_mode="r")))
    found = vi.Rows.from_blocks(blocks(), tmp_path / "kept")
    np.testing.assert_array_equal(fitted(found["X"]), saved)
    again = vi.Rows(np.load(tmp_path / "kept" / "X.npy", mmap_mode="r"))
    np.testing.assert_array_equal(fitted(again), saved)
    reverse = vi.Rows.from_blocks((X[i : i + 1] for i in reversed(range(N))), tmp_path / "reverse")
    assert not np.array_equal(fitted(reverse), saved)  # the twin: the same rows elsewhere


@pytest.mark.parametrize("size", [1, 15, 500])
def test_files_are_those_of_numpy(tmp_path, size):
    """Every byte: the header is rewritten in the room that NumPy leaves for it."""
    vi.Rows.from_blocks(blocks(size), tmp_path / "kept")
    for name, whole in {"X": X, "t": T}.items():
        np.save(tmp_path / f"{name}.npy", whole)
        assert (tmp_path / "kept" / f"{name}.npy").read_bytes() == (
            tmp_path / f"{name}.npy"
        ).read_bytes()


def test_pytrees_dtypes_and_orders():
    """Fortran order and the other byte order become C order and this one; blocks may be empty."""
    swapped = X.astype(">f4")
    parts = [(np.asfortranarray(swapped[:9]), [T[:9] > 0, None]), (X[:0], [T[:0], None])]
    first, (second, none) = vi.Rows.from_blocks([*parts, (X[9:], [T[9:] > 0, None])])
    np.testing.assert_array_equal(first.array, X)
    assert first.dtype.isnative
    assert none is None
    np.testing.assert_array_equal(second.array, T > 0)


def test_a_temporary_folder_lives_as_long_as_its_rows():
    found = vi.Rows.from_blocks(blocks())
    folder = pathlib.Path(found["X"].array.filename).parent
    part = found.pop("t")
    del found
    gc.collect()
    assert folder.exists()
    del part
    gc.collect()
    assert not folder.exists()


def test_nothing_has_the_name_before_all_is_written(tmp_path):
    """What is there at any block is what a killed process leaves."""
    seen = []

    def watch():
        assert not (tmp_path / "kept").exists()
        seen.append([path.name for path in tmp_path.iterdir()])

    vi.Rows.from_blocks(blocks(watch=watch), tmp_path / "kept")
    assert all(len(names) == 1 and names[0].endswith(".part") for names in seen)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_the_iterators_exception_is_passed_on_and_nothing_is_left(tmp_path):
    with pytest.raises(KeyError, match="of the iterator"):
        vi.Rows.from_blocks(blocks(fail_at=30), tmp_path / "kept")
    assert not list(tmp_path.iterdir())


def test_memory_is_that_of_a_block(tmp_path):
    size, number = 2**16, 30  # floats of a block, half a megabyte

    def stream():
        return (np.full(size, float(i)) for i in range(number))

    def peak(given):
        tracemalloc.start()
        made = vi.Rows.from_blocks(given())
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(made) == size * number
        return found / (8 * size)

    assert peak(stream) < 3
    assert peak(lambda: list(stream())) > number  # the twin: all blocks at once


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    full = lambda path, mode: open("/dev/full", mode)  # noqa: SIM115
    monkeypatch.setattr("vi.targets.blocks.open", full, raising=False)
    with pytest.raises(OSError, match=r"A row takes 16 bytes.*disk with more room") as caught:
        vi.Rows.from_blocks(blocks(), tmp_path / "kept")
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_left_alone(tmp_path):
    (tmp_path / "X.npy").write_text("mine")
    with pytest.raises(FileExistsError, match="new or an empty folder"):
        vi.Rows.from_blocks(blocks(), tmp_path)
    assert (tmp_path / "X.npy").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    vi.Rows.from_blocks(blocks(), tmp_path / "empty")
    assert {path.name for path in (tmp_path / "empty").iterdir()} == {"X.npy", "t.npy"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "got 0 blocks and no rows"),
        ([(X[:0], T[:0])], "got 1 blocks and no rows"),
        (X, "expected an iterable of blocks"),
        (3, "expected an iterable of blocks"),
        ([(X, T[1:])], "block 0: expected arrays that lead with the same number of rows"),
        ([(X, np.ma.masked_less(T, T.max()))], "block 0: expected no masked values"),
        ([X, ()], "block 1: expected arrays that lead"),
        ([(X, 1.0)], "block 0: expected arrays that lead"),
        ([(X, T), (X, T > 0)], "block 1: expected '1' with the dtype int64.*got bool"),
        ([{"x": X}, {"x": X[:, :1]}], r"block 1: expected 'x'.*shape \(2,\).*and \(1,\)"),
        ([{"x": X}, {"y": X}], "block 1: expected the structure"),
        ([np.asarray(["a", "b"])], "numbers in 'rows'; got the dtype <U1"),
        ([np.asarray([1, "b"], object)], "got the dtype object"),
        ([{"a": {"b": T}, "a.b": T}], "'a.b.npy' twice"),
    ],
)
def test_what_is_not_a_stream_of_blocks_says_so(tmp_path, given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        vi.Rows.from_blocks(given, tmp_path / "kept")
    assert not list(tmp_path.iterdir())
