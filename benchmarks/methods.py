"""The optimizers that `benchmarks.optimizers` compares, with what one of their steps costs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import optim
import vi
from benchmarks.problems import Problem
from optim import polynomial_average
from vi.families.scale import DenseScale

WIDE = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
DECADES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
LENGTHS = (1e-2, 3e-2, 1e-1, 3e-1, 1.0)


class Method(NamedTuple):
    """An optimizer, its learning rates to choose from, and its cost."""

    label: str
    make: Callable  # (learning rate or None, steps) -> transformation
    rates: tuple[float, ...] = ()  # none: nothing is tuned
    cost: Callable[[int], float] = lambda parameters: 1.0  # gradients of the loss in a step
    extend: int = 1  # how far beyond the budget to run: cheaper in time than in gradients
    applies: Callable[[Problem, int], bool] = lambda problem, parameters: True
    lbfgs: bool = False


def _averaged(make: Callable) -> Callable:
    return lambda rate, steps: polynomial_average(make(rate, steps))


def _cosine(base: Callable) -> Callable:
    return _averaged(lambda rate, steps: base(optax.cosine_decay_schedule(rate, steps)))


def _transport_adam(rate: Any) -> optax.GradientTransformation:
    manifolds = vi.Gaussian(optim.Euclidean(), DenseScale(optim.BuresWassersteinRoot()))
    return optim.riemannian_adam(rate, manifolds)


def _is_full_rank(problem: Problem, parameters: int) -> bool:
    return isinstance(problem.start().scale, DenseScale)


HVP = 2.0  # gradients that a Hessian-vector product costs

METHODS: dict[str, Method] = {
    "adam_cosine": Method("Adam, cosine, averaged", _cosine(optax.adam), WIDE),
    "adam": Method("Adam, averaged", _averaged(lambda rate, _: optax.adam(rate)), WIDE),
    "sgd_cosine": Method("SGD, cosine, averaged", _cosine(optax.sgd), DECADES),
    "normalized_momentum": Method(
        "normalised momentum, cosine, averaged", _cosine(optim.normalized_momentum), LENGTHS
    ),
    "riemannian_adam": Method(
        "Bures-Wasserstein Adam, cosine, averaged",
        *(_cosine(_transport_adam), WIDE),
        applies=_is_full_rank,
    ),
    "adam_default": Method(
        "Adam 0.01, averaged", _averaged(lambda rate, _: optax.adam(rate)), (0.01,)
    ),
    "normalized_a_dog": Method(
        "normalised A-DoG, averaged", _averaged(lambda *_: optim.a_dog(normalize=True))
    ),
    "a_dog": Method("A-DoG", lambda *_: optim.a_dog()),
    "clipped_a_dog": Method(
        "A-DoG clipped at 3, averaged",
        _averaged(lambda *_: optax.chain(optim.clip_by_ema_norm(), optim.a_dog())),
    ),
    "tightly_clipped_a_dog": Method(
        "A-DoG clipped at 1.5, averaged",
        _averaged(lambda *_: optax.chain(optim.clip_by_ema_norm(1.5), optim.a_dog())),
    ),
    "dowg": Method("DoWG, averaged", _averaged(lambda *_: optim.dowg())),
    "dog": Method("DoG, averaged", _averaged(lambda *_: optim.dog())),
    "layerwise_dog": Method("L-DoG, averaged", _averaged(lambda *_: optim.layerwise_dog())),
    "lbfgs": Method("L-BFGS on fixed draws", lambda *_: optax.lbfgs(), extend=2, lbfgs=True),
    "lazy_newton": Method(
        "lazy lagged Newton, averaged",
        _averaged(lambda *_: optim.lazy_newton()),
        cost=lambda parameters: 2.0 + HVP * parameters / 10,  # Hessian every 10, about one try
        extend=3,
        applies=lambda problem, parameters: parameters <= 1000,
    ),
    "oasis": Method(
        "OASIS, averaged",
        _averaged(lambda *_: optim.oasis(jax.random.key(0))),
        cost=lambda parameters: 2.0 + 8 * HVP,  # two gradients, eight probes
        extend=3,
    ),
}

QUICK = ("adam_cosine", "adam", "adam_default", "normalized_a_dog", "dowg", "lbfgs", "lazy_newton")
