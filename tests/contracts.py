"""The registry: everything listed here must keep the contracts of `test_contracts`.

A new method adds one line. The contracts: the dtype is kept, `jit` equals eager, `vmap` equals a
loop, one trace serves all values of one shape, what is saved loads to the same bits, an
interrupted run goes on to the same bits, and gradients agree with finite differences.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

import vi
from optim import polynomial_average
from tests import models
from vi import gaussian
from vi.families.scale import LowRankScale

DIM = 3


def target(dtype: Any) -> vi.Target:
    """A smooth density without symmetry, in three dimensions."""
    weights = np.linspace(0.5, 1.5, DIM).astype(dtype)
    density = lambda x, w: -jnp.sum(w * x**2) - jnp.sum(jnp.cosh(0.3 * x)) - 0.2 * x[0] * x[1]
    return vi.target(density, jnp.zeros(DIM, dtype), weights)


def _low_rank(loc: Any) -> vi.Gaussian:
    factor = jnp.asarray(np.linspace(-0.5, 0.7, 2 * DIM).reshape(DIM, 2), loc.dtype)
    return vi.Gaussian(loc, LowRankScale.of(jnp.ones(DIM, loc.dtype), factor))


def _mixture(loc: Any) -> vi.Mixture:
    return vi.mixture([vi.full_rank(DIM, loc=loc), vi.full_rank(DIM, loc=-loc)], [0.3, 0.7])


# A family from its location, of shape (DIM,), whose dtype it keeps.
FAMILIES: dict[str, Callable] = {
    "delta": vi.Delta,
    "mean_field": lambda loc: vi.mean_field(DIM, loc=loc, scale=0.7),
    "mean_field_exp": lambda loc: vi.mean_field(DIM, loc=loc, scale=0.7, positive="exp"),
    "full_rank": lambda loc: vi.full_rank(DIM, loc=loc, scale=0.7),
    "full_rank_softplus": lambda loc: vi.full_rank(DIM, loc=loc, positive="softplus"),
    "block": lambda loc: vi.block(((0, 2), (1,)), loc=loc, scale=0.7),
    "low_rank": _low_rank,
    "mixture": _mixture,
}


class Estimator(NamedTuple):
    """An estimate of the gradient of the ELBO, as `vi.fit` takes it."""

    make: Callable  # () -> (key, q, target) -> (loss, grads)
    family: str = "full_rank"
    differentiable: bool = False  # whether grads are those of the loss at the same key


ESTIMATORS: dict[str, Estimator] = {
    "elbo_pathwise": Estimator(lambda: vi.elbo(num_particles=4), differentiable=True),
    "elbo_pathwise_mixture": Estimator(lambda: vi.elbo(num_particles=4), "mixture", True),
    "elbo_sticking_the_landing": Estimator(
        lambda: vi.elbo(num_particles=4, estimator=vi.StickingTheLanding())
    ),
    "elbo_score": Estimator(lambda: vi.elbo(num_particles=4, estimator=vi.Score())),
    "iwae_pathwise": Estimator(lambda: vi.iwae(num_particles=4), differentiable=True),
    "iwae_doubly": Estimator(
        lambda: vi.iwae(num_particles=4, estimator=vi.DoublyReparameterized())
    ),
    "iwae_score": Estimator(lambda: vi.iwae(num_particles=4, estimator=vi.Score())),
    "miwae": Estimator(lambda: vi.miwae(num_bounds=2, num_particles=2), differentiable=True),
    "ciwae": Estimator(lambda: vi.ciwae(num_particles=4, beta=0.3), differentiable=True),
    "piwae": Estimator(lambda: vi.piwae(num_bounds=2, num_particles=2)),
    "renyi": Estimator(lambda: vi.renyi(num_particles=4, alpha=0.5), differentiable=True),
    "chi_square": Estimator(lambda: vi.chi_square(num_particles=4), differentiable=True),
    "tempered_elbo": Estimator(
        lambda: vi.tempered_elbo(num_particles=4, temperature=0.5), differentiable=True
    ),
    "reweighted_wake_sleep": Estimator(lambda: vi.reweighted_wake_sleep(num_particles=4)),
    "forward_kl": Estimator(lambda: vi.forward_kl(num_particles=4)),
    "symmetric_kl": Estimator(lambda: vi.symmetric_kl(num_particles=4)),
    "f_divergence": Estimator(
        lambda: vi.f_divergence(num_particles=4, generator=jnp.negative), differentiable=True
    ),
    "log_variance": Estimator(lambda: vi.log_variance(num_particles=4)),
    "bonnet_price": Estimator(lambda: gaussian.BonnetPrice(4)),
    "stein": Estimator(lambda: gaussian.Stein(16)),
    "spherical_radial": Estimator(lambda: gaussian.SphericalRadial()),
    "score_sample": Estimator(lambda: gaussian.ScoreSample(16)),
}


class Optimizer(NamedTuple):
    """An optimizer, with an estimator whose gradients it takes."""

    make: Callable
    estimator: str = "elbo_sticking_the_landing"
    family: str = "full_rank"


OPTIMIZERS: dict[str, Optimizer] = {
    "polynomial_average": Optimizer(lambda: polynomial_average(optax.adam(0.05))),
    "natural_gradient": Optimizer(lambda: gaussian.natural_gradient(0.3), "spherical_radial"),
    "natural_gradient_mean_field": Optimizer(
        lambda: gaussian.natural_gradient(0.3), "spherical_radial", "mean_field"
    ),
    "forward_backward": Optimizer(lambda: gaussian.forward_backward(0.1), "bonnet_price"),
    "bures_wasserstein": Optimizer(lambda: gaussian.bures_wasserstein(0.02), "bonnet_price"),
    "batch_and_match": Optimizer(lambda: gaussian.batch_and_match(1.0), "score_sample"),
}

# Models of NumPyro that go through `vi.fit`, save and load: name -> (model, arguments).
MODELS: dict[str, tuple] = {
    "schools": (models.schools, (models.SCHOOLS_Y, models.SCHOOLS_SIGMA)),
    "logistic": (models.logistic, models.logistic_data()),
}
