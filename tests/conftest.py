"""Fixtures shared by all tests."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest


@pytest.fixture
def x64():
    """Run a test with 64-bit floats."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """Drop what a module compiled: a hundred modules together take more memory than there is."""
    yield
    jax.clear_caches()
