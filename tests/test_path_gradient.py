"""The path gradient of a flow that carries its score along, and of one that does not."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import vi
from vi.module import module

KEY = jax.random.key(0)


@module
class Coupling:
    """An affine coupling of two coordinates on a Gaussian, with and without its recursion."""

    loc: jax.Array
    slope: jax.Array
    dim = 2

    def noise(self, key, num_samples):
        return jax.random.normal(key, (num_samples, 2))

    def draw(self, noise):
        x = self.loc + noise
        moved = x[:, 1] * jnp.exp(jnp.tanh(self.slope * x[:, 0])) + x[:, 0] ** 2
        return jnp.stack([x[:, 0], moved], -1), jnp.full(len(x), 1 / len(x))

    def sample(self, key, num_samples):
        return self.draw(self.noise(key, num_samples))[0]

    def log_prob(self, z):
        scale = jnp.tanh(self.slope * z[..., 0])
        x = jnp.stack([z[..., 0], (z[..., 1] - z[..., 0] ** 2) * jnp.exp(-scale)], -1)
        return dist.Normal(self.loc, 1.0).log_prob(x).sum(-1) - scale


class Carrying(Coupling):
    """The same, carrying the score through the layer: never inverted."""

    def draw_and_score(self, noise):
        x, z = self.loc + noise, self.draw(noise)[0]
        log_q = dist.Normal(0.0, 1.0).log_prob(noise).sum(-1) - jnp.tanh(self.slope * x[:, 0])
        before = -noise

        def log_det_and_shift(first, second):
            scale = jnp.tanh(self.slope * first)
            return scale, second * jnp.exp(scale) + first**2

        def one(x, s):
            grad = jax.grad(lambda a: log_det_and_shift(a, x[1])[0])(x[0])
            across = jax.grad(lambda a: log_det_and_shift(a, x[1])[1])(x[0])
            second = s[1] * jnp.exp(-jnp.tanh(self.slope * x[0]))
            return jnp.stack([s[0] - grad - across * second, second])

        return z, log_q, jax.vmap(one)(x, before)


@pytest.mark.slow
def test_path_gradients_are_sticking_the_landing(x64):
    """The same numbers, whether the family carries its score or not; and the recursion is used."""
    Flow = jax.tree_util.register_dataclass(Carrying, ["loc", "slope"], [])
    target = vi.target(lambda x: -0.5 * jnp.sum((x - 1.0) ** 2), jnp.zeros(2))
    at = jnp.array([0.3, -0.2]), jnp.array(0.7)
    run = lambda q, how: jax.jit(vi.elbo(num_particles=3, estimator=how))(KEY, q, target)
    stuck = run(Coupling(*at), vi.StickingTheLanding())
    for q in (Coupling(*at), Flow(*at)):
        found = run(q, vi.PathGradient())
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(stuck), strict=True):
            assert np.allclose(a, b, rtol=1e-12)

    class Wrong(Carrying):
        def draw_and_score(self, noise):
            z, log_q, score = super().draw_and_score(noise)
            return z, log_q, 2 * score

    Wrong = jax.tree_util.register_dataclass(Wrong, ["loc", "slope"], [])
    found = run(Wrong(*at), vi.PathGradient())
    assert not np.allclose(found[1].loc, stuck[1].loc, rtol=1e-3)
    with pytest.raises(vi.TargetError, match=r"linear in log q.*PathGradient"):
        vi.iwae(num_particles=3, estimator=vi.PathGradient())(KEY, Flow(*at), target)
