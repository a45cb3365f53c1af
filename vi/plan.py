"""From options to an algorithm: which run approximates a target, and from where it starts."""

from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from optim import a_dog, clip_by_ema_norm
from vi.around import AroundRun
from vi.errors import NonFiniteTargetError, TargetError, blame_model
from vi.families import Delta, Gaussian, Mixture, block, full_rank, low_rank, mean_field
from vi.gaussian.batch_and_match import ScoreSample
from vi.gaussian.estimators import BonnetPrice, SphericalRadial, Stein
from vi.gaussian.low_rank import LowRankSolver
from vi.gaussian.solve import MAX_DENSE, Solver
from vi.options import Estimator, FitOptions, groups_of
from vi.program import (
    DoublyReparameterized,
    Objective,
    Pathwise,
    StickingTheLanding,
    ciwae,
    elbo,
    iwae,
    miwae,
    with_estimator,
)
from vi.program.estimators import MeasureValued, SiteEstimator
from vi.program.views import check_estimator
from vi.random import host_generator
from vi.stochastic import StochasticRun
from vi.targets import Target
from vi.targets.nonfinite import explain
from vi.targets.point import PointTarget
from vi.targets.streamed import StreamedTarget, glance
from vi.upstairs import FlowName, flow

PARTICLES = 10  # of the default objective
LEARNING_RATE = 1e-2  # of Adam, the default with many coordinates
DECAYS = 2  # of that rate, where the number of steps is not given
MAX_TUNING_FREE = 1000  # coordinates up to which an optimizer without a rate is the default
CLIP = 1.5  # running norms of the gradient
RANK = 10
FLOW_PARTICLES = 32
FLOW_LEARNING_RATE = 5e-3  # of Adam at first, with so many particles; by a cosine to zero over ...
FLOW_STEPS = 4000
_SECOND_ORDER = ("full_rank", "mean_field", "block")
_adam = optax.inject_hyperparams(optax.adam)


def plan(
    target: Target, key: Array, options: FitOptions
) -> tuple[Solver | LowRankSolver | AroundRun | StochasticRun, list[str]]:
    """Choose the algorithm for a target.

    Gaussians of any structure are found by the second-order solver, unless an option or a
    minibatched plate asks for stochastic optimisation. A flow, or any family that can be put
    around a Gaussian, starts from the Gaussian so found. All else is optimised stochastically.

    Args:
      target: the target.
      key: the key of the fit.
      options: checked options.

    Returns:
      The run, and sentences that say what was chosen where it was not asked for.
    """
    notes = []
    family = options.family
    if family is None:
        family = "full_rank" if target.dim <= MAX_DENSE else "mean_field"
        if family == "mean_field":
            notes.append(
                f"With D = {target.dim} a full covariance would take {2 * target.dim + 1} "
                "gradients a step, so the family is mean field; family='low_rank' keeps some "
                "of the correlation."
            )
    family = _made(target, key, family)
    if hasattr(family, "run_after"):
        if options.stochastic or target.subsampled:
            raise ValueError(
                "vi.fit: expected all rows and no options of stochastic optimisation for "
                f"{family}, which has nothing to train; leave out objective, estimator, optimizer, "
                "learning_rate, num_steps and positive, and subsample no plate."
            )
        first, notes = None, []
        if family.first is not None:
            first, notes = plan(target, key, FitOptions(init=options.init, family=family.first))
        return family.run_after(target, key, first), notes
    if hasattr(family, "around"):
        if isinstance(target, StreamedTarget):
            raise ValueError(
                "vi.fit: expected a Gaussian, a mixture or a point for vi.Rows; a flow starts from "
                "a Gaussian of all rows in memory. Leave out family."
            )
        return _around(target, key, options, family)
    init = _given(target, options)
    second_order = isinstance(family, str) and family in _SECOND_ORDER
    if second_order and not options.stochastic and not target.subsampled:
        if family != "mean_field" and target.dim > 4 * MAX_DENSE:
            raise ValueError(
                f"vi.fit: expected family='mean_field' or 'low_rank' for D = {target.dim}; a dense "
                f"covariance of that size is out of reach ({family})."
            )
        groups = groups_of(target.layout, options.blocks) if family == "block" else ()
        return Solver(target, key, family, groups, init), notes
    if family == "low_rank" and not options.stochastic and not target.subsampled:
        return LowRankSolver(target, key, options.rank or RANK, init), notes
    if target.subsampled and not options.stochastic:
        notes.append("The model draws minibatches, so the fit is by stochastic gradients.")
    return _stochastic(target, key, options, family, init), notes


def _made(target: Target, key: Array, family: Any) -> Any:
    """The family, where it was given as a function of D or is a flow's name.

    Raises:
      ValueError: if a family that is given has another dimension.
    """
    if isinstance(family, str):
        return flow(family, target.dim, key) if family in get_args(FlowName) else family
    if hasattr(family, "run_after"):
        return family
    q = family
    if isinstance(family, Callable) and not hasattr(family, "log_prob"):
        q = family(target.dim)
    if getattr(q, "dim", None) != target.dim:
        raise ValueError(
            f"vi.fit: expected a family of dimension D = {target.dim}; got {q!r}. Make it with the "
            "target's dimension, vi.target(model, ...).dim."
        )
    return q


def _around(target: Target, key: Array, options: FitOptions, q: Any) -> tuple[AroundRun, list[str]]:
    """A Gaussian by default options, and the family trained around it."""
    first, notes = None, []
    if q.affine is None:
        first, notes = plan(target, key, FitOptions(init=options.init))
    chosen = options.objective is not None or options.estimator is not None
    estimator = _estimator(options, q, target) if chosen else q.default_estimator(FLOW_PARTICLES)
    steps = options.num_steps or FLOW_STEPS
    optimizer = options.optimizer
    if optimizer is None:
        fewer = min(1.0, _averaged(estimator) / FLOW_PARTICLES) ** 0.5  # and so more noise
        rate = options.learning_rate or FLOW_LEARNING_RATE * fewer
        rates = optax.cosine_decay_schedule(rate, steps)
        optimizer = optax.chain(clip_by_ema_norm(CLIP), optax.adam(rates))
    cost = _gradients(estimator, q)
    guarded = options.objective is None
    run = AroundRun(target, key, first, q, estimator, optimizer, steps, cost, guarded=guarded)
    return run, notes


def _given(target: Target, options: FitOptions) -> Array | None:
    """The point to start from, if there is one.

    Raises:
      TargetError: if a value has another shape than its site, or lies outside its support.
    """
    if options.init is None:
        return None
    with blame_model("vi.fit(init=)", (options.init,), {}):
        init = jax.jit(Target.unconstrain)(target, dict(options.init))
    bad = np.flatnonzero(~np.isfinite(init))
    if len(bad):
        names = [target.layout.coordinate(int(i)) for i in bad[:5]]
        raise TargetError(
            f"vi.fit: expected values inside the supports of their sites in init; got values on or "
            f"outside the edge for {names}. Choose values inside."
        )
    return init


def _stochastic(
    target: Target, key: Array, options: FitOptions, family: Any, init: Array | None
) -> StochasticRun:
    loc = start(target, key) if init is None else init
    q = _family(target, options, family, loc)
    estimator = _estimator(options, q, target)
    optimizer, decays = _optimizer(target, options, q)
    cost = _gradients(estimator, q)
    aim = PointTarget(target) if isinstance(q, Delta) else target
    return StochasticRun(aim, q, key, estimator, optimizer, options.num_steps, cost, decays)


def _optimizer(
    target: Target, options: FitOptions, q: Any
) -> tuple[optax.GradientTransformation, int]:
    """The optimizer, and how often its learning rate may fall; by `benchmarks.optimizers`."""
    if options.optimizer is not None:
        return options.optimizer, 0
    if isinstance(q, Delta) and not target.subsampled:
        return optax.lbfgs(options.learning_rate), 0
    if options.learning_rate is None and target.dim <= MAX_TUNING_FREE:
        return optax.chain(clip_by_ema_norm(CLIP), a_dog()), 0
    return _adam(learning_rate=options.learning_rate or LEARNING_RATE), DECAYS


def _family(target: Target, options: FitOptions, family: Any, loc: Array) -> Any:
    """The family to start from, at ``loc`` with standard deviation 0.1 if it is only named."""
    dim, positive = target.dim, options.positive or "linear"
    small = {"loc": loc, "scale": 0.1, "positive": positive}
    if family == "mean_field":
        return mean_field(dim, **small)
    if family == "full_rank":
        return full_rank(dim, **small)
    if family == "block":
        return block(groups_of(target.layout, options.blocks), **small)
    if family == "low_rank":
        return low_rank(dim, min(options.rank or RANK, dim), **small)
    if family == "delta":
        return Delta(loc)
    return family


def _estimator(options: FitOptions, q: Any, target: Target) -> Any:
    """The objective under the estimator chosen: a value called as ``(key, q, target)``."""
    chosen = options.estimator
    if chosen is not None and not isinstance(chosen, (*get_args(Estimator), ScoreSample)):
        names = ", ".join(kind.__name__ for kind in get_args(Estimator))
        raise TypeError(
            f"vi.fit: expected an estimator out of {names}; got {chosen!r}. To write your own "
            "objective use vi.objective."
        )
    if isinstance(chosen, get_args(SiteEstimator)):
        check_estimator("vi.fit", chosen, q)
    if isinstance(chosen, (BonnetPrice, SphericalRadial, Stein, ScoreSample)):
        if options.objective is not None or not isinstance(q, Gaussian):
            raise ValueError(
                f"vi.fit: expected the default objective (the ELBO) and a Gaussian family with the "
                f"estimator {type(chosen).__name__}; got objective={options.objective!r}, family "
                f"{type(q).__name__}. Use vi.Pathwise() or vi.StickingTheLanding()."
            )
        return chosen
    if options.objective is not None:
        open_ = getattr(options.objective, "estimator", None) is None and chosen is None
        if open_ and _is_weighted(options.objective) and not isinstance(q, Mixture):
            chosen = DoublyReparameterized()  # noise of pathwise gradients grows with particles
        return options.objective if chosen is None else with_estimator(options.objective, chosen)
    if chosen is None and target.subsampled and isinstance(q, Gaussian):
        return Stein(PARTICLES)  # the noise of the minibatch hides what sticking the landing gains
    default = Pathwise() if isinstance(q, Delta) else StickingTheLanding()
    particles = 1 if isinstance(q, Delta) else PARTICLES
    return elbo(num_particles=particles, estimator=chosen or default)


def _is_weighted(objective: Any) -> bool:
    """Whether it is an importance-weighted bound."""
    programs = {bound.__wrapped__ for bound in (iwae, miwae, ciwae)}  # type: ignore[attr-defined]
    return getattr(objective, "program", None) in programs


def _averaged(estimator: Any) -> int:
    """Terms that an estimate is the mean of: particles, or bounds of several particles each.

    An objective without an option for either says nothing of it, and counts as the default's.
    """
    if not isinstance(estimator, Objective):
        return estimator.num_particles
    options = dict(estimator.options)
    if not options.keys() & {"num_particles", "num_bounds"}:
        return FLOW_PARTICLES
    bounds = _is_weighted(estimator) or "num_bounds" in options
    particles = 1 if bounds else options.get("num_particles", 1)
    return particles * options.get("num_bounds", 1)


def _gradients(estimator: Any, q: Any) -> int:
    """Gradients of the log density that one estimate takes."""
    if isinstance(estimator, SphericalRadial):
        return 2 * q.dim + 1
    if isinstance(estimator, BonnetPrice):
        return estimator.num_samples * (q.dim + 1)
    if isinstance(estimator, (Stein, ScoreSample)):
        return estimator.num_samples
    if not isinstance(estimator, Objective):
        return estimator.num_particles
    options = dict(estimator.options)
    particles = options.get("num_particles", 1) * options.get("num_bounds", 1)
    if isinstance(getattr(estimator, "estimator", None), MeasureValued):
        return particles * (4 * q.dim + 1)  # values, not gradients
    return particles * (q.num_components if isinstance(q, Mixture) else 1)


def start(target: Target, key: Array) -> Array:
    """A point to start stochastic optimisation from: the best of eight random ones.

    Raises:
      NonFiniteTargetError: if the density or its gradient is not finite at any of them.
    """
    generator = host_generator(key, 0)
    spread = np.array([0.1, 2, 2, 2, 1, 1, 0.5, 0.01])[:, None]
    points = spread * generator.uniform(-1, 1, (8, target.dim))
    points = points.astype(target.layout.dtype)
    values, gradients = _look(glance(target), points)
    finite = np.isfinite(values) & np.isfinite(gradients).all(1)
    if not finite.any():
        raise NonFiniteTargetError(
            "vi.fit: expected a finite log density and gradient at a start; at "
            f"{len(points)} random points within ±2 (unconstrained) they are not: "
            f"{explain(target, jnp.asarray(points[0]))}. Check the data and priors, or pass init=."
        )
    return jnp.asarray(points[int(np.argmax(np.where(finite, values, -np.inf)))])


@jax.jit
def _look(target: Target, points: Array) -> tuple[Array, Array]:
    return target.values_and_grads(points)
