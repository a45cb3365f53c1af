"""Small smooth losses with derivatives written in NumPy, for tests of optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

_RNG = np.random.default_rng(11)
_B = _RNG.normal(size=(4, 4))
CONVEX = _B @ _B.T / 4
INDEFINITE = (_B + _B.T) / 2
START = np.array([0.8, -1.1, 0.5, 1.4])


class Loss:
    """½ xᵀ A x + Σ cosh x."""

    def __init__(self, A):
        self.A = A

    def __call__(self, x):
        return 0.5 * x @ jnp.asarray(self.A, x.dtype) @ x + jnp.sum(jnp.cosh(x))

    def value(self, x):
        return 0.5 * x @ self.A @ x + np.cosh(x).sum()

    def grad(self, x):
        return self.A @ x + np.sinh(x)

    def hessian(self, x):
        return self.A + np.diag(np.cosh(x))


def iterates(optimizer, oracle_at, x, steps):
    """Parameters after each of the first steps, and the states; ``oracle_at(t)`` is the loss."""

    @jax.jit
    def step(x, state, t):
        oracle = oracle_at(t)
        value, grad = oracle.value_and_grad(x)
        updates, state = optimizer.update(grad, state, x, value=value, grad=grad, value_fn=oracle)
        return optax.apply_updates(x, updates), state

    state, found = optimizer.init(x), []
    for t in range(steps):
        x, state = step(x, state, t)
        found.append((np.asarray(x), state))
    return found
