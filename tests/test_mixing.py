"""R-hat and effective sizes are ArviZ's, many scalars at once."""

import arviz
import numpy as np
import pytest

from samplers import mixing
from samplers.mixing import rhat_and_ess


def chains(count, length, kind):
    """Autoregressions of several strengths, as scalars of shape ``(3,)``."""
    generator = np.random.default_rng(count * length)
    noise = generator.normal(size=(count, length, 3))
    x = noise.copy()
    for t in range(1, length):
        x[:, t] = np.array([-0.9, 0.3, 0.98]) * x[:, t - 1] + noise[:, t]
    if kind == "ties":
        return np.round(x)
    if kind == "apart":
        return x + np.arange(count)[:, None, None]
    return np.sinh(3 * x) if kind == "heavy" else x


def theirs(x):
    with np.errstate(divide="ignore", invalid="ignore"):
        rhat = arviz.rhat(x if len(x) > 1 else x.reshape(2, -1))  # pyright: ignore
        bulk = arviz.ess(x, method="bulk")  # pyright: ignore
        tail = arviz.ess(x, method="tail", prob=(0.05, 0.95))  # pyright: ignore
    return rhat, bulk, tail


@pytest.mark.parametrize("kind", ["plain", "ties", "apart", "heavy"])
@pytest.mark.parametrize("shape", [(4, 200), (3, 61), (1, 100), (2, 4), (4, 10)])
def test_as_in_arviz(shape, kind, monkeypatch):
    x = chains(*shape, kind)  # pyright: ignore
    monkeypatch.setattr(mixing, "BLOCK", 2 * x[..., 0].size)  # the last block is not full
    wanted = np.array([theirs(x[..., i]) for i in range(3)]).T
    np.testing.assert_allclose(rhat_and_ess(x), wanted, rtol=1e-9)
    np.testing.assert_allclose(rhat_and_ess(x[..., 1].astype(np.float32)), wanted[:, 1], rtol=0.01)


def test_chains_of_one_mean_and_different_spread_are_told_apart():
    """By distances from the median; ranks alone see nothing."""
    x = np.random.default_rng(0).normal(size=(4, 500)) * np.array([1.0, 1, 1, 4])[:, None]
    assert mixing._rhat(mixing._scores(x[None]))[0] < 1.01
    assert rhat_and_ess(x)[0] > 1.1


def test_what_has_no_size_is_nan():
    x = np.random.default_rng(0).normal(size=(2, 50, 3))
    x[..., 0] = 1.0
    x[0, 3, 1] = np.inf
    found = rhat_and_ess(x)
    assert np.isnan(found[:, :2]).all()
    assert np.isfinite(found[:, 2]).all()
    assert np.isnan(rhat_and_ess(x[:, :3])).all()
    assert rhat_and_ess(x[..., :0]).shape == (3, 0)
