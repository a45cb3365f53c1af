"""Online conformal calibration: coverage, also across changes; who lives how long."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import online_conformal


def run(residuals, scale=3.0, alpha=0.1):
    how = online_conformal(scale, alpha=alpha)
    step = lambda state, r: (lambda s, c: (s, (c, s.radius)))(*how.update(state, r))
    scan = jax.jit(lambda r: jax.lax.scan(step, how.init(), r)[1])
    covered, radius = scan(jnp.asarray(residuals, jnp.float32))
    return np.asarray(covered), np.asarray(radius)


def normal(size, scale=1.0, seed=0):
    return np.abs(scale * np.random.default_rng(seed).normal(size=size))


@pytest.mark.parametrize(("alpha", "near"), [(0.1, 0.015), (0.3, 0.035)])
def test_coverage_of_a_steady_stream(alpha, near):
    """8,000 steps: the standard error of the share is 0.0034 to 0.005; its bias is documented."""
    covered, radius = run(normal(8000), alpha=alpha)
    assert abs(covered.mean() - (1 - alpha)) < near
    quantile = np.quantile(normal(8000), 1 - alpha)
    assert abs(radius[4000:].mean() - quantile) < 0.25 * quantile


def test_coverage_across_changes():
    """Residuals grow fivefold and shrink again: overall, and soon after each change.

    A radius fixed on the first part covers 24 % of the second: the twin that must fail.
    """
    stream = np.concatenate([normal(2000), normal(2000, 5.0, 1), normal(2000, 1.0, 2)])
    covered, _ = run(stream, scale=7.0)
    assert abs(covered.mean() - 0.9) < 0.01
    for late in (slice(2200, 4000), slice(4200, 6000)):
        assert abs(covered[late].mean() - 0.9) < 0.04
    fixed = stream <= np.quantile(stream[:2000], 0.9)
    assert abs(fixed[2200:4000].mean() - 0.9) > 0.5


def test_experts_live_as_long_as_their_time_says():
    """At time 64 the experts alive are those that the definition lists."""
    how = online_conformal(1.0)
    state = jax.lax.scan(how.update, how.init(), jnp.ones(63))[0]
    assert state.time == 64
    alive = np.sort(np.asarray(state.start)[np.asarray((state.start > 0) & (state.end > 64))])
    power = lambda t: t & -t
    assert alive.tolist() == [t for t in range(1, 65) if t + 8 * power(t) > 64]


def test_no_expert_is_overwritten_while_alive():
    how = online_conformal(1.0)

    def step(state, r):
        new, _ = how.update(state, r)
        lost = (state.start > 0) & (new.time < state.end) & (new.start != state.start)
        return new, lost.any()

    assert not jax.lax.scan(step, how.init(), jnp.ones(20_000))[1].any()


def test_a_missing_residual_changes_nothing():
    how = online_conformal(1.0)
    state = jax.lax.scan(how.update, how.init(), jnp.ones(5))[0]
    after, covered = how.update(state, jnp.nan)
    assert not covered
    for a, b in zip(after, state, strict=True):
        np.testing.assert_array_equal(a, b)


def test_alpha_is_a_share():
    with pytest.raises(ValueError, match="between 0 and 1"):
        online_conformal(1.0, alpha=1.5)


def test_an_infinite_residual_is_one_miss():
    """The radius afterwards is near that of a stream with a very large one in its place."""
    residuals = np.abs(np.random.default_rng(0).normal(size=600)).astype(np.float32)
    calibration = online_conformal(3.0, alpha=0.1)

    def radius(bad):
        seen = jnp.asarray(residuals).at[200].set(bad)
        return jax.lax.scan(calibration.update, calibration.init(), seen)[0].radius

    assert abs(radius(jnp.inf) - radius(1e6)) < 0.3
    assert jnp.isfinite(radius(jnp.inf))
