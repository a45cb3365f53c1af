"""Pathfinder: the best of the Gaussians along paths of a quasi-Newton search."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vi import Gaussian, Posterior, Target
from vi import target as make_target
from vi.clock import Clock
from vi.compile import quick_jit
from vi.errors import NonFiniteTargetError
from vi.families.scale import DenseScale
from vi.options import FitOptions
from vi.random import check_count, check_key, host_generator
from vi.rung import one_run, report
from vi.status import Status

RADIUS = 2.0  # of the cube in which paths start


def pathfinder(
    model: Callable | Target,
    *args: Any,
    key: Array,
    num_paths: int = 4,
    num_steps: int = 100,
    num_draws: int = 50,
    memory: int = 10,
    **kwargs: Any,
) -> Posterior:
    r"""Approximate a posterior by Gaussians along the paths of L-BFGS from several points.

    At each point x of a path the search's inverse Hessian Σ makes a Gaussian,

    .. math:: q = N\big(x + Σ ∇ \log p(x), \; Σ\big), \qquad Σ = \operatorname{diag} α + β γ β^T

    and the answer is the one of the highest ELBO, of all paths; those of the others tell of other
    modes. Cheaper than `vi.fit`, which has the best Gaussian where this one has the best that a
    path met; a start for `samplers.nuts`.

    Args:
      model: a NumPyro model, a log density (`vi.target`), or a `vi.Target`.
      *args: arguments of the model: its data.
      key: a key from `jax.random.key`.
      num_paths: paths, from points uniform in a cube from -2 to 2.
      num_steps: of each path, at most.
      num_draws: draws by which each Gaussian's ELBO is estimated.
      memory: differences that the inverse Hessian is made of.
      **kwargs: keyword arguments of the model.

    Returns:
      The posterior, judged as that of `vi.fit` is.

    Raises:
      TypeError: if the key is none.
      ValueError: for numbers that mean nothing.
      NonFiniteTargetError: if no Gaussian of any path has a finite ELBO.

    Complexity:
      ``num_paths num_steps`` gradients, which its cost tells, and those of line searches, which it
      does not; ``num_draws`` densities at each point; O(D³) for the answer.

    Reference: Zhang, Carpenter, Gelman and Vehtari (2022), "Pathfinder: parallel quasi-Newton
    variational inference", Algorithm 1, by blackjax's search and factors. The mean goes up the
    gradient of log p, as in the article; blackjax 1.7 goes down.

    Example:
      >>> import jax, jax.numpy as jnp, samplers
      >>> found = samplers.pathfinder(
      ...     lambda x: -0.5 * jnp.sum((x - 3.0) ** 2), jnp.zeros(2), key=jax.random.key(0)
      ... )
      >>> bool(jnp.all(jnp.abs(found.q.loc - 3.0) < 0.01))
      True
    """
    check_key("samplers.pathfinder", key)
    numbers = {"num_paths": num_paths, "num_steps": num_steps, "num_draws": num_draws}
    for name, value in {**numbers, "memory": memory}.items():
        check_count("samplers.pathfinder", name, value)
    clock = Clock()
    target = make_target(model, *args, **kwargs)
    generator, dtype = host_generator(key, 0), np.dtype(target.layout.dtype)
    starts = generator.uniform(-RADIUS, RADIUS, (num_paths, target.dim)).astype(dtype)
    words = generator.integers(0, 2**32, (num_paths, 4), dtype=np.uint32)
    found = _paths(words, starts, target, steps=num_steps, draws=num_draws, memory=memory)
    locs, roots, elbos, lengths = map(np.asarray, found)
    sound = np.isfinite(elbos) & np.isfinite(roots).all((1, 2)) & np.isfinite(locs).all(1)
    if not sound.any():
        raise NonFiniteTargetError(
            f"samplers.pathfinder: expected a finite ELBO on one of {num_paths} paths; got none. "
            "Raise num_paths, or look at vi.fit(model, ...).verdict."
        )
    order = [int(i) for i in np.argsort(-elbos) if sound[i]]
    best, *others = [Gaussian(jnp.asarray(locs[i]), DenseScale.of(roots[i])) for i in order]
    steps = int(lengths.sum())
    return report(
        target,
        best,
        key,
        FitOptions(),
        status=Status.CONVERGED,
        notes=[f"The best Gaussian on {len(order)} of {num_paths} paths of a quasi-Newton search."],
        history=one_run(np.arange(len(order)), elbos[order][::-1]),
        gradients=steps,
        clock=clock,
        others=others,
    )


@partial(quick_jit, static_argnames=("steps", "draws", "memory"))
def _paths(
    words: Array, starts: Array, target: Target, *, steps: int, draws: int, memory: int
) -> tuple[Array, Array, Array, Array]:
    """Of each path: mean, root and ELBO of its best Gaussian, and its length."""
    from blackjax.optimizers.lbfgs import bfgs_sample, lbfgs_inverse_hessian_formula_1
    from blackjax.vi.pathfinder import approximate

    def elbo(key: Array, at: Any) -> Array:
        z, log_q = bfgs_sample(
            key, draws, at.position, -at.grad_position, at.alpha, at.beta, at.gamma
        )
        value = jnp.mean(jax.vmap(target.log_density)(z) - log_q)
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    def one(given: tuple) -> tuple[Array, Array, Array, Array]:
        words, start = given
        key = jax.random.wrap_key_data(words, impl="rbg")
        own, key = jax.random.split(key)
        _, info = approximate(
            own, target.log_density, start, 1, maxiter=steps, maxcor=memory, maxls=50
        )
        taken = jnp.isfinite(info.path.elbo)
        elbos = jax.lax.map(lambda at: elbo(key, at), info.path)
        elbos = jnp.where(taken, elbos, -jnp.inf)
        at: Any = jax.tree.map(lambda x: x[jnp.argmax(elbos)], info.path)
        covariance = lbfgs_inverse_hessian_formula_1(at.alpha, at.beta, at.gamma)
        loc = at.position - covariance @ at.grad_position
        return loc, jnp.linalg.cholesky(covariance), jnp.max(elbos), jnp.sum(taken)

    return jax.lax.map(one, (words, starts))
