"""OASIS against its formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optim import Oracle, oasis
from optim.steps import step_key
from tests.losses import CONVEX, START, Loss, iterates

KEY = jax.random.key(5)


def reference(loss, x, steps, *, decay, floor, probes, momentum, initial, cap, fixed=None):
    total, bias, m, old, eta, theta, found = 0.0, 0.0, 0.0, None, initial, np.inf, []
    scale_from = None
    for t in range(steps):
        g = loss(t).grad(x)
        z = jax.random.rademacher(step_key(KEY, "probes", t), (probes, len(x)), float)
        z = np.asarray(z)
        total = decay * total + (1 - decay) * (z * (z @ loss(t).hessian(x))).mean(0)
        bias = decay * bias + 1 - decay
        use = total / bias if t == 0 else scale_from
        scale_from = total / bias
        D = np.maximum(np.abs(use), floor * np.abs(use).mean())
        if t > 0:
            d, y = x - old, g - loss(t).grad(old)
            local = np.sqrt((D * d * d).sum()) / (2 * np.sqrt((y * y / D).sum()))
            new = min(np.sqrt(1 + theta) * eta, local)
            eta, theta = new, new / eta
        m = momentum * m + (1 - momentum) * g
        s = (fixed or eta) * m / (1 - momentum ** (t + 1)) / D
        s *= min(1, cap * np.sqrt(len(x)) / np.linalg.norm(s))
        old, x = x, x - s
        found.append(x)
    return np.array(found)


@pytest.mark.parametrize("options", [{}, {"learning_rate": 0.3}, {"max_change": 1.0}])
def test_is_its_formula(options, x64):
    """The loss changes from step to step: differences are at the same loss."""
    losses = [Loss(CONVEX + t * np.diag([0.3, 0, 0.1, 0.2])) for t in range(6)]
    stack = jnp.asarray(np.stack([loss.A for loss in losses]))
    oracle_at = lambda t: Oracle(lambda x: 0.5 * x @ stack[t] @ x + jnp.sum(jnp.cosh(x)))
    optimizer = oasis(KEY, decay=0.8, num_probes=3, momentum=0.5, floor=0.6, **options)
    found = iterates(optimizer, oracle_at, jnp.asarray(START), 6)
    expected = reference(
        losses.__getitem__, START, 6, decay=0.8, floor=0.6, probes=3, momentum=0.5,
        initial=1e-2, cap=options.get("max_change", 0.1), fixed=options.get("learning_rate"),
    )  # fmt: skip
    assert np.allclose([x for x, _ in found], expected, rtol=1e-7, atol=1e-9)


def test_the_rate_does_not_depend_on_the_units_of_the_loss():
    loss = Loss(CONVEX)
    ends = [
        iterates(oasis(KEY), lambda t, c=c: Oracle(lambda x: c * loss(x)), jnp.asarray(START), 60)
        for c in (1.0, 2.0**10)
    ]
    assert np.allclose(ends[0][-1][0], ends[1][-1][0], atol=1e-4)
    assert loss.value(ends[0][-1][0]) - 4 < 2e-2  # the minimum is at 0


def test_accumulation_is_refused_only_where_it_matters():
    with pytest.raises(ValueError, match=r"oasis: .* optax.MultiSteps"):
        optax.MultiSteps(oasis(KEY), 2).init(jnp.ones(2))
    optax.MultiSteps(oasis(KEY, 0.1), 2).init(jnp.ones(2))
