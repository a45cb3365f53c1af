r"""The score function, and the baselines that centre it."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.module import module, static

BASELINES = ("leave_one_out", "none")
Baseline = Literal["leave_one_out", "none"] | Callable


@module
class Score:
    r"""The score function, or likelihood ratio: for any site with a density, also discrete ones.

    .. math:: \int F(z) \nabla q(z) dz = E_q[(F(z) - b) \nabla \log q(z)]

    Of F only what depends on the site takes part: a site under a plate is weighted by the costs
    of its own datum; and where F is linear in the log densities, the gradient of the site's own
    density in F, which is mean-zero noise, is left out. With ``baseline="leave_one_out"``
    (default) b is the objective with the log densities of this particle replaced by the mean of
    those of the other particles. For the ELBO that is the leave-one-out estimator, identical to
    the gradient of the log-variance loss (VarGrad, `vi.log_variance`); for the
    importance-weighted bound it is VIMCO. It takes at least two particles.

    The support of the site must not depend on what is optimised: the formula would miss a term.

    Attributes:
      baseline: ``"leave_one_out"``, ``"none"``, or a function of the guide's arguments that
        predicts the objective of one datum (its shape broadcasts with the site's batch shape);
        it must not depend on the draws, and is not differentiated.

    References: Kool, van Hoof and Welling (2019), "Buy 4 REINFORCE samples, get a baseline for
    free!"; Mnih and Rezende (2016), "Variational inference for Monte Carlo objectives"; Richter,
    Boustati, Nüsken, Ruiz and Akyildiz (2020), "VarGrad: a low-variance gradient estimator for
    variational inference".
    """

    baseline: Baseline = static(default="leave_one_out")


@module
class RunningScore:
    r"""The score function with a running mean of the objective as its baseline.

    .. math:: b_t = \frac{\sum_{s < t} δ^{t - 1 - s} F_s}{\sum_{s < t} δ^{t - 1 - s}}

    with F the estimates of the objective at earlier steps, divided by the number of data for a
    site under a plate. For one particle, where there are no others to leave out; with two or more
    `Score` has less noise, since its baseline is of the same step and of the same datum.

    The state is in the estimator, a value like all others, and the caller carries it: `update`
    gives the estimator after one more step, in ``jit`` and ``scan`` too, and `Objective.update`
    the objective with it. `vi.fit` and `vi.SVI` do so themselves; ``numpyro.infer.SVI`` does not,
    and with it the baseline stays what it was given.

    Attributes:
      decay: δ in [0, 1).
      total: discounted sum of estimates so far, shape ``()``.
      weight: discounted number of them, shape ``()``.

    Example:
      >>> import jax, jax.numpy as jnp, optax, vi
      >>> target = vi.target(lambda x: -0.5 * jnp.sum((x - 7.0) ** 2), jnp.zeros(2))
      >>> def step(carry, key):
      ...     q, objective = carry
      ...     loss, grads = objective(key, q, target)
      ...     q = optax.apply_updates(q, jax.tree.map(lambda g: -0.01 * g, grads))
      ...     return (q, objective.update(-loss)), loss
      >>> start = vi.mean_field(2), vi.elbo(estimator=vi.RunningScore())
      >>> keys = jax.random.split(jax.random.key(0), 100)
      >>> (q, objective), losses = jax.jit(lambda c, k: jax.lax.scan(step, c, k))(start, keys)
      >>> round(float(objective.estimator.weight), 3)  # (1 - 0.9^100) / (1 - 0.9)
      10.0

    Reference: Williams (1992), "Simple statistical gradient-following algorithms for connectionist
    reinforcement learning", section 4 (reinforcement comparison).
    """

    decay: float = static(default=0.9)
    total: Float[Array, ""] = dataclasses.field(default_factory=lambda: jnp.zeros(()))
    weight: Float[Array, ""] = dataclasses.field(default_factory=lambda: jnp.zeros(()))

    @property
    def mean(self) -> Float[Array, ""]:
        """The baseline: zero before the first step."""
        return self.total / jnp.where(self.weight > 0, self.weight, 1)

    def update(self, value: Float[Array, ""]) -> "RunningScore":
        """The estimator after a step at which the objective was estimated as ``value``.

        A value that is not finite is left out.
        """
        value = jax.lax.stop_gradient(value)
        good = jnp.isfinite(value)
        add = lambda old, new: jnp.where(good, self.decay * old + new, old).astype(old.dtype)
        total = add(self.total, jnp.where(good, value, 0))
        return dataclasses.replace(self, total=total, weight=add(self.weight, 1))
