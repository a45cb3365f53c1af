"""Many gradients of an objective of a guide and model, and their comparison with the exact one."""

import jax
import numpy as np

from tests.stats import assert_mean
from vi.compile import quick_jit

NUM = 8192


def gradients(objective, params, model, guide, *args, num=NUM):
    def one(key):
        return jax.value_and_grad(lambda p: -objective.loss(key, p, model, guide, *args))(params)

    keys = jax.random.split(jax.random.key(1), num)
    return jax.tree.map(np.asarray, quick_jit(jax.vmap(one))(keys))


def attempt(objective, at, *pair):
    """Trace the loss, no more: what is refused is refused there."""
    return jax.eval_shape(lambda p: objective.loss(jax.random.key(0), p, *pair), at)


def compare(found, exact, params):
    value, grads = found
    expected = jax.value_and_grad(exact)(params)
    assert_mean(value, np.asarray(expected[0]))
    for name, g in grads.items():
        assert_mean(g, np.asarray(expected[1][name]))
