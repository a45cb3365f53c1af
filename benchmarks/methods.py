"""The optimizers that `benchmarks.optimizers` compares, with what one of their steps costs."""

import functools
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
SHARES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
KEY = jax.random.key(0)
HVP = 2.0  # gradients that a Hessian-vector product costs


class Method(NamedTuple):
    """An optimizer, its learning rates to choose from, and its cost."""

    label: str
    make: Callable  # (learning rate or None, steps) -> transformation
    rates: tuple[float, ...] = ()  # the first to be tried; none: nothing is tuned
    # Gradients of the loss in a step, from the dimension and the number of parameters.
    cost: Callable[[int, int], float] = lambda dim, parameters: 1.0
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


def _newton_cost(dim: int, parameters: int) -> float:
    """Gradient, Hessian, and about one try."""
    return 2.0 + HVP * parameters


def _is_small(problem: Problem, parameters: int) -> bool:
    return parameters <= 1000


def _is_full_rank(problem: Problem, parameters: int) -> bool:
    return isinstance(problem.start().scale, DenseScale)


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
    "nigt": Method("NIGT, cosine, averaged", _cosine(optim.nigt), LENGTHS),
    "psgd": Method(
        "PSGD (low rank, Newton), cosine, averaged",
        *(_cosine(functools.partial(optim.psgd, KEY)), WIDE),
        cost=lambda dim, parameters: 1.0 + HVP,
    ),
    "fosi": Method(
        "FOSI around Adam, cosine, averaged",
        *(_cosine(lambda rate: optim.fosi(KEY, optax.adam(rate))), WIDE),
        cost=lambda dim, parameters: 1.0 + HVP * 41 / 100,  # 41 products every 100 steps
    ),
    "mfac": Method(
        "M-FAC, cosine, averaged",
        *(_cosine(optim.mfac), SHARES),
        applies=_is_small,  # for its time, not its memory
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
        cost=lambda dim, parameters: 2.0 + HVP * parameters / 10,  # Hessian every 10, about one try
        extend=3,
        applies=_is_small,
    ),
    "saddle_free_newton": Method(
        "saddle-free Newton (Krylov 10), averaged",
        _averaged(lambda *_: optim.saddle_free_newton(krylov_dim=10)),
        cost=lambda dim, parameters: 1.0 + 11 * HVP,
        extend=3,
    ),
    "gauss_newton": Method(
        "Gauss-Newton over draws, averaged",
        _averaged(lambda *_: optim.gauss_newton()),
        cost=lambda dim, parameters: 1.0 + HVP * dim,  # the Hessian is by the draws
        extend=3,
        applies=_is_small,
    ),
    "damped_newton": Method(
        "damped Newton, universal",
        lambda *_: optim.damped_newton(),
        cost=_newton_cost,
        extend=3,
        applies=lambda problem, parameters: problem.fixed,
    ),
    "oasis": Method(
        "OASIS, averaged",
        _averaged(lambda *_: optim.oasis(KEY)),
        cost=lambda dim, parameters: 2.0 + 8 * HVP,  # two gradients, eight probes
        extend=3,
    ),
}

QUICK = ("adam_cosine", "adam", "adam_default", "normalized_a_dog", "dowg", "lbfgs", "lazy_newton")
