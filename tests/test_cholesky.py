"""Cholesky factors in batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gp.cholesky import cholesky

BATCH = np.random.default_rng(0).normal(size=(3, 4, 9))
BATCH = (BATCH @ BATCH.mT).astype(np.float32)


@pytest.mark.parametrize(("factor", "alone"), [(cholesky, True), (jnp.linalg.cholesky, False)])
def test_a_batch_is_factored_one_by_one(factor, alone):
    """jaxlib's batches of LAPACK calls can wait for each other for ever."""
    text = jax.jit(jax.vmap(jax.vmap(factor))).lower(BATCH[None]).as_text()
    calls = [line for line in text.splitlines() if "lapack_spotrf" in line]
    assert calls
    assert all(("(tensor<4x4xf32>)" in line) == alone for line in calls)


def test_derivatives_of_a_batch():
    way = np.random.default_rng(1).normal(size=BATCH.shape).astype(np.float32)
    scores = [
        lambda a, factor=factor: jnp.sum(jnp.cos(jax.vmap(factor)(a)) * way)
        for factor in (cholesky, jnp.linalg.cholesky)
    ]
    found, expected = (jax.jit(jax.grad(score))(BATCH) for score in scores)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
