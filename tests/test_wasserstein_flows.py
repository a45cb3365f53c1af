"""Wasserstein flows of Gaussians and of their mixtures, on whole data and on minibatches."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vi
from vi import gaussian

KEY = jax.random.key(0)
STL = vi.elbo(num_particles=32, estimator=vi.StickingTheLanding())


def descend(optimizer, objective, q, target, steps):
    def step(carry, key):
        q, state = carry
        _, grads = objective(key, q, target)
        updates, state = optimizer.update(grads, state, q)
        return (optax.apply_updates(q, updates), state), None

    scan = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys)[0][0])
    return scan((q, optimizer.init(q)), jax.random.split(KEY, steps))


def truth(weights):
    locs = jnp.array([[-3.0, 0.0], [3.0, 1.0]])
    roots = (jnp.array([[1.0, 0.0], [0.5, 0.5]]), jnp.array([[0.7, 0.0], [-0.3, 1.0]]))
    parts = [vi.full_rank(2, loc=m) for m in locs]
    parts = [vi.Gaussian(g.loc, g.scale.of(r)) for g, r in zip(parts, roots, strict=True)]
    return vi.mixture(parts, jnp.asarray(weights))


def both(q):
    order = np.argsort(q.components.loc[:, 0])
    covariances = jax.vmap(vi.Gaussian.covariance)(q.components)
    return np.asarray(q.components.loc)[order], np.asarray(covariances)[order]


@pytest.mark.parametrize(("weights", "rate"), [((0.5, 0.5), 0.0), ((0.2, 0.8), 0.1)])
def test_a_mixture_flows_into_the_mixture_that_it_is(weights, rate):
    """Sticking the landing has no noise at the optimum, so the end is exact to rounding."""
    p = truth(weights)
    target = vi.target(lambda z, p: p.log_prob(z), jnp.zeros(2), p)
    start = vi.mixture([vi.full_rank(2, loc=m) for m in jnp.array([[-1.0, 2.0], [2.0, -1.0]])])
    flow = gaussian.mixture_flow(0.1, weight_rate=rate)
    q = descend(flow, STL, start, target, 1500)
    np.testing.assert_allclose(both(q)[0], both(p)[0], atol=0.01)
    np.testing.assert_allclose(both(q)[1], both(p)[1], atol=0.02)
    np.testing.assert_allclose(np.sort(jax.nn.softmax(q.logits)), np.sort(weights), atol=0.01)
    if rate:
        return
    assert not (q.logits - start.logits).any()  # the flow does not move weights


@pytest.mark.slow
@pytest.mark.parametrize("make", [vi.mean_field, lambda d: vi.block(((0, 2), (1,)))])
def test_one_component_moves_as_bures_wasserstein(make, x64):
    density = lambda z: -jnp.sum(jnp.cosh(z)) - 0.3 * z[0] * z[1]
    target, single = vi.target(density, jnp.zeros(3)), make(3)
    _, grads = gaussian.Stein(64)(KEY, single, target)
    alone = gaussian.bures_wasserstein(1e-3)
    expected, _ = alone.update(grads, alone.init(single), single)
    q, stacked = vi.mixture([single]), jax.tree.map(lambda g: g[None], grads)
    flow = gaussian.mixture_flow(1e-3)
    found, _ = flow.update(vi.Mixture(jnp.zeros(1), stacked), flow.init(q), q)
    leaves = zip(jax.tree.leaves(found.components), jax.tree.leaves(expected), strict=True)
    for new, old in leaves:
        np.testing.assert_allclose(new[0], old, atol=1e-10)


def test_a_long_step_is_cut():
    """A narrow target: uncut, the first covariance step would be of 1e4."""
    target = vi.target(lambda z: -0.5 * jnp.sum((z / 1e-2) ** 2), jnp.zeros(2))
    start = vi.mixture([vi.full_rank(2), vi.full_rank(2, loc=jnp.ones(2))])
    q = descend(gaussian.mixture_flow(1.0), STL, start, target, 400)
    assert jnp.isfinite(jax.flatten_util.ravel_pytree(q)[0]).all()
    np.testing.assert_allclose(jnp.sqrt(q.variance()), 1e-2, rtol=0.3)


def test_other_families_are_refused():
    flow = gaussian.mixture_flow(0.1)
    q = vi.full_rank(2)
    with pytest.raises(TypeError, match=r"vi\.mixture"):
        flow.update(q, flow.init(q), q)
    exp = vi.mixture([vi.mean_field(2, positive="exp")])
    with pytest.raises(TypeError, match="positive='linear'"):
        flow.update(exp, flow.init(exp), exp)


def rows(x, y):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y), subsample_size=25):
        xb, yb = numpyro.subsample(x, 1), numpyro.subsample(y, 0)
        numpyro.sample("y", dist.Normal(xb @ beta, 1.0), obs=yb)


def test_stochastic_forward_backward_on_minibatches():
    """Against the conjugate posterior; steps fall, so that the floor of the noise falls too."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(500, 2)).astype(np.float32)
    y = (x @ [1.0, -2.0] + generator.normal(size=500)).astype(np.float32)
    target = vi.target(rows, x, y)
    precision = x.T @ x + np.eye(2)
    mean, covariance = np.linalg.solve(precision, x.T @ y), np.linalg.inv(precision)
    smooth = np.linalg.eigvalsh(precision).max()
    schedule = lambda t: 0.5 / smooth / (1 + t / 100)
    q = descend(
        gaussian.forward_backward(schedule), gaussian.BonnetPrice(2), vi.full_rank(2), target, 4000
    )
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((q.loc - mean) / sd, 0, atol=0.25)
    np.testing.assert_allclose(q.variance() / sd**2, 1, rtol=0.1)
